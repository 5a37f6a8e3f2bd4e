"""The archive API under /api/: what PS3.18 lacks and a page for people needs. One noun a module; JSON in and out."""
