"""The server's way in: instances from many associations at once, answered by callback when they are committed.

All public methods are called on the loop's thread and none blocks on the disk for longer than a copy into the page
cache; what may block (syncing, comparing with a stored instance, objects larger than memory) runs in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from engine.archive.ingest import make_entry
from engine.archive.store import Store
from engine.dicom.elements import NeedMore
from engine.errors import EngineError, InstanceRefused, StorageError, StorageFailed
from engine.index.entry import Entry
from engine.index.types import Instance, Outcome
from engine.storage.commit import GroupCommit
from engine.storage.record import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

Done = Callable[["Outcome | EngineError"], None]

HEAD_BYTES_MAX = 8 << 20
"""How far into a data set its kept attributes may lie; what lies further back is refused (bounds memory)."""


class ReceivedDataSet(Protocol):
    """A data set, or a part of one, in borrowed memory (PS3.8 fragments already joined)."""

    @property
    def buffers(self) -> Sequence[Buffer]: ...
    @property
    def length(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def crc(self) -> int: ...
    @property
    def head(self) -> memoryview: ...
    def to_bytes(self) -> bytes: ...
    def release(self) -> None: ...


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """What the front end knows about an instance besides its bytes."""

    transfer_syntax_uid: str
    calling_ae_title: str
    sop_class_uid: str
    sop_instance_uid: str
    durable: bool
    policy: int
    """POLICY_… of index.entry."""


class Ingestor:
    """One worker's ingest: `store` for what fits in memory, `begin_stream` for what does not."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, store: Store, on_failure: Callable[[EngineError], None]
    ) -> None:
        self._loop = loop
        self._store = store
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="ingest")
        self.commit: GroupCommit[Entry, Outcome] = GroupCommit(loop, store.log.sync, store.apply, on_failure)
        self.commit.start()
        self._closed = False
        self._sealing = False

    @property
    def depth(self) -> int:
        """Instances received and not yet answered."""
        return self.commit.depth

    def store(self, data_set: ReceivedDataSet, request: StoreRequest, done: Done) -> None:
        """Takes a whole data set; `done` is called exactly once, possibly before this returns."""
        try:
            entry = self._entry(data_set, request, complete=True)
            stored = self._store.same_instance(entry, data_set.length, data_set.crc)
            if stored is None:
                self._store.append(
                    entry, data_set.buffers, data_set.length, data_set.crc, request.policy, sync_soon=request.durable
                )
        except EngineError as error:
            data_set.release()
            self._note(error)
            done(error)
            return
        if stored is not None:
            self._spawn(self._confirm(stored, data_set, request.durable), done)
            return
        data_set.release()
        self._submit(entry, request.durable, done)
        if self._store.log.rolled:
            self._seal()

    def begin_stream(self, first: ReceivedDataSet, request: StoreRequest) -> StreamIngest:
        """Starts an object that comes in parts. Raises InstanceRefused or StorageFull; releases `first` then."""
        try:
            entry = self._entry(first, request, complete=False)
            self._store.stamp(entry, request.policy)
            return StreamIngest(self, self._store, entry, request)
        except EngineError as error:
            first.release()
            self._note(error)
            raise

    def close(self) -> None:
        """Commits what has been submitted and seals the log. Blocks."""
        self._closed = True
        self.commit.close()
        self._executor.shutdown(wait=True)
        self._store.close()

    # -- inside ---------------------------------------------------------------------------------

    def _entry(self, data_set: ReceivedDataSet, request: StoreRequest, *, complete: bool) -> Entry:
        head = data_set.head
        try:
            try:
                return self._entry_of(head, request, complete and len(head) == data_set.length)
            except NeedMore:
                if len(head) == data_set.length or data_set.length > HEAD_BYTES_MAX:
                    raise
            # A head of more than one chunk: rare, and bounded by what has been received already.
            return self._entry_of(memoryview(data_set.to_bytes()), request, complete)
        except NeedMore as error:
            raise InstanceRefused(f"the kept attributes do not lie in the first bytes: {error}") from error

    def _entry_of(self, head: memoryview, request: StoreRequest, complete: bool) -> Entry:
        return make_entry(
            head,
            complete=complete,
            transfer_syntax_uid=request.transfer_syntax_uid,
            calling_ae_title=request.calling_ae_title,
            sop_class_uid=request.sop_class_uid,
            sop_instance_uid=request.sop_instance_uid,
        )

    def _submit(self, entry: Entry, durable: bool, done: Done) -> None:
        if durable:
            self.commit.submit(entry, done)
        else:
            self.commit.submit_unsynced(entry, done)

    async def _confirm(self, stored: Instance, data_set: ReceivedDataSet, durable: bool) -> Outcome:
        try:
            await self.blocking(lambda: self._store.confirm_same(stored, data_set.buffers, durable=durable))
        finally:
            data_set.release()
        return Outcome.DUPLICATE if self._store.is_current(stored) else Outcome.KEPT_ASIDE

    def _spawn(self, work: Coroutine[Any, Any, Outcome], done: Done) -> None:
        task = self._loop.create_task(work)

        def finished(task: asyncio.Task[Outcome]) -> None:
            if task.cancelled():
                done(StorageError("the store was cancelled"))
                return
            error = task.exception()
            if error is None:
                done(task.result())
            elif isinstance(error, EngineError):
                done(error)
            else:
                done(StorageError(f"the store failed: {error!r}"))

        task.add_done_callback(finished)

    async def blocking(self, work: Callable[[], object]) -> object:
        """Runs `work` in a thread. Raises what it raises, StorageError after `close`."""
        if self._closed:
            raise StorageError("this writer is closed")
        try:
            return await self._loop.run_in_executor(self._executor, work)
        except EngineError as error:
            self._note(error)
            raise

    def _note(self, error: EngineError) -> None:
        """A failed write or sync is final wherever it was seen; StorageFull and refusals are not."""
        if isinstance(error, StorageFailed):
            self.commit.fail(error)

    def _seal(self) -> None:
        if self._sealing:
            return
        self._sealing = True

        def finished(future: asyncio.Future[None]) -> None:
            self._sealing = False
            error = future.exception()
            if isinstance(error, EngineError):
                self.commit.fail(error)
            elif error is not None:
                self.commit.fail(StorageError(f"sealing a segment failed: {error!r}"))

        self._loop.run_in_executor(self._executor, self._store.seal_rolled).add_done_callback(finished)


