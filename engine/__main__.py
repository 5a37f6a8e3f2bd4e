"""`python -m engine`: the same as `filmroom`."""

from __future__ import annotations

from engine import interpreter

interpreter.keep_out_the_current_folder()

from engine.cli import main  # noqa: E402 - must not import anything from the current folder

if __name__ == "__main__":
    main()
