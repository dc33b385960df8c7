"""All trainings of a pipeline by one command."""
