"""The archive and its object store: segments and tail go there, and what is only there is read from there."""