class StreamIngest:
    """One object larger than memory on its way into a segment of its own; its parts are written in threads."""

    def __init__(self, ingestor: Ingestor, store: Store, entry: Entry, request: StoreRequest) -> None:
        self._ingestor = ingestor
        self._entry = entry
        self._request = request
        self._meta = entry.pack_meta()
        self._appender = store.log.begin_stream(
            Kind.INSTANCE, entry.flags, entry.stamp, entry.sop_instance_uid, len(self._meta)
        )

    async def write(self, part: ReceivedDataSet) -> None:
        """Writes one part and releases it. Raises StorageFull or StorageFailed."""
        try:
            await self._ingestor.blocking(lambda: self._appender.write(part.buffers, part.length))
        finally:
            part.release()

    async def finish(self, last: ReceivedDataSet) -> Outcome:
        """Writes the last part and commits the object."""
        crc = last.crc
        await self.write(last)
        self._entry.position = await self._ingestor.blocking(  # type: ignore[assignment]
            lambda: self._appender.finish(self._meta, crc)
        )
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome | EngineError) -> None:
            if answer.cancelled():
                return
            if isinstance(outcome, EngineError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        # The appender has synced its segment in finish: the entry only needs to become visible.
        self._ingestor.commit.submit_unsynced(self._entry, done)
        return await answer

    async def abort(self) -> None:
        """Gives up: the half-written segment is removed."""
        await self._ingestor.blocking(self._appender.abort)
