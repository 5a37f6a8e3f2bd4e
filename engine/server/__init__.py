"""The processes of a running server: one supervisor, one worker a core, and how they talk to each other."""
