"""How an LMDB that never syncs survives a power cut: checkpoints, and the way back to the last one.

Every transaction of the index commits without a sync. That survives kill -9, but a power cut may lose any of the
pages written since, in any order, and LMDB has no checksums to notice. LMDB never changes a page that a reader may
still see, so a state stays whole on the disk as long as a read transaction of it is open: the *pin*. A checkpoint is a
state that has been synced while it was pinned, with the meta page that leads to it kept in a file of its own:

    1  while nobody can commit: open the next pin, copy its meta page
    2  sync the log: the index must not point to records that a power cut takes away
    3  fdatasync data.mdb
    4  write the file `checkpoint` (a new file, synced, renamed, directory synced)
    5  let the old pin go

After a stop without a clean end `restore` writes that meta page into both of LMDB's meta slots. LMDB then opens the
state of the checkpoint, whatever else is in the file, and the log is replayed from the watermarks in that state.

    offset  bytes  field
    0       8      magic "FILMCKPT"
    8       4      format 1
    12      4      kind: 1 OPEN, 2 CLEAN, 3 VOID
    16      8      transaction id
    24      36     boot id (text)
    60      4      length M of the meta page, 0 if VOID
    64      M      meta page
    64+M    4      crc32c of all before

Who may write, so that the file never lies:

    the checkpointer lives    it holds the lock of the file `pin`, and the pin with it
    no checkpointer           nothing pins the checkpointed state any more: whoever writes first replaces the file by
                              VOID. Every write transaction looks (`Guard`) while no other can commit
    index open elsewhere      `restore` leaves everything as it is: a power cut would have ended those processes too

A VOID file and another boot id (or none: a checkpoint failed), or no usable file: the index is thrown away and made
again from the log.
So it is with a data.mdb that cannot be what its meta page says, or is not what a clean end has left (`data_file`).
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

from engine.errors import IndexError_, StorageError, StorageFailed
from engine.index.database import data_file
from engine.index.database.data_file import PAGE_BYTES_MAX, meta_page, newest_meta_page, transaction_of
from engine.index.database.locks import is_locked, try_lock
from engine.index.upkeep import epoch_id
from engine.storage.files import Files
from engine.storage.record import crc32c

if TYPE_CHECKING:
    from engine.index.catalog import Catalog

MAGIC = b"FILMCKPT"
FORMAT = 1

_HEAD = struct.Struct("<8sIIQ36sI")
_CRC = struct.Struct("<I")


class Kind(IntEnum):
    """What the checkpoint file says."""

    OPEN = 1
    """The state is whole on the disk; more may have been committed since."""
    CLEAN = 2
    """The same, and nothing has been committed since."""
    VOID = 3
    """No state is known to be whole on the disk; the page cache of this boot is."""


class Restored(Enum):
    """What `restore` found and did."""

    NEW = "there was no index"
    IN_USE = "other processes have the index open"
    CLEAN = "closed cleanly"
    CHECKPOINT = "went back to the last checkpoint"
    AS_IS = "no checkpoint, but the machine has not stopped"
    DISCARDED = "no usable checkpoint: discarded"
    DAMAGED = "data.mdb is damaged: discarded"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of the file."""

    kind: Kind
    transaction_id: int
    boot_id: str
    meta_page: bytes

    def encode(self) -> bytes:
        """See the module's head."""
        boot_id = self.boot_id.encode("ascii", "replace")[:36]
        data = _HEAD.pack(MAGIC, FORMAT, self.kind, self.transaction_id, boot_id, len(self.meta_page)) + self.meta_page
        return data + _CRC.pack(crc32c(data))

    @classmethod
    def decode(cls, data: bytes) -> Checkpoint | None:
        """None for anything that is not whole."""
        if len(data) < _HEAD.size + _CRC.size or _CRC.unpack(data[-4:])[0] != crc32c(data[:-4]):
            return None
        magic, format_, kind, transaction_id, boot_id, length = _HEAD.unpack_from(data)
        page = data[_HEAD.size : -4]
        if magic != MAGIC or format_ != FORMAT or len(page) != length or kind not in list(Kind):
            return None
        if kind != Kind.VOID and transaction_of(page) != transaction_id:
            return None
        return cls(Kind(kind), transaction_id, boot_id.rstrip(b"\0").decode("ascii", "replace"), page)


