"""Jobs: what is sent to and pulled from other archives, kept in small files so that it survives a restart."""
