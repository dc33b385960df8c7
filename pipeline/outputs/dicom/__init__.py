"""Results as DICOM: structured report, presentation state, secondary capture."""
