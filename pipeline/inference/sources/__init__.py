"""Inputs of the pipeline: the cases of a source, and the frame that the models see of each."""
