"""What the index keeps, as bytes and as values: keys, rows, entries, statements, search keys. Opens nothing."""
