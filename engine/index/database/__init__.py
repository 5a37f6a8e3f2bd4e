"""LMDB under the index: the environment, its transactions, the turn to write, its file as bytes."""
