"""The format of the index's content: keys, rows, entries, statements, search keys. Opens nothing."""
