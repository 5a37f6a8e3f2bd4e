"""The LMDB environment of the index, its transactions, the turn to write, and LMDB's file as bytes."""
