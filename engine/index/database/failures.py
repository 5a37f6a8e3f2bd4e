"""LMDB's errors as ours: an index that cannot be read, opened or written, and why."""

from __future__ import annotations

import errno
import os
import struct

import lmdb

from engine.errors import (
    DataSetError,
    EngineError,
    IndexDamaged,
    IndexError_,
    ProcessIdTaken,
    StorageFailed,
    StorageFull,
)
from engine.storage.files import Files

FULL_BYTES = 1 << 20
"""A write error while less than this is free is taken for a full disk: LMDB reports both as EIO."""

ROT = (lmdb.Error, struct.error, LookupError, ValueError)
"""What the decoding of a row raises that is not as it was written: LMDB has no checksums, and rows have none either.
A TypeError and the like is a mistake of this engine, and is not told as damage: a row that may be missing is asked for
with `transactions.present`."""

UNDECODABLE = (*ROT, DataSetError)
"""The same where the values in a row are decoded too."""

DAMAGE = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)
"""What LMDB says of files that are not its own, or not as it wrote them."""


def unreadable(error: BaseException) -> IndexDamaged:
    """The error for a row or a page that cannot be what was written."""
    what = f"{error}" if isinstance(error, lmdb.Error) else f"a row cannot be decoded ({type(error).__name__}: {error})"
    return IndexDamaged(f"the index cannot be read: {what}; `filmroom rebuild-index` makes it anew from the log")


def unopened(directory: str, error: Exception) -> IndexError_:
    """The error for a caller who could not open the index."""
    if getattr(error, "code", 0) == errno.EAGAIN:
        # LMDB tells processes apart by their ids, each of which has the byte of lock.mdb with its number locked.
        return ProcessIdTaken(
            f"the index in {directory} is open in another PID namespace (a container?) by a process that has"
            f" the id of this one, {os.getpid()}: run this where the server runs (docker exec), or share its PID"
            " namespace (docker run --pid=container:NAME, or --pid=host on both)"
        )
    what = f"the index in {directory} cannot be opened: {error}"
    if isinstance(error, DAMAGE):
        return IndexDamaged(f"{what}; `filmroom rebuild-index` makes it anew from the log")
    return IndexError_(what)


def unwritten(directory: str, files: Files, error: Exception) -> EngineError:
    """The error for a write that failed: out of room, a broken disk, or a broken index."""
    # What LMDB has no code for is an error of the operating system, and comes as the bare class.
    if type(error) is not lmdb.Error and not isinstance(error, lmdb.DiskError | lmdb.PanicError):
        return IndexError_(f"the index cannot be written: {error}")
    try:
        free_bytes = files.free_bytes(directory)
    except OSError:
        free_bytes = FULL_BYTES
    if free_bytes < FULL_BYTES:
        return StorageFull(f"the index cannot be written, {free_bytes} bytes are free: {error}")
    return StorageFailed(f"the index cannot be written: {error}")
