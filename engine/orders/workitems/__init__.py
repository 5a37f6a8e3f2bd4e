"""Workitems: unified procedure steps (UPS, PS3.4 CC) of the registry."""
