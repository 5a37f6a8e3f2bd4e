"""The change feed: what happened to the archive, one event after another, for subscribers that follow it."""
