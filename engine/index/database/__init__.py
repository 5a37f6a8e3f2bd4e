"""LMDB under the index: the environment, its transactions, whose turn it is to write, its file as bytes."""
