"""The nouns: annotation types, DICOM studies, label sets, splits, crops, quality control."""
