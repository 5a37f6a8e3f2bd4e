"""Jobs that send to and pull from other archives, kept in small files so that they survive a restart."""
