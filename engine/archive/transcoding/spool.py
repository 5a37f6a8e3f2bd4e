"""Holds a decoded data set until it is whole: in memory while it is short, then in a file without a name.

An error in the last frame of an object must be known before the first is sent: only then does a damaged frame cost that
object alone and not the association. The file has no name, so it disappears with the process.
"""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Final

from engine.dicom.sources import Source, Whole
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

MEMORY_BYTES_MAX: Final = 4 << 20


class Spool:
    """Bytes that are written once, from one thread, and then read."""

    def __init__(self, directory: str | None, reserve_bytes: int) -> None:
        """`directory`: for the file; if it is None or cannot be written, the system's one for temporary files.
        `reserve_bytes`: stay free on that disk."""
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._memory = bytearray()
        self._file: _NamelessFile | None = None
        self._length = 0

    def write(self, piece: Buffer) -> None:
        """Appends a piece. Raises TranscodeError if the disk has no room."""
        if self._file is None:
            self._memory += piece
            if len(self._memory) > MEMORY_BYTES_MAX:
                self._to_file()
            return
        self._append(piece)

    def source(self) -> Source:
        """Everything that was written."""
        return Whole(self._memory) if self._file is None else _FileSource(self._file, self._length)

    def _to_file(self) -> None:
        try:
            self._file = _NamelessFile(self._directory)
        except OSError:
            try:
                self._file = _NamelessFile(None)
            except OSError as error:
                raise TranscodeError(f"there is no room to decode into: {error.strerror}") from error
        memory, self._memory = self._memory, bytearray()
        self._append(memory)

    def _append(self, piece: Buffer) -> None:
        assert self._file is not None
        fd, view = self._file.fd, memoryview(piece)
        try:
            disk = os.fstatvfs(fd)
            if disk.f_bavail * disk.f_frsize < self._reserve_bytes + len(view):
                raise TranscodeError("there is no room to decode into: the disk's reserve is reached")
            while view:
                count = os.write(fd, view)
                self._length += count
                view = view[count:]
        except OSError as error:
            raise TranscodeError(f"there is no room to decode into: {error.strerror}") from error


class _NamelessFile:
    """A file that disappears with the last reference to this object."""

    __slots__ = ("fd",)

    def __init__(self, directory: str | None) -> None:
        """Raises OSError."""
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            self.fd = os.dup(file.fileno())

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class _FileSource:
    """Such a file as a `dicom.sources.Source`."""

    def __init__(self, file: _NamelessFile, length: int) -> None:
        self._file = file
        self.length = length

    def read(self, offset: int, count: int) -> bytes:
        """See `Source`. Raises TranscodeError."""
        try:
            return os.pread(self._file.fd, max(count, 0), offset)
        except OSError as error:
            raise TranscodeError(f"the decoded data set cannot be read back: {error.strerror}") from error
