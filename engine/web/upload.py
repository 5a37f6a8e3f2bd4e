"""Instances on their way in as DICOM files in pieces (PS3.10): each is handed to the one way in, its answer noted.

    preamble, group 0002 ─► request: transfer syntax, who sends
    data set             ─► gathered: pieces as they came, their crc32c taken meanwhile
       whole, short        ─► ingestor.ingest in a task: several are on their way, and one sync is for all of them
       long, or no memory  ─► ingestor.begin_stream: a piece is written while the next one is gathered

Nothing of an instance is kept but its item in the response. What has been handed over is stored whatever becomes of
the request; what is half here when it ends is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from engine import guards, log
from engine.archive.ingest.request import POLICIES, Answer, Outcome, Payload, StoreRequest, crc32c
from engine.dicom import part10, storage_classes, transfer_syntax
from engine.dicom.elements import ScanLimits
from engine.errors import (
    DataSetError,
    EngineError,
    InstanceQuarantined,
    InstanceRefused,
    Refusal,
    StorageError,
    StorageFull,
)
from engine.web.stow_response import Reason, StoreResponse, reason_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.access import Principal
    from engine.archive.ingest.stream import StreamIngest
    from engine.runtime.engine import Engine

logger = log.get("web.stow")

ON_THE_WAY_MAX: Final = 64
"""Instances of one request that are not answered yet. What is gathered while the disk syncs is the next group; more
than this makes no group better."""

VIEW_BYTES_MIN: Final = 16 << 10
"""Shorter pieces are copied together: each view is an object, and keeps what was received with it in memory."""

STREAM_PIECE_BYTES: Final = 4 << 20
"""What is gathered of a long object before it is written."""


class Pieces:
    """Bytes as they came, but for short ones, which are joined."""

    __slots__ = ("_views", "length")

    def __init__(self) -> None:
        self._views: list[Buffer] = []
        self.length = 0

    def add(self, data: bytes | memoryview) -> None:
        """One more."""
        length = len(data)
        self.length += length
        if length >= VIEW_BYTES_MIN:
            self._views.append(data)
        elif self._views and isinstance(self._views[-1], bytearray):
            self._views[-1] += data
        else:
            self._views.append(bytearray(data))

    def take(self) -> list[Buffer]:
        """All of them; none are left."""
        views, self._views, self.length = self._views, [], 0
        return views

    def put_back(self, data: bytes | memoryview, rest: list[Buffer], length: int) -> None:
        """What was taken, with another beginning."""
        self._views, self.length = [data, *rest] if data else rest, length


class _File:
    """One file while it comes."""

    __slots__ = ("began_at", "crc", "error", "length", "meta", "pieces", "request", "stream", "writing")

    def __init__(self) -> None:
        self.pieces = Pieces()
        self.length = 0
        """Of the data set so far."""
        self.crc = 0
        self.meta: part10.FileMeta | None = None
        self.request: StoreRequest | None = None
        self.error: EngineError | None = None
        """Why it is not stored: what is still to come is dropped."""
        self.stream: StreamIngest | None = None
        self.writing: asyncio.Task[None] | None = None
        """The piece that is being written."""
        self.began_at = perf_counter()


class Uploads:
    """The instances of one request."""

    def __init__(
        self, engine: Engine, principal: Principal, response: StoreResponse, study_instance_uid: str | None
    ) -> None:
        """`study_instance_uid`: the study that they must belong to; None: any."""
        self._engine = engine
        self._budget = engine.ingest_budget
        self._response = response
        self._study = study_instance_uid
        self._sender = principal.actor
        self._counters = engine.metrics.peer(self._sender)
        self._log = logger.about(principal.address)
        config = engine.config
        settings = config.settings_of("")
        self._durable = settings.durability == "durable"
        self._policy = POLICIES[settings.duplicates]
        self._limits = ScanLimits(config.limits.nesting_depth_max, config.limits.element_count_max)
        self._whole_bytes_max = config.limits.stream_threshold_bytes
        self._data_set_bytes_max = config.limits.data_set_bytes_max
        self._on_the_way = 0
        self._answered: asyncio.Future[None] | None = None
        self._file: _File | None = None

    # -- one file after another -------------------------------------------------------------------

    def begin(self) -> None:
        """A file begins."""
        self._file = _File()
        self._file.error = self._engine.admission.refusal()

    async def add(self, data: bytes | memoryview) -> None:
        """What follows of the file."""
        file = self._file
        assert file is not None
        if file.error is not None:
            return
        self._budget.taken_bytes += len(data)
        file.pieces.add(data)
        if file.request is not None:
            file.length += len(data)
            file.crc = crc32c(data, file.crc)
        elif file.pieces.length >= part10.FILE_META_BYTES_MAX:
            self._read_meta(file)
        if file.length > self._data_set_bytes_max:
            self._drop(file, InstanceRefused("out of resources: the data set is too long", Refusal.OUT_OF_RESOURCES))
        elif file.stream is not None:
            if file.pieces.length >= STREAM_PIECE_BYTES or self._budget.is_used_up:
                await self._write(file)
        elif file.length > self._whole_bytes_max:
            await self._write(file)
        elif self._budget.is_used_up:
            await self._make_room(file)

    async def end(self) -> None:
        """The file is whole. Waits while too much is on its way."""
        file = self._file
        assert file is not None
        if file.error is None and file.request is None:
            self._read_meta(file)
        self._file = None
        if file.error is not None:
            self._give_back(file)
            self._note(file, Answer(file.error, "", "", "", ""))
            return
        self._start(self._finish(file))
        while self._on_the_way >= ON_THE_WAY_MAX:
            await self._one_answered()

    def refuse(self, error: EngineError, sop_class_uid: str, sop_instance_uid: str) -> None:
        """An instance that is not even begun."""
        self._note_refusal(error, sop_class_uid, sop_instance_uid)

    async def settle(self) -> None:
        """Waits until all that was handed over has been answered."""
        while self._on_the_way:
            await self._one_answered()

    def abandon(self) -> None:
        """Nothing more comes: what is half here is given up."""
        file, self._file = self._file, None
        if file is not None:
            self._give_back(file)
            if file.stream is not None:
                guards.watch(self._engine.loop.create_task(_abort(file.stream, file.writing)), "upload")

    # -- inside ---------------------------------------------------------------------------------

    def _read_meta(self, file: _File) -> None:
        """Takes preamble and group 0002 off what has come."""
        length = file.pieces.length
        views = file.pieces.take()
        head, rest = views[0] if views else b"", views[1:]
        if rest and len(head) < part10.FILE_META_BYTES_MAX:  # type: ignore[arg-type]
            head, rest = b"".join(views), []
        view = memoryview(head)
        try:
            meta = part10.read_file_meta(view[: part10.FILE_META_BYTES_MAX])
        except DataSetError as error:
            self._budget.taken_bytes -= length
            file.error = error
            return
        offset = meta.data_set_offset
        file.pieces.put_back(view[offset:], rest, length - offset)
        self._budget.taken_bytes -= offset
        file.meta = meta
        try:
            file.request = self._request(meta)
        except InstanceRefused as error:
            self._drop(file, error)
            return
        file.length = length - offset
        crc = crc32c(view[offset:])
        for piece in rest:
            crc = crc32c(piece, crc)
        file.crc = crc

    def _request(self, meta: part10.FileMeta) -> StoreRequest:
        """What is known of an instance beside its bytes. Raises InstanceRefused for what is never stored."""
        syntax_uid, sop_class_uid = meta.transfer_syntax_uid, meta.media_storage_sop_class_uid
        if not transfer_syntax.of(syntax_uid).known:
            raise InstanceRefused(f"transfer syntax {syntax_uid[:64]} is not supported", Refusal.TRANSFER_SYNTAX)
        if sop_class_uid and not storage_classes.is_stored(sop_class_uid, promiscuous=self._engine.config.promiscuous):
            raise InstanceRefused(f"SOP class {sop_class_uid[:64]} is not stored", Refusal.SOP_CLASS)
        return StoreRequest(
            syntax_uid,
            self._sender,
            None,
            None,
            self._durable,
            self._policy,
            self._limits,
            study_instance_uid=self._study,
        )

    def _drop(self, file: _File, error: EngineError) -> None:
        """It is not stored; the rest of it is read and forgotten."""
        file.error = error
        self._give_back(file)
        if file.stream is not None:
            guards.watch(self._engine.loop.create_task(_abort(file.stream, file.writing)), "upload")
            file.stream = None

    def _give_back(self, file: _File) -> None:
        self._budget.taken_bytes -= file.pieces.length
        file.pieces.take()

    def _payload(self, file: _File) -> Payload:
        budget, length = self._budget, file.pieces.length

        def give_back() -> None:
            budget.taken_bytes -= length

        return Payload(file.pieces.take(), length, file.crc, give_back)

    async def _make_room(self, file: _File) -> None:
        """Memory is short: waits for what is on its way; where nothing is, the file goes on as a stream."""
        if self._on_the_way:
            await self._one_answered()
        elif file.request is not None:
            self._engine.metrics.counters["stores_streamed_for_memory"] += 1
            await self._write(file)

    async def _write(self, file: _File) -> None:
        """Begins to write what is gathered, when what was gathered before is written."""
        assert file.request is not None
        try:
            if file.stream is None:
                file.stream = self._engine.ingestor.begin_stream(file.request)
            if file.writing is not None:
                await asyncio.shield(file.writing)
            # A task of its own: a client that goes away must not leave a thread writing what is being given up.
            file.writing = self._engine.loop.create_task(file.stream.write(self._payload(file)))
        except EngineError as error:
            self._drop(file, error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._on_the_way += 1
        guards.watch(self._engine.loop.create_task(work), "upload")

    async def _finish(self, file: _File) -> None:
        """Hands a whole file over, and notes what it is answered."""
        try:
            answer = await self._ingest(file)
        except EngineError as error:
            answer = Answer(error, "", "", "", "")
        except Exception as error:
            logger.error("storing an instance crashed", error=repr(error))
            answer = Answer(StorageError(f"the store failed: {error!r}"), "", "", "", "")
        finally:
            self._on_the_way -= 1
            if self._answered is not None and not self._answered.done():
                self._answered.set_result(None)
        self._engine.metrics.store_latency_s.observe(perf_counter() - file.began_at)
        self._note(file, answer)

    async def _ingest(self, file: _File) -> Answer:
        assert file.request is not None
        if file.stream is None:
            return await self._engine.ingestor.ingest(self._payload(file), file.request)
        last = self._payload(file)
        try:
            if file.writing is not None:
                await file.writing
            return await file.stream.answer(last)
        except BaseException:
            last.release()
            await file.stream.abort()
            raise

    async def _one_answered(self) -> None:
        self._answered = self._engine.loop.create_future()
        await self._answered

    # -- answers ----------------------------------------------------------------------------------

    def _note(self, file: _File, answer: Answer) -> None:
        outcome, meta = answer.outcome, file.meta
        class_uid, uid = answer.sop_class_uid, answer.sop_instance_uid
        if not uid and meta is not None:
            class_uid, uid = meta.media_storage_sop_class_uid, meta.media_storage_sop_instance_uid
        if isinstance(outcome, EngineError):
            self._note_refusal(outcome, class_uid, uid)
            return
        self._counters.instances += 1
        self._counters.bytes += file.length
        warning = self._warning(outcome, uid) if outcome is not Outcome.STORED else 0
        if not warning and meta is not None and meta.media_storage_sop_class_uid not in ("", class_uid):
            warning = Reason.DOES_NOT_MATCH_SOP_CLASS
        self._response.stored(class_uid, uid, answer.study_instance_uid, answer.series_instance_uid, warning)

    def _note_refusal(self, error: EngineError, class_uid: str, uid: str) -> None:
        counters, reason = self._engine.metrics.counters, reason_of(error)
        self._counters.failures += 1
        counters["instances_refused"] += 1
        counters["instances_quarantined"] += isinstance(error, InstanceQuarantined)
        if isinstance(error, StorageFull):
            counters["stores_refused_storage_full"] += 1
            self._engine.admission.found_full()
        self._log.warning(
            "instance refused",
            calling=self._sender,
            sop_instance_uid=uid,
            status=f"{reason:04X}",
            reason=str(error),
        )
        self._response.failed(class_uid, uid, reason)

    def _warning(self, outcome: Outcome, uid: str) -> int:
        self._engine.metrics.counters[f"instances_{outcome.name.lower()}"] += 1
        if outcome is Outcome.DUPLICATE:
            return 0
        if outcome is Outcome.TRUNCATED:
            return Reason.ELEMENTS_DISCARDED
        self._log.warning(
            "other content for a known SOP Instance UID",
            calling=self._sender,
            sop_instance_uid=uid,
            outcome=outcome.name.lower(),
        )
        is_told = outcome is Outcome.KEPT_ASIDE and self._engine.config.duplicates_answer == "warning"
        return Reason.COERCED if is_told else 0


async def _abort(stream: StreamIngest, writing: asyncio.Task[None] | None) -> None:
    """Leaves nothing of a stream, once what is being written of it is written."""
    try:
        if writing is not None:
            await asyncio.gather(writing, return_exceptions=True)
        await stream.abort()
    except EngineError as error:
        # Recovery removes what is left of it.
        logger.error("half a large object stays on the disk", error=str(error))
