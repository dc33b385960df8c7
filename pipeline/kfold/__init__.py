"""Cross-validation of detectors, classifiers and whole recipes."""
