"""Training of all networks of a pipeline with one command."""
