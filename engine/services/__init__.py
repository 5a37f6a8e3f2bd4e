"""PS3.4 service classes, one role a file. They meet the archive, the messages and a connection; nothing else."""
