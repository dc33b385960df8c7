"""The pipeline scored against ground truth."""
