"""The life of what is stored: deletion, holds, retention, compaction, scrubbing, quarantine."""
