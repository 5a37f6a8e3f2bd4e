"""Turns LMDB's errors into ours: an index that cannot be read, opened or written, and why."""

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
"""A write error while less than this is free counts as a full disk: LMDB reports both as EIO."""

ROW_ERRORS = (lmdb.Error, struct.error, LookupError, ValueError)
"""Errors of decoding a damaged row: neither LMDB nor rows have checksums. A TypeError and the like is a mistake of this
engine, and is not reported as damage: read a row that may be missing with `transactions.present`."""

VALUE_ERRORS = (*ROW_ERRORS, DataSetError)
"""The same where the values in a row are decoded too."""

DAMAGE_ERRORS = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)
"""LMDB's errors for damaged files, and for files of another program."""


def read_error(error: BaseException) -> IndexDamaged:
    """The error for a damaged row or page."""
    what = f"{error}" if isinstance(error, lmdb.Error) else f"a row cannot be decoded ({type(error).__name__}: {error})"
    return IndexDamaged(f"the index cannot be read: {what}; run `filmroom rebuild-index` to make it again from the log")


def open_error(directory: str, error: Exception) -> IndexError_:
    """The error for an index that cannot be opened."""
    if getattr(error, "code", 0) == errno.EAGAIN:
        # LMDB tells processes apart by their ids: each process locks the byte of lock.mdb with its own number.
        return ProcessIdTaken(
            f"the index in {directory} is open in another PID namespace (a container?) by a process that has"
            f" the id of this one, {os.getpid()}: run this where the server runs (docker exec), or share its PID"
            " namespace (docker run --pid=container:NAME, or --pid=host on both)"
        )
    what = f"the index in {directory} cannot be opened: {error}"
    if isinstance(error, DAMAGE_ERRORS):
        return IndexDamaged(f"{what}; run `filmroom rebuild-index` to make it again from the log")
    return IndexError_(what)


def write_error(directory: str, files: Files, error: Exception) -> EngineError:
    """The error for a write that failed: a full disk, a broken disk, or a broken index."""
    # LMDB raises the bare class for errors of the operating system.
    if type(error) is not lmdb.Error and not isinstance(error, lmdb.DiskError | lmdb.PanicError):
        return IndexError_(f"the index cannot be written: {error}")
    try:
        free_bytes = files.free_bytes(directory)
    except OSError:
        free_bytes = FULL_BYTES
    if free_bytes < FULL_BYTES:
        return StorageFull(f"the index cannot be written, {free_bytes} bytes are free: {error}")
    return StorageFailed(f"the index cannot be written: {error}")
