"""Leases (`engine.lease`) of one machine: flocks on files in DATA, which end with their process.

A term is not needed, and the epoch is always 0. Files may be removed by people; `check` finds that another process
could have the lease by now.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from engine.errors import LeaseLost
from engine.lease import Grant
from engine.storage.files import Files, raise_write_error


class FileLeases:
    """Flocks on the files NAME.lock of a folder."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder = folder
        self._files = files
        self._lock = threading.Lock()
        self._fds: dict[Grant, int] = {}
        """The descriptor of each grant that has not been released."""

    def acquire(self, name: str, term_s: float = 0.0) -> Grant | None:
        """The lease, until it is released or the process ends."""
        path = str(self._folder / f"{name}.lock")
        try:
            fd = self._files.open(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise_write_error(error, f"open {path}")
        try:
            is_ours = self._files.lock(fd)
        except BaseException:
            self._files.close(fd)
            raise
        if not is_ours:
            self._files.close(fd)
            return None
        grant = Grant(name, 0)
        with self._lock:
            self._fds[grant] = fd
        return grant

    def renew(self, grant: Grant, term_s: float = 0.0) -> None:
        """Nothing is to be renewed."""
        self.check(grant)

    def release(self, grant: Grant) -> None:
        """Closes the file, which ends the flock."""
        with self._lock:
            fd = self._fds.pop(grant, -1)
        if fd >= 0:
            self._files.close(fd)

    def check(self, grant: Grant) -> None:
        """Raises LeaseLost after the release, and if the file has been removed."""
        with self._lock:
            fd = self._fds.get(grant, -1)
            if fd < 0 or not self._files.is_linked(fd):
                raise LeaseLost(f"the lease {grant.name} is lost: its file has been removed, or it was released")
