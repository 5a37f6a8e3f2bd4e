"""The administration of an archive as plain data, for the command line and for HTTP."""
