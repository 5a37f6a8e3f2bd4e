"""OHIF, the viewer at /ohif: obtained as its authors publish it, prepared once, kept in a folder of its own."""
