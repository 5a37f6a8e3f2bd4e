"""asyncio for DICOM: the only code that touches those sockets. Does not know services: its users are handed in."""
