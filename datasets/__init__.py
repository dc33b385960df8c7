"""Annotation types, DICOM studies, label sets, splits, crops and quality control."""
