"""The writing side of the index: what each kind of record does to it, in any order and any number of times."""
