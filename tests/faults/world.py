"""A whole archive over a disk that forgets, and what may befall it: it is killed, loses power, is started again.

Everything that the engine does to an archive's files goes through `SimulatedDisk`. LMDB makes its own system calls, so
index/data.mdb is a real file; what its commits change is noted page by page, and from there it is a file of the
simulated disk like any other: synced by `fdatasync` alone, and after a power cut each 512-byte sector of it that was
written since the last sync is there or not. Lock files (index/users, index/pin, index/lock.mdb) are real and new at
each boot.

    World.start   ──► archive (keeper) and workers (guests that store as a server's workers do)
       ▲                │ stop, kill, power_cut
       └────────────────┘ each boot has a real directory of its own

One thread does it all: group commit, sealing and the keeper's checkpoints run where the history says, so that the same
seed makes the same calls. Knows no promises: those are `model`'s.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from unittest.mock import patch

import lmdb

from engine import boot, log
from engine.archive import archive as archives
from engine.archive import keeper as keepers
from engine.archive.archive import Archive, StorageOptions
from engine.archive.ingest.live import Ingestor
from engine.archive.ingest.request import POLICIES, StoreRequest
from engine.archive.parts import Parts
from engine.errors import EngineError, StorageFailed
from engine.index.database import environment as environments
from engine.index.database.environment import Environment
from engine.storage.commit import GroupCommit, _Group
from engine.storage.record import crc32c
from tests.faults.model import Shown
from tests.faulty_files import PowerCut, SimulatedDisk, SimulatedFile, SyncAtOnce, _Renaming

PAGE_BYTES = 4096
EXPLICIT = "1.2.840.10008.1.2.1"
NEVER_S = 1e9
LMDB_FILES = ("index/data.mdb", "index/lock.mdb")


class IndexFile(SimulatedFile):
    """data.mdb: the real file is the page cache; what changed in it since the last look is what LMDB wrote."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._seen = b""
        self._now = bytearray()

    def moved(self, path: str) -> None:
        """The same file for the next process, which has another directory."""
        self.note()
        shutil.copyfile(self.path, path)
        self.path = path

    def note(self) -> None:
        """Takes down which pages have been written. It is asked before each call of a life, and seldom is there one:
        a read into the same memory takes a tenth of the time of a Path's."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            if len(self._now) != size:
                self._now = bytearray(size)
            assert os.preadv(fd, [self._now], 0) == size, self.path
        finally:
            os.close(fd)
        if self._now == self._seen:
            return
        data = bytes(self._now)
        for at in range(0, len(data), PAGE_BYTES):
            page = data[at : at + PAGE_BYTES]
            if page != self._seen[at : at + PAGE_BYTES]:
                self.note_written(at, page)
        self._seen = data

    def size(self) -> int:
        return os.stat(self.path).st_size

    def read(self, offset: int, length: int) -> bytes:
        with open(self.path, "rb") as file:
            return os.pread(file.fileno(), length, offset)

    def write(self, offset: int, data: bytes) -> None:
        with open(self.path, "r+b") as file:
            os.pwrite(file.fileno(), data, offset)
        self.note()

    def sync(self) -> None:
        self.note()
        super().sync()

    def sync_badly(self, rng: random.Random, kept_share: float) -> None:
        self.note()
        super().sync_badly(rng, kept_share)

    def drop_cache(self) -> None:
        """LMDB's map keeps its pages."""


