"""The LMDB environment: opens it, checks its format, hands out transactions, turns LMDB's errors into ours.

Knows the names of the tables, not their contents. This module keeps these rules:

    one environment per process, opened after spawn; a forked child that uses it is refused
    commits are not synced (`checkpoint` explains how the index survives a power cut); never WRITEMAP (SIGBUS on a full
    disk)
    a write transaction begins and ends on one thread; a read transaction lasts for one page of answers
    a writer takes its turn (`turn`) first: a lock that can be tried and names its holder
    the map is huge from the start and grows when it is full: no caller sees MapFullError
    before it writes, a writer makes sure that the checkpoint on disk stays valid (`guard`, see `checkpoint`)

Files in the index directory: data.mdb and lock.mdb (LMDB), checkpoint (`checkpoint`), users (an empty file; shared lock
of every process that has the index open, exclusive while it is restored), pin (an empty file; lock of the live
checkpointer), turn (`turn`).
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, TypeVar

import lmdb

from engine.dicom.schema import STANDARD, Schema
from engine.errors import IndexDamaged, IndexError_
from engine.index.database import commits, data_file
from engine.index.database.failures import ROW_ERRORS, VALUE_ERRORS, open_error, read_error, write_error
from engine.index.database.locks import wait_shared
from engine.index.database.tables import TABLES, Tables, open_tables
from engine.index.database.transactions import ReadTxn, WriteTxn
from engine.index.database.turn import Turn
from engine.index.format.types import Holder
from engine.stops import stops
from engine.storage.files import Files

Result = TypeVar("Result")

MAP_BYTES = 1 << 40
"""Address space; takes neither memory nor disk."""
DATABASE_VERSION = ".".join(map(str, lmdb.version()))
"""Of the C library."""
READERS_MAX = 512
"""Open read transactions of all processes together."""
OPEN_PATIENCE_S = 10.0
"""How long `open` waits for a process that writes: a transaction takes milliseconds."""


class Reading:
    """A context with a read transaction: a snapshot of the last commit."""

    __slots__ = ("_environment", "_txn")

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._txn: ReadTxn | None = None

    def __enter__(self) -> ReadTxn:
        self._txn = txn = self._environment.begin_read()
        return txn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        txn, self._txn = self._txn, None
        if txn is not None:
            self._environment.end_read(txn)
        if isinstance(error, VALUE_ERRORS):
            raise read_error(error) from error


class RunWrite(Protocol):
    """Runs a write transaction on any thread, and returns its result."""

    def __call__(self, work: Callable[[], Result], /) -> Result: ...


_open_environments: weakref.WeakSet[Environment] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # A getpid at each transaction would cost as much as the start of the transaction.
    for environment in _open_environments:
        environment._forked = True


os.register_at_fork(after_in_child=_after_fork_in_child)


class Environment(Tables):
    """One process's handle; thread-safe."""

    def __init__(
        self,
        directory: str,
        files: Files,
        *,
        read_only: bool = False,
        map_bytes: int = MAP_BYTES,
        schema: Schema = STANDARD,
    ) -> None:
        """Opens the index and creates it if there is none. Raises IndexError_, or IndexOutdated: rebuild it."""
        self.directory = directory
        self.files = files
        self.schema = schema
        """The attributes that the rows hold, and their form."""
        self.read_only = read_only
        self._pid = os.getpid()
        self._forked = False
        _open_environments.add(self)
        self._gate = threading.Lock()
        self._no_readers = threading.Condition(self._gate)
        self._readers = 0
        self._is_growing = False
        self._write_lock = threading.Lock()
        self.guard: Callable[[], None] | None = None
        """Called within each write transaction, before its first write."""
        self.before_grow: Callable[[], None] | None = None
        """Called before the map grows, which ends every transaction of this process, the checkpointer's pin too."""
        self._map_bytes = map_bytes
        self._users_fd = -1
        self._environment: Any = None
        self._turn: Turn | None = None
        self.run_write: RunWrite = _run_here
        """Runs a write transaction, on any thread."""
        try:
            if not read_only:
                os.makedirs(directory, mode=0o750, exist_ok=True)
            self._users_fd = os.open(f"{directory}/users", os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT, 0o640)
            wait_shared(self._users_fd)
            if not read_only:
                self._turn = Turn(directory)
            self._check_data_file()
            self._environment = lmdb.open(
                directory,
                map_size=map_bytes,
                readonly=read_only,
                metasync=False,
                sync=False,
                writemap=False,
                readahead=False,
                meminit=False,
                max_dbs=len(TABLES),
                max_readers=READERS_MAX,
                max_spare_txns=0,  # a spare transaction keeps its reader slot until its last reference is gone
                mode=0o640,
            )
        except (lmdb.Error, OSError) as error:
            self._release_users()
            raise open_error(directory, error) from error
        try:
            self._open_in_turn()
        except BaseException:
            self.close()
            raise

    def _open_in_turn(self) -> None:
        """Opens the tables, which takes LMDB's write lock. Raises IndexError_ when another process keeps that lock."""
        turn = self._turn
        if turn is None:
            self._open_tables()
            return
        if not turn.take_within(OPEN_PATIENCE_S):
            holder = turn.holder() or "another process"
            raise IndexError_(f"the index in {self.directory} is being written by {holder}: resume or end that process")
        try:
            self._open_tables()
        finally:
            turn.leave()

    def _check_data_file(self) -> None:
        """Raises IndexDamaged when data.mdb contradicts itself: LMDB would map it and crash."""
        try:
            fd = self.files.open(f"{self.directory}/data.mdb", os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            fault = data_file.fault_of(self.files, fd)
        finally:
            self.files.close(fd)
        if fault:
            self._release_users()
            raise IndexDamaged(
                f"the index in {self.directory} is damaged: data.mdb: {fault}; run `filmroom rebuild-index`"
            )

    def _open_tables(self) -> None:
        try:
            open_tables(self._environment, self, self.directory, read_only=self.read_only)
        except lmdb.Error as error:
            raise open_error(self.directory, error) from error

    # -- reading --------------------------------------------------------------------------------

    def reading(self) -> Reading:
        """A context with a read transaction."""
        return Reading(self)

    def begin_read(self) -> ReadTxn:
        """Begins a read transaction. End it with `end_read`."""
        self._check_process()
        has_freed_slots = False
        while True:
            with self._gate:
                while self._is_growing:
                    self._no_readers.wait()
                self._readers += 1
            try:
                txn: ReadTxn = self._environment.begin()
                return txn
            except lmdb.MapResizedError:
                self._leave()
                self._resize(0)
            except lmdb.ReadersFullError as error:
                self._leave()
                if has_freed_slots or not self.reader_check():
                    raise IndexError_(f"{READERS_MAX} read transactions are open at once: {error}") from error
                has_freed_slots = True
            except lmdb.Error as error:
                self._leave()
                raise read_error(error) from error

    def end_read(self, txn: ReadTxn) -> None:
        """Ends a read transaction."""
        txn.abort()
        self._leave()

    def _leave(self) -> None:
        with self._gate:
            self._readers -= 1
            if not self._readers:
                self._no_readers.notify_all()

    def begin_pin(self) -> ReadTxn:
        """Begins a read transaction that may last. It ends when the map grows; use no cursors. Raises IndexError_."""
        self._check_process()
        try:
            pin: ReadTxn = self._environment.begin()
        except lmdb.ReadersFullError:
            self.reader_check()
            try:
                pin = self._environment.begin()
            except lmdb.ReadersFullError as error:
                raise IndexError_(f"{READERS_MAX} read transactions are open at once: {error}") from error
        return pin

    # -- writing --------------------------------------------------------------------------------

    def write(self, work: Callable[[WriteTxn], Result], undo: Callable[[], None]) -> Result:
        """Runs `work` in a write transaction and commits; on any failure nothing is written and `undo` is called.

        Raises StorageFull, StorageFailed (final) or IndexError_.
        """
        turn = self._writable()
        return self.run_write(lambda: self._in_turn(turn, lambda: self._write(work, undo)))

    def try_write(self, work: Callable[[WriteTxn], Result], undo: Callable[[], None]) -> tuple[Result] | None:
        """Does the same for a caller that must not wait. Returns the result in a tuple, or None when another thread or
        process has been writing for some milliseconds."""
        turn = self._writable()
        if not self._write_lock.acquire(blocking=False):
            return None
        try:
            if not turn.try_take():
                return None
            try:
                return (self._grow_until_done(lambda: self._write(work, undo)),)
            finally:
                turn.leave()
        finally:
            self._write_lock.release()

    def _writable(self) -> Turn:
        self._check_process()
        if self._turn is None:
            raise IndexError_("the index is open read-only")
        return self._turn

    def _in_turn(self, turn: Turn, work: Callable[[], Result]) -> Result:
        """Runs `work`, which begins a write transaction, while no other thread or process writes."""
        with self._write_lock:
            stops.enter()
            try:
                turn.take()
                try:
                    return self._grow_until_done(work)
                finally:
                    turn.leave()
            finally:
                stops.leave()

    def _grow_until_done(self, work: Callable[[], Result]) -> Result:
        """Runs `work`, and again after each growth of the map, until the map is large enough."""
        while True:
            try:
                return work()
            except lmdb.MapFullError:
                self._map_bytes *= 2
                self._resize(self._map_bytes)
            except lmdb.MapResizedError:
                self._resize(0)
            except lmdb.Error as error:
                raise write_error(self.directory, self.files, error) from error
            except ROW_ERRORS as error:
                raise read_error(error) from error

    def _write(self, work: Callable[[WriteTxn], Result], undo: Callable[[], None]) -> Result:
        txn: WriteTxn = self._environment.begin(write=True)
        try:
            if self.guard is not None:
                self.guard()
            commits.note(txn, self.meta)
            result = work(txn)
            txn.commit()
        except BaseException:
            txn.abort()
            undo()
            raise
        return result

    def holding_write_lock(self, work: Callable[[], Result]) -> Result:
        """Runs `work` while no process can commit."""
        turn = self._writable()

        def hold() -> Result:
            txn = self._environment.begin(write=True)
            try:
                return work()
            finally:
                txn.abort()

        return self._in_turn(turn, hold)

    def _resize(self, map_bytes: int) -> None:
        """Grows the map; with 0 adopts the size that another process has set."""
        with self._gate:
            while self._is_growing:
                self._no_readers.wait()
            self._is_growing = True
            try:
                while self._readers:
                    self._no_readers.wait()
                if self.before_grow is not None:
                    self.before_grow()
                self._environment.set_mapsize(map_bytes)
            except lmdb.Error as error:
                raise IndexError_(f"the index cannot grow to {map_bytes} bytes: {error}") from error
            finally:
                self._is_growing = False
                self._no_readers.notify_all()

    def writer(self) -> Holder | None:
        """The other process that is writing now."""
        return None if self._turn is None else self._turn.holder()

    # -- state and upkeep -----------------------------------------------------------------------

    def last_transaction_id(self) -> int:
        """The number of the last commit of any process."""
        self._check_process()
        return int(self._environment.info()["last_txnid"])

    def page_bytes(self) -> int:
        """The size of LMDB's pages."""
        return int(self._environment.stat()["psize"])

    def file_bytes(self) -> int:
        """The size of data.mdb."""
        return (int(self._environment.info()["last_pgno"]) + 1) * self.page_bytes()

    def reader_check(self) -> int:
        """Frees the reader slots of dead processes, and returns how many there were. Safe in any process: only a write
        can overwrite what a dead checkpointer has pinned, and each write makes the checkpoint void first (`guard`)."""
        self._check_process()
        return int(self._environment.reader_check())

    def close(self) -> None:
        """Ends every transaction of this handle and closes it."""
        self.guard = None
        if not self._forked and self._environment is not None:
            self._environment.close()
        self._release_users()

    def _release_users(self) -> None:
        if self._turn is not None:
            self._turn.close()
        if self._users_fd >= 0:
            os.close(self._users_fd)
            self._users_fd = -1

    def _check_process(self) -> None:
        if self._forked:
            raise IndexError_(f"process {self._pid} opened the index; process {os.getpid()} must open it again")


def _run_here(work: Callable[[], Result]) -> Result:
    return work()
