"""Other archives, whether they speak DICOM or DICOMweb: asked, sent to, pulled from, at once or as jobs."""
