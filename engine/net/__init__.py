"""asyncio for DICOM: the only code that touches DICOM sockets. It knows no services: callers pass in the users."""
