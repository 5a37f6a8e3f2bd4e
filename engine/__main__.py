"""`python -m engine`: the same as `filmroom`."""

from __future__ import annotations

from engine.cli import main

if __name__ == "__main__":
    main()
