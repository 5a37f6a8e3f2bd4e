"""Import and export of files, archives and DICOMDIR media."""
