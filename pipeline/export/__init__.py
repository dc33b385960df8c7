"""The pipeline as one folder that runs without torch."""
