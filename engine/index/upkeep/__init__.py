"""The upkeep of an index: checkpoints, rebuilds, audits, and the decision which records a compaction must keep."""
