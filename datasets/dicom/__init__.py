"""DICOM studies: headers, series and slices, geometry, pixels, what names the patient."""
