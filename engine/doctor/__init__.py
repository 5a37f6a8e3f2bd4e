"""`filmroom doctor`: checks everything that a server needs, measures the disk, and gives advice."""
