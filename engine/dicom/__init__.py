"""The vocabulary of PS3.5, PS3.6 and PS3.10: pure functions over bytes, no I/O. Imports nothing but errors and _ext."""
