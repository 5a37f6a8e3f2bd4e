"""The keys of an encrypted archive: where they come from, how they are wrapped, and that they stay in the process."""
