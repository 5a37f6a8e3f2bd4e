"""Checkpoints: they let an LMDB that never syncs survive a power cut.

Every transaction of the index commits without a sync. That survives kill -9, but a power cut may lose any of the
pages written since, in any order, and LMDB has no checksums to notice. LMDB never changes a page that a reader may
still see, so a state stays whole on the disk as long as a read transaction of it is open: the *pin*. A checkpoint is a
state that has been synced while it was pinned. Its meta page is stored in a file of its own:

    1  while no process can commit: open the next pin, copy its meta page
    2  sync the log: the index must not point to records that a power cut can lose
    3  fdatasync data.mdb
    4  write the file `checkpoint` (a new file, synced, renamed, directory synced)
    5  close the old pin

These rules keep the file valid:

    the checkpointer lives    it holds the lock of the file `pin` as long as it has a pin
    no checkpointer           nothing pins the checkpointed state any more: the first writer replaces the file by VOID.
                              Every write transaction checks this (`Guard`) while no other can commit
    index open elsewhere      `restore` changes nothing: a power cut would have ended those processes too

`checkpoint_file` has the format of the file, `restoration` uses it after a stop, `guard` checks before each write.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from engine import boot
from engine.errors import IndexError_, StorageError, StorageFailed
from engine.index.database import data_file
from engine.index.database.data_file import newest_meta_page, transaction_of
from engine.index.database.environment import Environment
from engine.index.database.locks import try_lock
from engine.index.database.transactions import ReadTxn
from engine.index.upkeep import checkpoint_file
from engine.index.upkeep.checkpoint_file import Checkpoint, Kind, read_file, write_file
from engine.storage.files import Files


class Checkpointer:
    """Takes checkpoints. An index has one checkpointer at a time, in the keeper; make it before anything is written."""

    def __init__(self, environment: Environment, files: Files, sync_log: Callable[[], object]) -> None:
        """Pins the present state. `sync_log` makes everything in the log durable; any thread may call it.

        Raises IndexError_ when another checkpointer lives.
        """
        self._environment = environment
        self._directory = directory = environment.directory
        self._files = files
        self._sync_log = sync_log
        self._working = threading.Lock()
        self._state = threading.Lock()
        self._growth_count = 0
        """How often the map has grown, which loses the pin."""
        self._pin: ReadTxn | None = None
        self._checkpointed_id = -1
        self._failure: StorageFailed | None = None
        try:
            self._data_fd = files.open(f"{directory}/data.mdb", os.O_RDWR)
            self._pin_fd = os.open(f"{directory}/pin", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise IndexError_(f"the index in {directory} cannot be checkpointed: {error}") from error
        try:
            self._environment.holding_write_lock(self._start)
        except BaseException:
            files.close(self._data_fd)
            os.close(self._pin_fd)
            raise
        self._environment.before_grow = self._drop_pin

    def _start(self) -> None:
        """Pins the present state, and adopts the file if it describes this state. No process may commit meanwhile."""
        pin = self._environment.begin_pin()
        try:
            found = read_file(self._directory, self._files)
            checkpoint = None if found is None or found.kind == Kind.VOID else found
            if checkpoint is not None and checkpoint.meta_page == self._meta_page_of(pin):
                self._checkpointed_id = checkpoint.transaction_id
            else:
                checkpoint_file.write_void(self._directory, self._files)
                self._checkpointed_id = -1
            if not try_lock(self._pin_fd, exclusive=True):
                raise IndexError_(f"the index in {self._directory} has a checkpointer already")
        except BaseException:
            pin.abort()
            raise
        self._pin = pin

    def _meta_page_of(self, pin: ReadTxn) -> bytes:
        """The meta page of a pinned state. Call this while it is the newest state."""
        try:
            data = self._files.pread(self._data_fd, 2 * self._environment.page_bytes(), 0)
        except OSError as error:
            raise IndexError_(f"the index in {self._directory} cannot be read: {error.strerror}") from error
        page = newest_meta_page(data)
        if page is None or transaction_of(page) != pin.id():
            raise IndexError_(
                f"the meta pages of the index in {self._directory} are not as LMDB {pin.id()} writes them"
            )
        return page

    def needs_checkpoint(self) -> bool:
        """Whether anything has been committed since the last checkpoint."""
        return self._environment.last_transaction_id() != self._checkpointed_id

    def checkpoint(self) -> None:
        """Makes the present state of index and log survive a power cut. Blocks on the disk.

        Raises StorageFull, StorageFailed (final: the state on the disk is unknown) or IndexError_.
        """
        with self._working:
            self._checkpoint(Kind.OPEN)

    def _checkpoint(self, kind: Kind) -> None:
        if self._failure is not None:
            raise StorageFailed(f"a checkpoint has failed before: {self._failure}") from self._failure
        try:
            self._take(kind)
        except StorageFailed as error:
            self._failure = error
            self._void_after(error)
            raise

    def _void_after(self, failure: StorageFailed) -> None:
        """Makes the checkpoint void after a failed sync: else the next start would trust the page cache."""
        if self._checkpointed_id != -1:
            return
        try:
            write_file(self._directory, self._files, Checkpoint(Kind.VOID, 0, "", b""))
        except StorageError as error:
            failure.add_note(f"the checkpoint file cannot be made void either: {error}")

    def _take(self, kind: Kind) -> None:
        new_pin, transaction_id, page, growth_count = self._environment.holding_write_lock(self._pin_newest)
        unused: ReadTxn | None = new_pin
        try:
            self._sync_log()
            self._files.fdatasync(self._data_fd)
            with self._state:
                if self._growth_count != growth_count:
                    return
                write_file(self._directory, self._files, Checkpoint(kind, transaction_id, boot.boot_id(), page))
                unused, self._pin = self._pin, new_pin
                self._checkpointed_id = transaction_id
        finally:
            if unused is not None:
                unused.abort()

    def _pin_newest(self) -> tuple[ReadTxn, int, bytes, int]:
        pin = self._environment.begin_pin()
        try:
            return pin, pin.id(), self._meta_page_of(pin), self._growth_count
        except BaseException:
            pin.abort()
            raise

    def _drop_pin(self) -> None:
        """Makes the checkpoint void, before the growth of the map ends every pin. The next checkpoint pins again."""
        with self._state:
            checkpoint_file.write_void(self._directory, self._files)
            self._growth_count += 1
            self._pin = None
            self._checkpointed_id = -1

    def close(self, *, clean: bool = True) -> None:
        """Takes a last checkpoint if the end is clean, then ends the pin. Close the index right after."""
        with self._working:
            try:
                if clean and self._failure is None:
                    self._checkpoint(Kind.CLEAN)
                    data_file.write_checksum(self._directory, self._files, self._data_fd, self._checkpointed_id)
            finally:
                self._environment.before_grow = None
                if self._pin is not None:
                    self._pin.abort()
                    self._pin = None
                self._files.close(self._data_fd)
                os.close(self._pin_fd)
