"""The PS3.4 service classes, one role a file. A service uses the archive, the messages and a connection only."""
