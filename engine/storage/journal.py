"""Journal: a file of small notes, each durable: the content of a backup or a replica, the sealed segments.

    <crc32c, 8 hex digits> <JSON>\\n        one note a line

Bytes after the last whole line are a note that was being written when the power went; the next note overwrites them. A
damaged line before a whole one has rotted: it is skipped, and `is_whole` is false. Knows nothing of the notes' meaning.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import orjson

from engine.storage.files import Files, raise_write_error, replace_file
from engine.storage.record import crc32c


class Journal:
    """One file, opened and read; for one process and thread."""

    def __init__(self, path: str, files: Files) -> None:
        """Opens the file, creates it if there is none. Raises StorageError or OSError."""
        self._path = path
        self._files = files
        try:
            self._fd = files.create(path)
        except FileExistsError:
            self._fd = files.open(path, os.O_RDWR)
        self.notes: list[list[object]] = []
        """The notes in the file when it was opened."""
        self.is_whole = True
        """Whether the file shows no loss of notes."""
        self._end = 0
        try:
            files.sync_directory(os.path.dirname(path))
            self._read()
        except BaseException:
            files.close(self._fd)
            raise

    def _read(self) -> None:
        self.notes, self.is_whole, self._end = _parse(self._files, self._fd)

    def append(self, notes: Sequence[Sequence[object]]) -> None:
        """Appends notes, durably. Raises StorageFull or StorageFailed."""
        data = b"".join(map(_encode, notes))
        self._files.pwritev(self._fd, [data], self._end)
        self._files.fdatasync(self._fd)
        self._end += len(data)

    def replace(self, notes: Sequence[Sequence[object]]) -> None:
        """Replaces the file's content by these notes, all or nothing."""
        data = b"".join(map(_encode, notes))
        replace_file(self._files, self._path, data)
        try:
            fd = self._files.open(self._path, os.O_RDWR)
        except OSError as error:
            raise_write_error(error, f"open {self._path}")
        self._files.close(self._fd)
        self._fd = fd
        self._end = len(data)

    def close(self) -> None:
        """Closes the file."""
        self._files.close(self._fd)


def read_notes(path: str, files: Files) -> tuple[list[list[object]], bool]:
    """Reads the notes of a file, and whether none has rotted. Raises OSError."""
    fd = files.open(path, os.O_RDONLY)
    try:
        return _parse(files, fd)[:2]
    finally:
        files.close(fd)


def _parse(files: Files, fd: int) -> tuple[list[list[object]], bool, int]:
    """The notes, whether none has rotted, and the end of the last one."""
    notes: list[list[object]] = []
    is_whole = True
    at = end = 0
    for line in files.pread(fd, files.size(fd), 0).split(b"\n")[:-1]:
        note = _decode(line)
        start, at = at, at + len(line) + 1
        if note is not None:
            notes.append(note)
            is_whole = is_whole and end == start
            end = at
    return notes, is_whole, end


def _encode(note: Sequence[object]) -> bytes:
    text = orjson.dumps(list(note))
    return b"%08x %b\n" % (crc32c(text), text)


def _decode(line: bytes) -> list[object] | None:
    try:
        if int(line[:8], 16) != crc32c(line[9:]):
            return None
        note = orjson.loads(line[9:])
    except ValueError:
        return None
    return note if isinstance(note, list) else None
