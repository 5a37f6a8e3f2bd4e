"""The life cycle of instances: deletion, holds, corrections, retention, compaction, scrub, damage, quarantine."""
