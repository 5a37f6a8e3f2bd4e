"""The processes of a running server: one supervisor, one worker a core, one caretaker, and their messages."""
