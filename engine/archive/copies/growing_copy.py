"""The copy of a file that only grows: of the audit log, in a backup or replica."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from engine.storage.files import raise_write_error

if TYPE_CHECKING:
    from engine.storage.files import Files


def open_copy(path: Path, files: Files) -> int:
    """The copy as it is, or an empty one. Raises StorageFull, StorageFailed."""
    try:
        return files.open(str(path), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise_write_error(error, f"open {path}")


def begin_anew(fd: int, path: Path, files: Files) -> int:
    """Renames a copy of another file, which is evidence, and opens an empty one in its place; closes `fd`.

    When it raises StorageFull, StorageFailed or OSError, `fd` is still open.
    """
    set_aside(path, files)
    new = open_copy(path, files)
    files.close(fd)
    return new


def set_aside(path: Path, files: Files) -> None:
    """Renames a copy of another file, which is evidence. Raises StorageFailed."""
    number = sum(1 for _ in path.parent.glob(f"{path.name}.old-*")) + 1
    files.rename(str(path), f"{path}.old-{number}")
