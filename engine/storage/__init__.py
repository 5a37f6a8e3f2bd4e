"""The append-only log of records in segments. Knows nothing of DICOM. Formats: `record`, `segment`, `hints`."""
