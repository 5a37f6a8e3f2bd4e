"""The life of what is stored: deletion, holds, corrections, retention, compaction, scrubbing, damage, quarantine."""
