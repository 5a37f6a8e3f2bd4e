"""Exchange with other archives over DICOM or DICOMweb: verifies them, sends to them, pulls from them, also as jobs."""
