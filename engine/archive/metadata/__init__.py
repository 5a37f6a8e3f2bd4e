"""The metadata of each series for HTTP, kept ready to be sent."""
