"""Evaluation of the pipeline against ground truth."""
