"""The append-only log: bytes, keys, positions. Knows nothing of DICOM. Formats: `record`, `segment`, `hints`."""
