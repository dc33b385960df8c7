"""Studies from a PACS and results back to it, over DICOMweb and DIMSE."""
