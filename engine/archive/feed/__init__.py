"""The change feed: the events of the archive, one after another, for subscribers that follow it."""
