"""Storage commitment in the archive: requests that await their report, and the verdict on their instances."""
