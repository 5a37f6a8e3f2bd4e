"""What an import reads from: one thing that can be opened, or why something is left out. Knows no format.

A name is for reports only: a path, or `archive.zip!member`; no name from within an archive becomes a path.
"""

from __future__ import annotations

import io
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias, cast

from engine.errors import DataSetError

READ_ERRORS: Final = (
    OSError, EOFError, DataSetError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, RuntimeError,
    ValueError,
)  # fmt: skip
"""What opening and reading an item can raise: a bad sector, a damaged or lying archive, a file that was swapped."""

NO_FILE: Final = "is neither a file nor a folder"


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One file that may hold an instance."""

    name: str
    size_bytes: int
    open: Callable[[], AbstractContextManager[BinaryIO]]
    """Opens it for reading from the start; raises READ_ERRORS, as does reading. May be called in any thread."""
    is_passing: bool = False
    """Whether it can be opened once only, before the next source is asked for."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that is left out."""

    name: str
    reason: str


Source: TypeAlias = SourceItem | Refused


def reason_of(error: BaseException) -> str:
    """What one of READ_ERRORS says to the person who started the import."""
    if isinstance(error, OSError):
        return why(error)
    if isinstance(error, EOFError):
        return "cannot be read: it ends early"
    return f"cannot be read: {error}"


def why(error: OSError) -> str:
    """What an error of the file system says."""
    return f"cannot be read: {error.strerror or error}"


def printable(name: str | Path) -> str:
    """A name for reports, whatever bytes the file system or the archive has in it."""
    return os.fspath(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Regular(io.FileIO):
    """A regular file; one of /proc that has nothing to say now does not keep anybody waiting."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if data is None:
            raise DataSetError("it would keep its reader waiting")
        return data


def open_regular(path: str | Path, *, follow: bool = False) -> BinaryIO:
    """A regular file, unbuffered; never waits for the writer of a pipe that took its place. Raises READ_ERRORS."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DataSetError("it is no regular file any more")
        return cast(BinaryIO, _Regular(fd, "rb"))
    except BaseException:
        os.close(fd)
        raise
