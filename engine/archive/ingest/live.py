"""The server's way in: instances from many associations at once, answered by callback when they are committed.

All public methods are called on the loop's thread and none blocks on the disk for longer than a copy into the page
cache; what may block (syncing, comparing with a stored instance, objects larger than memory) runs in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from engine import log
from engine.archive.ingest.entry import make_entry, scan
from engine.archive.ingest.stream import StreamIngest, claim_of
from engine.archive.ingest.unparseable import Unparseable
from engine.archive.ingest.writer import Store
from engine.dicom import transfer_syntax
from engine.dicom.elements import SCAN_LIMITS, Head, ScanLimits
from engine.errors import EngineError, InstanceQuarantined, InstanceRefused, StorageError, StorageFailed
from engine.index.format.entry import HEAL, POLICY_MASK, POLICY_REPLACE, Entry, Quarantined
from engine.index.format.types import Instance, Outcome
from engine.storage.commit import GroupCommit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

Result = TypeVar("Result")

Done = Callable[["Outcome | EngineError"], None]

logger = log.get("archive.ingest")


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
    limits: ScanLimits = SCAN_LIMITS
    accept_truncated: bool = False
    """Whether a data set that ends early is stored, with a warning."""


class Ingestor:
    """One worker's ingest: `store` for what fits in memory, `begin_stream` for what does not."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        on_failure: Callable[[EngineError], None],
        unparseable: Unparseable | None = None,
    ) -> None:
        """With `unparseable`, what cannot be taken as an instance is put into quarantine before it is refused."""
        self._loop = loop
        self._store = store
        self._unparseable = unparseable
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="ingest")
        self.commit: GroupCommit[Entry, Outcome] = GroupCommit(
            loop,
            store.log.sync,
            store.apply,
            on_failure,
            try_apply=store.try_apply,
            why_late=store.index.who_writes,
        )
        self.commit.start()
        self._closed = False
        self._sealing = False

    @property
    def depth(self) -> int:
        """Instances received and not yet answered."""
        return self.commit.depth

    def store(self, data_set: ReceivedDataSet, request: StoreRequest, done: Done) -> None:
        """Takes a whole data set; `done` is called exactly once, possibly before this returns."""
        if transfer_syntax.of(request.transfer_syntax_uid).deflated:
            # Inflating takes longer than a copy into the page cache.
            self._loop.create_task(self._scan_and_store(data_set, request, done))
            return
        try:
            found: Head | InstanceRefused = scan(data_set.buffers, request.transfer_syntax_uid, request.limits)
        except InstanceRefused as error:
            found = error
        self._store_scanned(data_set, request, found, done)

    def _store_scanned(
        self, data_set: ReceivedDataSet, request: StoreRequest, found: Head | InstanceRefused, done: Done
    ) -> None:
        try:
            self._check_in_time()
            if isinstance(found, InstanceRefused):
                raise found
            entry = self._entry(found, request)
            stored = self._store.same_instance(entry, data_set.length, data_set.crc)
            if found.cut:
                done = _of_cut(done)
            is_contested = (
                stored is None
                and entry.stamp != 0
                and (found.cut != "" or request.policy & POLICY_MASK != POLICY_REPLACE)
            )
            if stored is None and not is_contested:
                self._store.append(
                    entry, data_set.buffers, data_set.length, data_set.crc, request.policy, sync_soon=request.durable
                )
        except EngineError as error:
            if isinstance(error, InstanceRefused) and self._unparseable is not None and self._unparseable.keeps(error):
                self._spawn(self._quarantine(error, data_set, request, self._unparseable), done)
                return
            data_set.release()
            self._note(error)
            done(error)
            return
        if stored is not None:
            self._spawn(self._confirm(entry, stored, data_set, request), done)
            return
        if is_contested:
            self._spawn(self._contest(entry, found.cut, data_set, request), done)
            return
        data_set.release()
        self._submit(entry, request.durable, done)
        if self._store.log.rolled:
            self._seal()

    def begin_stream(self, request: StoreRequest) -> StreamIngest:
        """Starts an object that comes in parts. Raises StorageError while it would not be answered in time."""
        self._check_in_time()
        return StreamIngest(self, self._store, self._unparseable, request)

    def close(self) -> None:
        """Commits what has been submitted and seals the log. Blocks."""
        self._closed = True
        self.commit.close()
        self._executor.shutdown(wait=True)
        self._store.close()

    # -- inside ---------------------------------------------------------------------------------

    async def _scan_and_store(self, data_set: ReceivedDataSet, request: StoreRequest, done: Done) -> None:
        try:
            found: Head | InstanceRefused = await self.blocking(
                lambda: scan(data_set.buffers, request.transfer_syntax_uid, request.limits)
            )
        except InstanceRefused as error:
            found = error
        except EngineError as error:
            data_set.release()
            done(error)
            return
        self._store_scanned(data_set, request, found, done)

    def _entry(self, found: Head, request: StoreRequest) -> Entry:
        return make_entry(
            found,
            transfer_syntax_uid=request.transfer_syntax_uid,
            calling_ae_title=request.calling_ae_title,
            sop_class_uid=request.sop_class_uid,
            sop_instance_uid=request.sop_instance_uid,
            accept_truncated=request.accept_truncated,
        )

    def _check_in_time(self) -> None:
        """Raises StorageError while nothing that is submitted would be answered in time."""
        if self.commit.late:
            raise StorageError(f"out of resources: {self.commit.late}")

    async def _contest(self, entry: Entry, cut: str, data_set: ReceivedDataSet, request: StoreRequest) -> Outcome:
        """Another data set of a known UID: if it says the same, it is there already; else who is current is decided."""
        buffers, length = data_set.buffers, data_set.length
        try:
            if not cut:
                same = await self.blocking(lambda: self._store.resent(entry, buffers, length, durable=request.durable))
                if same is not None:
                    return Outcome.DUPLICATE if self._store.is_current(same) else Outcome.KEPT_ASIDE
            policy = await self.blocking(lambda: self._store.policy_against(entry, request.policy, cut))
            self._append(entry, buffers, length, data_set.crc, policy, request.durable)
        finally:
            data_set.release()
        return await self.committed(entry, request.durable)

    def _submit(self, entry: Entry, durable: bool, done: Done) -> None:
        if durable:
            self.commit.submit(entry, done)
        else:
            self.commit.submit_unsynced(entry, done)

    async def _confirm(
        self, entry: Entry, stored: Instance, data_set: ReceivedDataSet, request: StoreRequest
    ) -> Outcome:
        """An instance that is there already: compared with the stored copy, and stored again when that is damaged."""
        buffers, length, crc = data_set.buffers, data_set.length, data_set.crc
        try:
            same = await self.blocking(
                lambda: self._store.confirm_same(entry, stored, buffers, length, crc, durable=request.durable)
            )
            if same is None:
                self._append(entry, buffers, length, crc, request.policy | HEAL, request.durable)
        finally:
            data_set.release()
        if same is None:
            await self.committed(entry, request.durable)
            await self.blocking(lambda: self._store.clear_healed(entry.sop_instance_uid))
            return Outcome.STORED if self._store.is_current(stored) else Outcome.KEPT_ASIDE
        return Outcome.DUPLICATE if self._store.is_current(stored) else Outcome.KEPT_ASIDE

    async def _quarantine(
        self, error: InstanceRefused, data_set: ReceivedDataSet, request: StoreRequest, unparseable: Unparseable
    ) -> Outcome:
        """Keeps what cannot be taken, if there is room for it. Raises the refusal, whatever else happens."""
        claim = claim_of(unparseable, error, request)
        length, crc = data_set.length, data_set.crc
        try:
            wanted = await self.blocking(lambda: unparseable.wants(claim, length, crc))
            if wanted:
                self._store.quarantine(claim, data_set.buffers, length, crc)
        except EngineError as failure:
            self._note(failure)
            logger.warning("nothing was put into quarantine", reason=str(failure))
            wanted = False
        finally:
            data_set.release()
        if self._store.log.rolled:
            self._seal()
        if not wanted:
            raise error
        raise await self.book(claim, unparseable, error)

    async def book(self, claim: Quarantined, unparseable: Unparseable, error: InstanceRefused) -> InstanceRefused:
        """Makes a quarantined record visible; the error that its sender is answered with."""
        try:
            await self.blocking(lambda: self._store.book_quarantined(claim))
        except EngineError as failure:
            logger.warning("nothing was put into quarantine", reason=str(failure))
            return error
        return InstanceQuarantined(str(error), error.refusal)

    def _append(
        self, entry: Entry, buffers: Sequence[Buffer], length: int, crc: int, policy: int, durable: bool
    ) -> None:
        try:
            self._store.append(entry, buffers, length, crc, policy, sync_soon=durable)
        except EngineError as error:
            self._note(error)
            raise
        if self._store.log.rolled:
            self._seal()

    async def committed(self, entry: Entry, durable: bool) -> Outcome:
        """Commits an appended entry with the next group; what became of it."""
        answer: asyncio.Future[Outcome] = self._loop.create_future()

        def done(outcome: Outcome | EngineError) -> None:
            if answer.cancelled():
                return
            if isinstance(outcome, EngineError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        self._submit(entry, durable, done)
        return await answer

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

    async def blocking(self, work: Callable[[], Result]) -> Result:
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


def _of_cut(done: Done) -> Done:
    """Says with the answer that the data set ends early."""

    def say(outcome: Outcome | EngineError) -> None:
        done(outcome if isinstance(outcome, EngineError) else outcome.of_cut())

    return say