def boot_id() -> str:
    """The kernel's name for the time since it started; "" where there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


# the file ------------------------------------------------------------------------------------------


def read_file(directory: str, files: Files) -> Checkpoint | None:
    """The checkpoint file, None if there is none or it is not whole."""
    try:
        fd = files.open(f"{directory}/checkpoint", os.O_RDONLY)
    except OSError:
        return None
    try:
        return Checkpoint.decode(files.pread(fd, _HEAD.size + PAGE_BYTES_MAX + _CRC.size, 0))
    except OSError:
        return None
    finally:
        files.close(fd)


def write_file(directory: str, files: Files, checkpoint: Checkpoint) -> None:
    """Replaces the checkpoint file, durably. Raises StorageFull or StorageFailed."""
    temporary = f"{directory}/checkpoint.{os.getpid()}.{threading.get_ident()}"
    files.unlink(temporary)
    fd = files.create(temporary)
    try:
        files.pwritev(fd, [checkpoint.encode()], 0)
        files.fdatasync(fd)
    finally:
        files.close(fd)
    files.rename(temporary, f"{directory}/checkpoint")
    files.sync_directory(directory)


def _write_void(directory: str, files: Files) -> None:
    write_file(directory, files, Checkpoint(Kind.VOID, 0, boot_id(), b""))


class Guard:
    """Called in every write transaction of a handle: replaces a checkpoint that nothing pins by VOID."""

    def __init__(self, directory: str, files: Files) -> None:
        self._directory = directory
        self._files = files
        self._path = f"{directory}/checkpoint"
        self._pin_fd = -1
        self._pin_fd = os.open(f"{directory}/pin", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._void: tuple[int, int] | None = None

    def __call__(self) -> None:
        if is_locked(self._pin_fd):
            return
        identity = self._files.identity(self._path)
        if identity is not None and identity == self._void:
            return
        found = read_file(self._directory, self._files)
        if found is None or found.kind != Kind.VOID or found.boot_id != boot_id():
            _write_void(self._directory, self._files)
        self._void = self._files.identity(self._path)

    def __del__(self) -> None:
        if self._pin_fd >= 0:
            os.close(self._pin_fd)


def is_clean(directory: str, files: Files) -> bool:
    """Whether the index was closed cleanly and nobody has it open: what lies there can be read without being changed.

    For who must not write: a medium, a foreign archive. False also when that cannot be told.
    """
    found = read_file(directory, files)
    if found is None or found.kind != Kind.CLEAN:
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
            metas = files.pread(data_fd, 2 * len(found.meta_page), 0)
            return (
                newest_meta_page(metas) == found.meta_page
                and not data_file.meta_fault(found.meta_page, files.size(data_fd))
                and data_file.is_as_summed(directory, files, data_fd, found.transaction_id)
            )
        finally:
            files.close(data_fd)
    except OSError:
        return False


# restore -------------------------------------------------------------------------------------------


def restore(directory: str, files: Files) -> Restored:
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
            return Restored.IN_USE
        return _restore(directory, files)
    except OSError as error:
        raise IndexError_(f"the index in {directory} cannot be restored: {error}") from error
    finally:
        os.close(users_fd)


def _restore(directory: str, files: Files) -> Restored:
    checkpoint = read_file(directory, files)
    try:
        fd = files.open(f"{directory}/data.mdb", os.O_RDWR)
    except FileNotFoundError:
        _discard(directory, files)
        return Restored.NEW
    try:
        state = _state(directory, files, fd, checkpoint)
    finally:
        files.close(fd)
    if state in (Restored.DAMAGED, Restored.DISCARDED):
        _discard(directory, files)
    return state


def _state(directory: str, files: Files, fd: int, checkpoint: Checkpoint | None) -> Restored:
    """What data.mdb, open as `fd`, may be taken for; goes back to the checkpoint where it must."""
    if checkpoint is not None and checkpoint.kind != Kind.VOID:
        if data_file.meta_fault(checkpoint.meta_page, files.size(fd)):
            return Restored.DAMAGED
        metas = files.pread(fd, 2 * len(checkpoint.meta_page), 0)
        if checkpoint.kind == Kind.CLEAN and newest_meta_page(metas) == checkpoint.meta_page:
            is_whole = data_file.is_as_summed(directory, files, fd, checkpoint.transaction_id)
            return Restored.CLEAN if is_whole else Restored.DAMAGED
        _write_metas(files, fd, checkpoint)
        files.unlink(f"{directory}/lock.mdb")
        return Restored.CHECKPOINT
    if checkpoint is not None and checkpoint.boot_id and checkpoint.boot_id == boot_id():
        return Restored.DAMAGED if data_file.fault_of(files, fd) else Restored.AS_IS
    return Restored.DISCARDED


def _write_metas(files: Files, fd: int, checkpoint: Checkpoint) -> None:
    newest = checkpoint.transaction_id
    for transaction_id in (newest - 1, newest):
        slot = transaction_id & 1
        files.pwritev(fd, [meta_page(checkpoint.meta_page, slot, transaction_id)], slot * len(checkpoint.meta_page))
    files.fdatasync(fd)


def _discard(directory: str, files: Files) -> None:
    """Removes the index; its lock files stay."""
    for name in ("data.mdb", "lock.mdb", "checkpoint", "checksum", epoch_id.NAME):
        files.unlink(f"{directory}/{name}")
    files.sync_directory(directory)


def discard(directory: str, files: Files) -> None:
    """Throws the index away, to be rebuilt. Raises IndexError_ when it is in use."""
    os.makedirs(directory, mode=0o750, exist_ok=True)
    users_fd = os.open(f"{directory}/users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        if not try_lock(users_fd, exclusive=True):
            raise IndexError_(f"the index in {directory} is in use")
        _discard(directory, files)
    finally:
        os.close(users_fd)


# checkpointer --------------------------------------------------------------------------------------


class Checkpointer:
    """Takes checkpoints; there is one at a time for an index, in the keeper. Make it before anything is written."""

    def __init__(self, index: Catalog, directory: str, files: Files, sync_log: Callable[[], object]) -> None:
        """Pins the present state. `sync_log` makes durable whatever the log holds; it may be called by any thread.

        Raises IndexError_ when another checkpointer lives.
        """
        self._environment = index.environment
        self._directory = directory
        self._files = files
        self._sync_log = sync_log
        self._working = threading.Lock()
        self._state = threading.Lock()
        self._lost_count = 0
        """How often the map has grown."""
        self._pin: Any = None
        self._checkpointed_id = -1
        self._failed: StorageFailed | None = None
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
        self._environment.before_grow = self._let_go

    def _start(self) -> None:
        """While nobody can commit: pins the present state, and takes the file over if it speaks of just that."""
        pin = self._environment.begin_pin()
        found = read_file(self._directory, self._files)
        if found is not None and found.kind != Kind.VOID and found.meta_page == self._meta_page_of(pin):
            self._checkpointed_id = found.transaction_id
        else:
            _write_void(self._directory, self._files)
            self._checkpointed_id = -1
        if not try_lock(self._pin_fd, exclusive=True):
            pin.abort()
            raise IndexError_(f"the index in {self._directory} has a checkpointer already")
        self._pin = pin

    def _meta_page_of(self, pin: Any) -> bytes:
        """The meta page of a pinned state, while it is the newest."""
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
        """Whether something has been committed since the last one."""
        return self._environment.last_transaction_id() != self._checkpointed_id

    def checkpoint(self) -> None:
        """Makes the present state of index and log the one that survives a power cut. Blocks on the disk.

        Raises StorageFull, StorageFailed (final: the state on the disk is unknown) or IndexError_.
        """
        with self._working:
            self._checkpoint(Kind.OPEN)

    def _checkpoint(self, kind: Kind) -> None:
        if self._failed is not None:
            raise StorageFailed(f"a checkpoint has failed before: {self._failed}") from self._failed
        try:
            self._take(kind)
        except StorageFailed as error:
            self._failed = error
            self._distrust(error)
            raise

    def _distrust(self, failure: StorageFailed) -> None:
        """Without a checkpoint to go back to, the next start would take what the page cache shows for what is there."""
        if self._checkpointed_id != -1:
            return
        try:
            write_file(self._directory, self._files, Checkpoint(Kind.VOID, 0, "", b""))
        except StorageError as error:
            failure.add_note(f"nor can the index be marked as lost: {error}")

    def _take(self, kind: Kind) -> None:
        pin, transaction_id, page, lost_count = self._environment.holding_write_lock(self._pin_newest)
        try:
            self._sync_log()
            self._files.fdatasync(self._data_fd)
            with self._state:
                if self._lost_count != lost_count:
                    return
                write_file(self._directory, self._files, Checkpoint(kind, transaction_id, boot_id(), page))
                pin, self._pin = self._pin, pin
                self._checkpointed_id = transaction_id
        finally:
            if pin is not None:
                pin.abort()

    def _pin_newest(self) -> tuple[Any, int, bytes, int]:
        pin = self._environment.begin_pin()
        try:
            return pin, pin.id(), self._meta_page_of(pin), self._lost_count
        except BaseException:
            pin.abort()
            raise

    def _let_go(self) -> None:
        """The map is about to grow, which ends every pin: until the next checkpoint there is none."""
        with self._state:
            _write_void(self._directory, self._files)
            self._lost_count += 1
            self._pin = None
            self._checkpointed_id = -1

    def close(self, *, clean: bool = True) -> None:
        """The last checkpoint, if it is to be a clean end; then the pin goes. Close the index right after."""
        with self._working:
            try:
                if clean and self._failed is None:
                    self._checkpoint(Kind.CLEAN)
                    data_file.note_sum(self._directory, self._files, self._data_fd, self._checkpointed_id)
            finally:
                self._environment.before_grow = None
                if self._pin is not None:
                    self._pin.abort()
                    self._pin = None
                self._files.close(self._data_fd)
                os.close(self._pin_fd)
