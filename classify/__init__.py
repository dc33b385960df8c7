"""Classifiers of crops: training, validation, prediction and export."""
