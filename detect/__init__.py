"""Detectors: training, validation, prediction and export behind one interface."""
