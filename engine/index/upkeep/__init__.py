"""What keeps an index alive and right: checkpoints, rebuilding, auditing, and which records a compaction needs."""
