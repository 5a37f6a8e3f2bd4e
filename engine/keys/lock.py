"""The lock of an archive's keys: who holds it may replace or change the files with keys."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.errors import KeyStoreError

if TYPE_CHECKING:
    from engine.storage.files import Files

PATIENCE_S: Final = 10.0
"""How long to wait for another process."""

POLL_S: Final = 0.002
"""A key of a study takes less than this to write."""

_pause = threading.Event()


@contextmanager
def hold(data: Path, files: Files) -> Iterator[None]:
    """Holds the lock of an archive: one thread of one process at a time. Raises KeyStoreError."""
    path = str(data / "keys.lock")
    try:
        fd = files.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise KeyStoreError(f"{path} cannot be locked: {error.strerror}") from error
    try:
        give_up_s = time.monotonic() + PATIENCE_S
        while not files.lock(fd):
            if time.monotonic() > give_up_s:
                raise KeyStoreError("another process changes the keys")
            _pause.wait(POLL_S)
        yield
    finally:
        files.close(fd)
