"""Restores the last checkpoint: brings the files of an index to a state that LMDB may open.

After a stop without a clean end, `restore` writes the checkpoint's meta page into both of LMDB's meta slots. LMDB then
opens the state of the checkpoint and ignores everything else in the file, and the log is replayed from the marks in
that state.

The index is deleted, and made again from the log, if there is no usable checkpoint file, if that is VOID and has
another boot id or none (a checkpoint failed), or if data.mdb contradicts its meta page or the checksum of a clean end
(`data_file`).
"""

from __future__ import annotations

import os
from enum import Enum

from engine import boot
from engine.errors import IndexError_
from engine.index.database import data_file
from engine.index.database.data_file import meta_page, newest_meta_page
from engine.index.database.locks import is_locked, try_lock
from engine.index.upkeep import epoch_id
from engine.index.upkeep.checkpoint_file import Checkpoint, Kind, read_file
from engine.storage.files import Files


class RestoreResult(Enum):
    """The result of `restore`."""

    NEW = "there was no index"
    IN_USE = "other processes have the index open"
    CLEAN = "closed cleanly"
    CHECKPOINT = "returned to the last checkpoint"
    AS_IS = "no checkpoint, but the machine has not stopped"
    DISCARDED = "no usable checkpoint: discarded"
    DAMAGED = "data.mdb is damaged: discarded"


def is_clean(directory: str, files: Files) -> bool:
    """Whether the index was closed cleanly and no process has it open, so it can be read without a change.

    For archives that must not be written. False if this is not certain.
    """
    checkpoint = read_file(directory, files)
    if checkpoint is None or checkpoint.kind != Kind.CLEAN:
        return False
    try:
        users_fd = files.open(f"{directory}/users", os.O_RDONLY)
        try:
            if is_locked(users_fd):
                return False
        finally:
            files.close(users_fd)
        data_fd = files.open(f"{directory}/data.mdb", os.O_RDONLY)
        try:
            metas = files.pread(data_fd, 2 * len(checkpoint.meta_page), 0)
            return (
                newest_meta_page(metas) == checkpoint.meta_page
                and not data_file.meta_fault(checkpoint.meta_page, files.size(data_fd))
                and data_file.matches_checksum(directory, files, data_fd, checkpoint.transaction_id)
            )
        finally:
            files.close(data_fd)
    except OSError:
        return False


def restore(directory: str, files: Files) -> RestoreResult:
    """Brings the files of the index to a state that LMDB may open. Call it before `Catalog.open`, by the keeper only.

    Raises IndexError_ or StorageError when the files cannot be read or written.
    """
    try:
        os.makedirs(directory, mode=0o750, exist_ok=True)
        users_fd = os.open(f"{directory}/users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise IndexError_(f"the index in {directory} cannot be opened: {error}") from error
    try:
        if not try_lock(users_fd, exclusive=True):
            return RestoreResult.IN_USE
        return _restore(directory, files)
    except OSError as error:
        raise IndexError_(f"the index in {directory} cannot be restored: {error}") from error
    finally:
        os.close(users_fd)


def _restore(directory: str, files: Files) -> RestoreResult:
    checkpoint = read_file(directory, files)
    try:
        fd = files.open(f"{directory}/data.mdb", os.O_RDWR)
    except FileNotFoundError:
        _discard(directory, files)
        return RestoreResult.NEW
    try:
        state = _state(directory, files, fd, checkpoint)
    finally:
        files.close(fd)
    if state in (RestoreResult.DAMAGED, RestoreResult.DISCARDED):
        _discard(directory, files)
    return state


def _state(directory: str, files: Files, fd: int, checkpoint: Checkpoint | None) -> RestoreResult:
    """The state of data.mdb, open as `fd`; returns it to the checkpoint if necessary."""
    if checkpoint is not None and checkpoint.kind != Kind.VOID:
        if data_file.meta_fault(checkpoint.meta_page, files.size(fd)):
            return RestoreResult.DAMAGED
        metas = files.pread(fd, 2 * len(checkpoint.meta_page), 0)
        if checkpoint.kind == Kind.CLEAN and newest_meta_page(metas) == checkpoint.meta_page:
            is_whole = data_file.matches_checksum(directory, files, fd, checkpoint.transaction_id)
            return RestoreResult.CLEAN if is_whole else RestoreResult.DAMAGED
        _write_metas(files, fd, checkpoint)
        files.unlink(f"{directory}/lock.mdb")
        return RestoreResult.CHECKPOINT
    if checkpoint is not None and checkpoint.boot_id and checkpoint.boot_id == boot.boot_id():
        return RestoreResult.DAMAGED if data_file.fault_of(files, fd) else RestoreResult.AS_IS
    return RestoreResult.DISCARDED


def _write_metas(files: Files, fd: int, checkpoint: Checkpoint) -> None:
    newest = checkpoint.transaction_id
    for transaction_id in (newest - 1, newest):
        slot = transaction_id & 1
        files.pwritev(fd, [meta_page(checkpoint.meta_page, slot, transaction_id)], slot * len(checkpoint.meta_page))
    files.fdatasync(fd)


def _discard(directory: str, files: Files) -> None:
    """Deletes the index; its lock files stay."""
    for name in ("data.mdb", "lock.mdb", "checkpoint", "checksum", epoch_id.NAME):
        files.unlink(f"{directory}/{name}")
    files.sync_directory(directory)


def discard(directory: str, files: Files) -> None:
    """Deletes the index, to be rebuilt. Raises IndexError_ when it is in use."""
    os.makedirs(directory, mode=0o750, exist_ok=True)
    users_fd = os.open(f"{directory}/users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        if not try_lock(users_fd, exclusive=True):
            raise IndexError_(f"the index in {directory} is in use")
        _discard(directory, files)
    finally:
        os.close(users_fd)
