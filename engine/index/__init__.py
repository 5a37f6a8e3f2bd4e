"""The index: the place and the searchable attributes of every instance. LMDB; derived from the log, disposable."""
