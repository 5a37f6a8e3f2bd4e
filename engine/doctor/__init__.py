"""`filmroom doctor`: looks at everything a server needs, measures the disk, and says what to do."""
