"""Export of the pipeline as one folder that runs without torch."""
