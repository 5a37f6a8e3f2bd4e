"""Files that come and go: import, export, DICOMDIR media."""
