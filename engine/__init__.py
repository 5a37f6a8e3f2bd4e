"""Filmroom: a PACS storage engine. The map of the code is engine/README.md."""

__version__ = "0.1.0"
