"""Inputs besides DICOM from hospitals and tools: volumes, folders of slices, archives."""
