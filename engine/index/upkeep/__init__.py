"""The upkeep of an index: checkpoints, rebuilding, audit, and the records that a compaction must keep."""
