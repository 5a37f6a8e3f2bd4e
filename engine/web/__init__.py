"""DICOMweb (PS3.18) and what else is served over HTTP."""