class WorldDisk(SimulatedDisk):
    """The simulated disk of an archive in the real directory `root`, which holds nothing but LMDB's files."""

    __slots__ = ("data", "root")

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = str(root)
        self.data = "pacs/data"

    def _key(self, path: str) -> str:
        return path[len(self.root) + 1 :] if path == self.root or path.startswith(self.root + "/") else path

    def _real(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _is_old(self, key: str) -> bool:
        return not key.startswith("pacs")

    @property
    def _index_key(self) -> str:
        return f"{self.data}/index/data.mdb"

    def index_file(self) -> IndexFile | None:
        """data.mdb, if there is one."""
        file = self._names_now.get(self._index_key)
        return file if isinstance(file, IndexFile) else None

    def note_index(self) -> None:
        """Looks what LMDB has done by itself."""
        file = self.index_file()
        if file is None and os.path.exists(self._real(self._index_key)):
            file = IndexFile(self._real(self._index_key))
            self._name(_Renaming("", self._index_key, file))
        if file is not None:
            file.note()

    def enter(self, method: str, name: str, *, grows: bool = True) -> str:
        self.note_index()
        return super().enter(method, name, grows=grows)

    def unlink(self, path: str) -> None:
        super().unlink(path)
        if path.endswith(LMDB_FILES) and os.path.exists(path):
            os.unlink(path)

    def committing(self) -> None:
        """LMDB is about to commit."""
        self.note_index()
        self.enter("commit", "index/data.mdb")
        if not self._changing():
            raise PowerCut("commit")

    def killed(self, root: Path) -> WorldDisk:
        """For the next process."""
        self.note_index()
        disk = WorldDisk(root)
        self._kill_into(disk)
        file = self.index_file()
        if file is not None:
            os.makedirs(os.path.dirname(disk._real(self._index_key)))
            file.moved(disk._real(self._index_key))
        return disk

    def lost_power(self, root: Path, seed: int) -> WorldDisk:
        """For the next boot."""
        self.note_index()
        disk = WorldDisk(root)
        self._cut_into(disk, seed)
        left = disk._names_now.get(self._index_key)
        if left is not None:
            path = disk._real(self._index_key)
            os.makedirs(os.path.dirname(path))
            Path(path).write_bytes(left.now)
            file = IndexFile(path)
            file._seen = bytes(left.now)
            file.durable[:] = left.now
            disk._names_durable[self._index_key] = disk._names_now[self._index_key] = file
        return disk


class ProcessFiles:
    """The disk as one of several processes has it: its descriptors, and with them its locks, end with it."""

    def __init__(self, disk: WorldDisk, name: str) -> None:
        self._disk = disk
        self._name = name
        self._fds: set[int] = set()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._disk.process = self._name
            try:
                result = getattr(self._disk, method)(*arguments, **named)
            finally:
                self._disk.process = ""
            if method in ("open", "create"):
                self._fds.add(result)
            return result

        return call

    def sync_thread(self) -> SyncAtOnce:
        return SyncAtOnce(self)  # type: ignore[arg-type]

    def end(self) -> None:
        """The process is gone."""
        for fd in self._fds:
            self._disk.close(fd)


# -- a loop without time ------------------------------------------------------------------------


class Future:
    """A result that may still be to come; PowerCut is none."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._result: Any = None
        self._error: EngineError | None = None
        self._is_done = False
        self._callbacks: list[Callable[[Future], None]] = []

    def __await__(self) -> Iterator[Future]:
        if not self._is_done:
            yield self
        return self.result()

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result

    def exception(self) -> EngineError | None:
        return self._error

    def cancelled(self) -> bool:
        return False

    def set_result(self, result: Any) -> None:
        self._finish(result, None)

    def set_exception(self, error: EngineError) -> None:
        self._finish(None, error)

    def _finish(self, result: Any, error: EngineError | None) -> None:
        self._result, self._error, self._is_done = result, error, True
        for callback in self._callbacks:
            self._loop.call_soon(callback, self)

    def add_done_callback(self, callback: Callable[[Future], None]) -> None:
        if self._is_done:
            self._loop.call_soon(callback, self)
        else:
            self._callbacks.append(callback)


class Task(Future):
    """A coroutine, driven as far as it goes."""

    def __init__(self, loop: Loop, coroutine: Any) -> None:
        super().__init__(loop)
        self._coroutine = coroutine
        self._step(self)

    def _step(self, _: Future) -> None:
        try:
            waits_for: Future = self._coroutine.send(None)
        except StopIteration as stop:
            self.set_result(stop.value)
        except EngineError as error:
            self.set_exception(error)
        else:
            waits_for.add_done_callback(self._step)


class Loop:
    """What an ingestor asks of an event loop, done at once or by `run`; what threads do is done here."""

    def __init__(self) -> None:
        self._ready: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def add_reader(self, fd: int, work: Callable[[], None]) -> None:
        """`GroupCommitByHand` asks."""

    def remove_reader(self, fd: int) -> None:
        pass

    def call_soon(self, work: Callable[..., None], *arguments: Any) -> None:
        self._ready.put(lambda: work(*arguments))

    def call_later(self, delay_s: float, work: Callable[..., None], *arguments: Any) -> None:
        """Nothing takes its time here, so that nothing is late."""

    def create_task(self, coroutine: Any) -> Task:
        return Task(self, coroutine)

    def create_future(self) -> Future:
        return Future(self)

    def run_in_executor(self, executor: object, work: Callable[[], Any]) -> Future:
        future = Future(self)
        try:
            future.set_result(work())
        except EngineError as error:
            future.set_exception(error)
        return future

    def run(self) -> bool:
        """Whether there was anything to do."""
        if self._ready.empty():
            return False
        while not self._ready.empty():
            self._ready.get()()
        return True


class GroupCommitByHand(GroupCommit[Any, Any]):
    """The group commit without its thread: `run` commits what has been submitted.

    A lone waiter is committed while the disk works, or, where the disk is not done then, as all others are.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._is_prompt = True

    def start(self) -> None:
        pass

    def run(self) -> bool:
        """Whether there was anything to do."""
        self._is_prompt = True
        if self._in_sync is None and self._queue.empty():
            return False
        while self._in_sync is not None or not self._queue.empty():
            if self._in_sync is not None:
                self._finish()
            else:
                group = _Group(self._next_entries()[0])
                self._deliver(group, self._committed(group))
        return True

    def close(self) -> None:
        while self.run() or self._loop.run():  # type: ignore[attr-defined]
            pass
        super().close()


@dataclass
class DataSetInMemory:
    """A received data set, whole."""

    data: bytes

    @property
    def buffers(self) -> Sequence[bytes]:
        return [self.data]

    @property
    def length(self) -> int:
        return len(self.data)

    @property
    def offset(self) -> int:
        return 0

    @property
    def crc(self) -> int:
        return crc32c(self.data)

    @property
    def head(self) -> memoryview:
        return memoryview(self.data)

    def to_bytes(self) -> bytes:
        return self.data

    def release(self) -> None:
        pass


class Worker:
    """A guest as the server has them: it stores through an Ingestor, and dies alone."""

    def __init__(self, world: World, number: int) -> None:
        self.name = f"worker-{number}"
        self.files = ProcessFiles(world.disk, self.name)
        keeper = world.keeper
        self.archive = Archive(Parts(keeper.parts.layout, self.files, keeper.parts.index))  # type: ignore[arg-type]
        self.store = self.archive.writer(self.name, world.options)
        self.loop = Loop()
        self.failed: EngineError | None = None
        with patch("engine.archive.ingest.committer.GroupCommit", GroupCommitByHand):
            self.ingestor = Ingestor(self.loop, self.store, self._failed)  # type: ignore[arg-type]

    def _failed(self, error: EngineError) -> None:
        self.failed = error

    def submit(
        self, data: bytes, sop_class: str, sop_instance: str, durable: bool, policy: str, done: Callable[[Any], None]
    ) -> None:
        """A C-STORE-RQ; `run` brings the answers."""
        request = StoreRequest(EXPLICIT, "FAULTS", sop_class, sop_instance, durable, POLICIES[policy])
        self.ingestor.store(DataSetInMemory(data), request, done)

    def run(self) -> None:
        """Until nothing is left to do."""
        busy = True
        while busy:
            committed = self.ingestor.commit.run()  # type: ignore[attr-defined]
            busy = self.loop.run() or committed

    def stop(self) -> None:
        """A clean end."""
        self.ingestor.close()
        self.run()
        self.archive.parts.reader.close()
        self.files.end()

    def kill(self) -> None:
        """kill -9 of this process alone."""
        self.ingestor._committer.stop()
        self.files.end()


class Report:
    """Stands in for the keeper's logger: what it says is damaged."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def error(self, event: str, **fields: object) -> None:
        self.errors.append(f"{event} {fields}")

    def info(self, event: str, **fields: object) -> None:
        pass

    warning = info


class World:
    """One archive through all its boots. A context: while it lasts the engine's index commits are counted."""

    def __init__(
        self, folder: Path, *, segment_bytes: int = 12_000, prewrite_bytes: int = 0, reserve_bytes: int = 0
    ) -> None:
        self.folder = folder
        self.options = StorageOptions(segment_bytes, reserve_bytes, prewrite_bytes)
        self.boots = 0
        self.machine_starts = 0
        self.disk = WorldDisk(self._next_root())
        self.archive: Archive | None = None
        self.workers: list[Worker] = []
        self.report = Report()
        self.backed_up: dict[str, Shown] | None = None
        """What the last backup that was answered has."""
        self._patches = ExitStack()

    def __enter__(self) -> World:
        original = Environment._write

        def write(environment: Environment, work: Callable[[Any], Any], undo: Callable[[], None]) -> Any:
            def counted(txn: Any) -> Any:
                result = work(txn)
                if not environment.directory.startswith(self.disk.root):
                    return result
                try:
                    self.disk.committing()
                except StorageFailed as error:
                    raise lmdb.DiskError(str(error)) from error
                except EngineError as error:
                    raise lmdb.Error(str(error)) from error
                return result

            try:
                return original(environment, counted, undo)
            finally:
                self.disk.note_index()

        self._patches.enter_context(patch.object(Environment, "_write", write))
        self._patches.enter_context(patch.object(boot, "boot_id", lambda: f"boot {self.machine_starts}"))
        self._patches.enter_context(patch.object(log, "_emit", lambda *event: None))
        self._patches.enter_context(patch.object(keepers, "logger", self.report))
        self._patches.enter_context(patch.object(archives, "logger", self.report))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end_process()
        self._patches.close()

    def _next_root(self) -> Path:
        self.boots += 1
        root = self.folder / f"boot{self.boots}"
        root.mkdir(parents=True)
        return root

    @property
    def data(self) -> Path:
        return Path(self.disk.root) / self.disk.data

    @property
    def keeper(self) -> Archive:
        assert self.archive is not None, "the archive is not open"
        return self.archive

    # -- the processes --------------------------------------------------------------------------

    def start(self, workers: int = 0) -> None:
        """Opens the archive as keeper, and `workers` guests."""
        self.archive = Archive.open(self.data, role="keeper", create=True, files=self.disk, sync_interval_s=NEVER_S)
        self.keeper.writer("keeper", self.options)
        self.workers = [Worker(self, number) for number in range(workers)]

    def stop(self) -> None:
        """A clean end of everything."""
        for worker in self.workers:
            worker.stop()
        self.workers = []
        self.keeper.close()
        self.archive = None

    def restart(self, *, cleanly: bool, workers: int = 0) -> None:
        """Another process on the same machine."""
        if cleanly:
            self.stop()
        self.kill()
        self.start(workers)

    def kill(self) -> None:
        """kill -9 of every process: the page cache stays."""
        disk = self.disk
        root = self._next_root()
        self._end_process()
        self.disk = disk.killed(root)
        self._forget(disk)

    def power_cut(self, seed: int) -> None:
        """The machine goes down, and comes up with one of the many disks that it may have left."""
        disk = self.disk
        root = self._next_root()
        self._end_process()
        self.disk = disk.lost_power(root, seed)
        self.machine_starts += 1
        self._forget(disk)

    @staticmethod
    def _forget(disk: WorldDisk) -> None:
        shutil.rmtree(disk.root)

    def _end_process(self) -> None:
        """Lets go of what the dead processes held of this one: descriptors, maps, threads. Writes nothing."""
        for worker in self.workers:
            worker.ingestor._committer.stop()
        self.workers = []
        archive, self.archive = self.archive, None
        if archive is not None and archive.parts.keeper is not None:
            archive.parts.keeper._stop.set()
            if archive.parts.keeper._thread is not None:
                archive.parts.keeper._thread.join()
            checkpointer = archive.parts.keeper._checkpointer
            if checkpointer._pin is not None:
                checkpointer._pin.abort()
                checkpointer._pin = None
            _close_if_open(checkpointer._pin_fd, self.disk.root)
        for environment in list(environments._open_environments):
            if environment.directory.startswith(self.disk.root):
                environment.close()

    def recover_dead_workers(self) -> None:
        """What the supervisor does when a worker has died."""
        self.keeper.recover_dead_writers()


def _close_if_open(fd: int, root: str) -> None:
    """Closes a descriptor unless it was closed before and is somebody else's now."""
    link = f"/proc/self/fd/{fd}"
    if os.path.lexists(link) and os.readlink(link).startswith(root):
        os.close(fd)
