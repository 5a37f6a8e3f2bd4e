"""The writing side of the index: applies each kind of record, in any order and any number of times."""
