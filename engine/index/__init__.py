"""The index: where every instance lies and what can be asked about it. LMDB; derived from the log, disposable."""
