"""A cache of files under digests of their keys, bounded in bytes. The least recently used files are removed first.

    metadata/ab/ab3f…-51c0…      the first digest is of an owner, the second of a variant of it

Several processes share one folder: a file appears whole under its name, and its reader must check the content. Nothing
is synced, since a file that a power cut has damaged counts as missing. A failure of the disk never fails a caller: a
file that cannot be written is missing, and the log says so once.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final

from engine import log
from engine.archive.sealing import MAGIC, PLAIN, Sealing, Unsealable, unseal
from engine.errors import KeyMissing, for_log

logger = log.get("archive.metadata")

_PURPOSE: Final = b"cache"
HEAD_BYTES: Final = 4096
"""Bytes that `heads` reads of a file."""

_USED_EVERY_S: Final = 3600
"""A read updates the time of last use at most this often."""
_TRIMMED_TO: Final = 0.9
_TRIM_AFTER: Final = 16
"""The folder is trimmed when a process has written this share of its limit."""
_LEFT_OVER_S: Final = 3600
"""After this time, a file under a temporary name is an abandoned one."""


class BlobFiles:
    """One folder. Thread-safe; blocks."""

    def __init__(self, folder: Path, *, bytes_max: int, reserve_bytes: int = 0, sealing: Sealing = PLAIN) -> None:
        """`reserve_bytes`: must stay free on the disk. `sealing`: encrypts the files."""
        self._folder = folder
        self._sealing = sealing
        self._bytes_max = bytes_max
        self._reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._written_bytes = bytes_max  # earlier writes are unknown: the first write trims
        self._has_complained = False

    def read(self, owner: bytes, variant: bytes) -> bytes | None:
        """The content of a file; None if there is none."""
        path = self._path(owner, variant)
        try:
            with open(path, "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                data = file.read()
            if time.time() - status.st_mtime > _USED_EVERY_S:
                os.utime(path)
        except OSError:
            return None
        return self._opened(path, data)

    def write(self, owner: bytes, variant: bytes, data: bytes) -> None:
        """Replaces a file, unless the disk is full or the file exceeds the bound."""
        path = self._path(owner, variant)
        data = self._sealing.seal(_PURPOSE, data, path.name.encode())
        if len(data) > self._bytes_max // 2:
            return
        beside = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.new")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = os.statvfs(path.parent)
            if status.f_bavail * status.f_frsize < self._reserve_bytes + len(data):
                return
            try:
                with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0) as file:
                    view = memoryview(data)
                    while view:
                        view = view[file.write(view) :]
                os.replace(beside, path)
            except OSError:
                with contextlib.suppress(OSError):
                    beside.unlink()
                raise
        except OSError as error:
            self._complain(error)
            return
        with self._lock:
            self._written_bytes += len(data)
            is_due = self._written_bytes * _TRIM_AFTER >= self._bytes_max
            if is_due:
                self._written_bytes = 0
        if is_due:
            self.trim()

    def heads(self) -> Iterator[tuple[bytes, Path]]:
        """The first bytes of each file, HEAD_BYTES at most, and its path for `remove`."""
        for path in self._all():
            try:
                with open(path, "rb", buffering=0) as file:
                    data = file.read(HEAD_BYTES)
                    if data.startswith(MAGIC):
                        # It can be decrypted as a whole only.
                        data = (self._opened(path, data + file.read()) or b"")[:HEAD_BYTES]
            except OSError:
                continue
            yield data, path

    def remove(self, path: Path) -> None:
        """Removes a file that `heads` has yielded."""
        with contextlib.suppress(OSError):
            path.unlink()

    def trim(self) -> None:
        """Removes the least recently used files until the rest is within the limit."""
        files = []
        total = 0
        for path in self._all():
            with contextlib.suppress(OSError):
                status = path.stat()
                if path.name.endswith(".new"):
                    if time.time() - status.st_mtime > _LEFT_OVER_S:
                        self.remove(path)
                    continue
                files.append((status.st_mtime, status.st_size, path))
                total += status.st_size
        if total <= self._bytes_max:
            return
        for _, size, path in sorted(files):
            self.remove(path)
            total -= size
            if total <= self._bytes_max * _TRIMMED_TO:
                return

    def _opened(self, path: Path, data: bytes) -> bytes | None:
        """The content of a file; None if it cannot be decrypted, or must not lie there as it is."""
        if self._sealing.data_key is not None and not data.startswith(MAGIC):
            self.remove(path)  # from before the archive had keys
            return None
        try:
            return unseal(_PURPOSE, data, path.name.encode())
        except (Unsealable, KeyMissing):
            return None

    def _path(self, owner: bytes, variant: bytes) -> Path:
        name = _digest(owner)
        return self._folder / name[:2] / f"{name}-{_digest(variant)}"

    def _all(self) -> Iterator[Path]:
        for folder in self._in(self._folder):
            yield from self._in(folder)

    def _in(self, folder: Path) -> list[Path]:
        try:
            return sorted(folder.iterdir())
        except OSError:
            return []

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            self._has_complained = True
            logger.warning("metadata cannot be cached", reason=error.strerror or for_log(error))


def _digest(text: bytes) -> str:
    return blake2b(text, digest_size=16).hexdigest()
