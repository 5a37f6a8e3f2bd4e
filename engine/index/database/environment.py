"""The LMDB environment: opens it, checks its format, hands out transactions, turns LMDB's errors into ours.

Knows the names of the tables and nothing of what is in them. Rules that hold here and nowhere else:

    one environment a process, opened after spawn; a forked child that touches it is refused
    commits are not synced (`checkpoint` says how that survives a power cut); WRITEMAP never (SIGBUS on a full disk)
    a write transaction begins and ends on one thread; a read transaction lasts for one page of answers
    a writer takes its turn (`turn`) first: a lock that can be tried and names its holder
    the map is huge from the start and grows when it is full: nobody outside sees MapFullError
    a writer makes sure first that a checkpoint on disk stays true (`guard`, see `checkpoint`)

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
from engine.index.database import data_file
from engine.index.database.failures import ROT, UNDECODABLE, unopened, unreadable, unwritten
from engine.index.database.locks import wait_shared
from engine.index.database.tables import TABLES, Tables, open_tables
from engine.index.database.transactions import ReadTxn, WriteTxn
from engine.index.database.turn import Turn
from engine.index.format.types import Holder
from engine.stops import stops
from engine.storage.files import Files

Result = TypeVar("Result")

MAP_BYTES = 1 << 40
"""Address space, not memory and not disk."""
READERS_MAX = 512
"""Read transactions at once, of all processes."""
OPEN_PATIENCE_S = 10.0
"""How long opening waits for a process that writes: a transaction takes milliseconds."""


class Reading:
    """A read transaction as a context; a snapshot of the last commit."""

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
        if isinstance(error, UNDECODABLE):
            raise unreadable(error) from error


class RunWrite(Protocol):
    """Runs a write transaction, on whichever thread, and returns what it returns."""

    def __call__(self, work: Callable[[], Result], /) -> Result: ...


_open_environments: weakref.WeakSet[Environment] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # Asked at each transaction, getpid would cost as much as the transaction's start.
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
        """Opens the index and creates it if there is none. Raises IndexError_; IndexOutdated: make it anew."""
        self.directory = directory
        self.files = files
        self.schema = schema
        """Which attributes the rows hold, and how."""
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
        """Growing the map ends every transaction of this process, the checkpointer's pin too."""
        self._map_bytes = map_bytes
        self._users_fd = -1
        self._environment: Any = None
        self._turn: Turn | None = None
        self.run_write: RunWrite = _run_here
        """Runs a write transaction, on whichever thread."""
        try:
            if not read_only:
                os.makedirs(directory, mode=0o750, exist_ok=True)
            self._users_fd = os.open(f"{directory}/users", os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT, 0o640)
            wait_shared(self._users_fd)
            if not read_only:
                self._turn = Turn(directory)
            self._look_before_mapping()
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
                max_spare_txns=0,  # a spare keeps its reader slot until the last reference to it is gone
                mode=0o640,
            )
        except (lmdb.Error, OSError) as error:
            self._release_users()
            raise unopened(directory, error) from error
        try:
            self._open_in_turn()
        except BaseException:
            self.close()
            raise

    def _open_in_turn(self) -> None:
        """Opens the tables, which takes LMDB's write lock. Raises IndexError_ when another process keeps that."""
        turn = self._turn
        if turn is None:
            self._open_tables()
            return
        if not turn.take_within(OPEN_PATIENCE_S):
            who = turn.holder() or "another process"
            raise IndexError_(f"the index in {self.directory} is being written by {who}: continue that, or end it")
        try:
            self._open_tables()
        finally:
            turn.leave()

    def _look_before_mapping(self) -> None:
        """Raises IndexDamaged when data.mdb cannot be what it says: LMDB would map it, and die of it."""
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
                f"the index in {self.directory} is damaged: data.mdb: {fault}; `filmroom rebuild-index` makes it anew"
            )

    def _open_tables(self) -> None:
        try:
            open_tables(self._environment, self, self.directory, read_only=self.read_only)
        except lmdb.Error as error:
            raise unopened(self.directory, error) from error

    # -- reading --------------------------------------------------------------------------------

    def reading(self) -> Reading:
        """A context with a read transaction."""
        return Reading(self)

    def begin_read(self) -> ReadTxn:
        """A read transaction; give it back with `end_read`."""
        self._check_process()
        has_looked = False
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
                if has_looked or not self.reader_check():
                    raise IndexError_(f"{READERS_MAX} read transactions are open at once: {error}") from error
                has_looked = True
            except lmdb.Error as error:
                self._leave()
                raise unreadable(error) from error

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
        """A read transaction that may last; opens no cursors and is lost when the map grows. Raises IndexError_."""
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
        """The same for a caller that must not wait: the result in a tuple; None when another thread or process has been
        writing for some milliseconds."""
        turn = self._writable()
        if not self._write_lock.acquire(blocking=False):
            return None
        try:
            if not turn.try_take():
                return None
            try:
                return (self._until_it_fits(lambda: self._write(work, undo)),)
            finally:
                turn.leave()
        finally:
            self._write_lock.release()

    def _writable(self) -> Turn:
        self._check_process()
        if self._turn is None:
            raise IndexError_("the index is open for reading only")
        return self._turn

    def _in_turn(self, turn: Turn, work: Callable[[], Result]) -> Result:
        """Runs `work`, which begins a write transaction, when nobody else writes."""
        with self._write_lock:
            stops.enter()
            try:
                turn.take()
                try:
                    return self._until_it_fits(work)
                finally:
                    turn.leave()
            finally:
                stops.leave()

    def _until_it_fits(self, work: Callable[[], Result]) -> Result:
        """Runs `work` again and again until the map is large enough."""
        while True:
            try:
                return work()
            except lmdb.MapFullError:
                self._map_bytes *= 2
                self._resize(self._map_bytes)
            except lmdb.MapResizedError:
                self._resize(0)
            except lmdb.Error as error:
                raise unwritten(self.directory, self.files, error) from error
            except ROT as error:
                raise unreadable(error) from error

    def _write(self, work: Callable[[WriteTxn], Result], undo: Callable[[], None]) -> Result:
        txn: WriteTxn = self._environment.begin(write=True)
        try:
            if self.guard is not None:
                self.guard()
            result = work(txn)
            txn.commit()
        except BaseException:
            txn.abort()
            undo()
            raise
        return result

    def holding_write_lock(self, work: Callable[[], Result]) -> Result:
        """Runs `work` while nobody, in any process, can commit."""
        turn = self._writable()

        def hold() -> Result:
            txn = self._environment.begin(write=True)
            try:
                return work()
            finally:
                txn.abort()

        return self._in_turn(turn, hold)

    def _resize(self, map_bytes: int) -> None:
        """Grows the map, or with 0 takes over the size that another process gave it."""
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
        """The other process that writes just now."""
        return None if self._turn is None else self._turn.holder()

    # -- looking after --------------------------------------------------------------------------

    def last_transaction_id(self) -> int:
        """The number of the last commit, of any process."""
        self._check_process()
        return int(self._environment.info()["last_txnid"])

    def page_bytes(self) -> int:
        """The size of LMDB's pages."""
        return int(self._environment.stat()["psize"])

    def file_bytes(self) -> int:
        """How far data.mdb has grown."""
        return (int(self._environment.info()["last_pgno"]) + 1) * self.page_bytes()

    def reader_check(self) -> int:
        """Frees the reader slots of dead processes; how many there were. In any process: what a dead checkpointer has
        pinned is written over only by a write, and each of those makes the checkpoint void first (`guard`)."""
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
            raise IndexError_(f"the index was opened by process {self._pid}, this is {os.getpid()}")


def _run_here(work: Callable[[], Result]) -> Result:
    return work()
