"""The one way in: C-STORE, import, replica and HTTP alike."""
