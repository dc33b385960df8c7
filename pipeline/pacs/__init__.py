"""Transfer of studies from a PACS and of results to it, over DICOMweb and DIMSE."""
