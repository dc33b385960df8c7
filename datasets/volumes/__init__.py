"""What hospitals and tools hand out beside DICOM: volumes, folders of slices, archives."""
