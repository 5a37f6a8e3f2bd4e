"""Data sets by PS3.5, PS3.6 and PS3.10: pure functions over bytes, no I/O. Imports only errors and _ext."""
