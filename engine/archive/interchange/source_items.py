"""The items of an import: something that can be opened, or the reason why it is left out. Knows no format.

A name is for reports only: a path, or `archive.zip!member`. Never make a path from a name inside an archive.
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
"""Errors of opening and reading an item: a bad sector, a damaged or false archive, a replaced file."""

NO_FILE: Final = "is neither a file nor a folder"


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One file that may hold an instance."""

    name: str
    size_bytes: int
    open: Callable[[], AbstractContextManager[BinaryIO]]
    """Opens the item for reading from the start, in any thread; this and reading raise READ_ERRORS."""
    is_passing: bool = False
    """Whether it can be opened only once, before the next source."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A source that is left out."""

    name: str
    reason: str


Source: TypeAlias = SourceItem | Refused


def reason_of(error: BaseException) -> str:
    """The text of one of READ_ERRORS, for the report."""
    if isinstance(error, OSError):
        return why(error)
    if isinstance(error, EOFError):
        return "cannot be read: it ends early"
    return f"cannot be read: {error}"


def why(error: OSError) -> str:
    """The text of an error of the file system, for the report."""
    return f"cannot be read: {error.strerror or error}"


def printable(name: str | Path) -> str:
    """A name for reports, also if it has bytes that are no text."""
    return os.fspath(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Regular(io.FileIO):
    """A regular file whose reads never wait, as those of some files in /proc would."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if data is None:
            raise DataSetError("a read of it would wait")
        return data


def open_regular(path: str | Path, *, follow: bool = False) -> BinaryIO:
    """Opens a regular file, unbuffered; never waits, even if a pipe has taken its place. Raises READ_ERRORS."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DataSetError("it is no longer a regular file")
        return cast(BinaryIO, _Regular(fd, "rb"))
    except BaseException:
        os.close(fd)
        raise
