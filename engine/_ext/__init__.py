"""Where the compiled modules land: ext/<stem>.pyx is engine._ext.<stem>. Each has one door above it."""
