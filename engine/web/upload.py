"""Receives instances as DICOM files (PS3.10) in pieces, passes them to the ingestor, and records the answers.

    preamble, group 0002 ─► store request: transfer syntax, sender
    data set             ─► pieces in the memory where they were received, with their crc32c
       complete, short     ─► ingestor.offer: several at once, which share one sync
       long, or no memory  ─► ingestor.begin_stream: a piece is written while the next one is received

Only the response item of an instance is kept. An instance that was passed to the ingestor is stored even if the request
fails later; an incomplete one is dropped.
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

from engine import guards, log
from engine.access import Action
from engine.archive.ingest.request import POLICIES, Answer, Outcome, Payload, StoreRequest, crc32c
from engine.dicom import part10, storage_classes, transfer_syntax
from engine.dicom.elements import ScanLimits
from engine.errors import DataSetError, EngineError, InstanceRefused, Refusal, StorageError, for_log
from engine.runtime.audit_trail import Act
from engine.runtime.store_recorder import StoreRecorder
from engine.web.stow_response import Reason, StoreResponse, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from typing_extensions import Buffer

    from engine.access import Principal
    from engine.archive.ingest.stream import StreamIngest
    from engine.runtime.engine import Engine
    from engine.web.multipart import Piece

logger = log.get("web.stow")

UNANSWERED_MAX: Final = 64
"""Instances of one request that the ingestor has not answered yet. Instances that arrive during a sync form the next
group; larger groups are not faster."""

JOINED_BYTES_MAX: Final = 16 << 10
"""Shorter pieces are joined by copying: each buffer is an object, and costs time when it is read."""

STREAM_PIECE_BYTES: Final = 4 << 20
"""Bytes of a long data set that are collected before they are written."""


class _File:
    """One file while it is received."""

    __slots__ = (
        "began_at", "bytes_length", "crc", "error", "held", "length", "meta", "pieces", "request", "stream",
        "summed_from", "writing",
    )  # fmt: skip

    def __init__(self) -> None:
        self.pieces: list[Buffer] = []
        self.held = 0
        """Bytes in the pieces."""
        self.bytes_length = 0
        """Bytes that we added to the budget; views of blocks are counted by their pool."""
        self.length = 0
        """Bytes of the data set so far."""
        self.crc = 0
        """crc32c of the data set so far; before its offset is known, of the bytes from `summed_from`."""
        self.summed_from = -1
        """-1: pieces have no checksum of the data set."""
        self.meta: part10.FileMeta | None = None
        self.request: StoreRequest | None = None
        self.error: EngineError | None = None
        """Why it is not stored; the rest of it is dropped."""
        self.stream: StreamIngest | None = None
        self.writing: asyncio.Task[None] | None = None
        """Writes a piece."""
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
        self._act = Act(principal, "STOW-RS")
        self._counts: dict[tuple[bytes, str, bool], int] = {}
        """What was stored, for the audit log."""
        self._is_over = False
        self._scope = engine.access.scope(principal, Action.STORE)
        self._recorder = StoreRecorder(engine, logger.about(principal.address), self._sender)
        config = engine.config
        self._whole_bytes_max = config.limits.stream_threshold_bytes
        self._data_set_bytes_max = config.limits.data_set_bytes_max
        self._requests: dict[tuple[str, str], StoreRequest] = {}
        """By transfer syntax and SOP class, which nearly all files of a request share."""
        self._unanswered = 0
        self._when_settled: Callable[[], None] | None = None
        self._next_answer: asyncio.Future[None] | None = None
        self._file: _File | None = None

    # -- one file after another -------------------------------------------------------------------

    def begin(self) -> None:
        """Begins a file."""
        self._file = _File()
        self._file.error = self._engine.admission.refusal()

    async def add(self, data: bytes | memoryview, summed_from: int = -1, crc: int = 0) -> None:
        """Adds the next bytes of the file. `crc`: of the file from the offset `summed_from` to here, if known."""
        file = self._file
        assert file is not None
        if file.error is not None:
            return
        self._take(file, data, summed_from, crc)
        if file.length > self._data_set_bytes_max:
            self._drop(file, InstanceRefused("out of resources: the data set is too long", Refusal.OUT_OF_RESOURCES))
        elif file.stream is not None:
            if file.held >= STREAM_PIECE_BYTES or self._budget.is_used_up:
                await self._write(file)
        elif file.length > self._whole_bytes_max:
            await self._write(file)
        elif self._budget.is_used_up:
            await self._make_room(file)

    async def end(self) -> None:
        """Ends the file. Waits while too many instances are unanswered."""
        self._end()
        while self._unanswered >= UNANSWERED_MAX:
            await self._wait_for_answer()

    def offer_all(self, files: Iterable[Sequence[Piece]], when_settled: Callable[[], None]) -> None:
        """Stores some short files that are in memory; no other one follows. Calls back when all are answered.

        None is longer than one that is stored whole.
        """
        for pieces in files:
            self.begin()
            file = self._file
            assert file is not None
            for view, summed_from, crc in pieces:
                if file.error is None:
                    self._take(file, view, summed_from, crc)
            self._end()
        self._when_settled = when_settled
        self._is_over = True
        self._settle_if_over()

    def _end(self) -> None:
        file, self._file = self._file, None
        assert file is not None
        if file.error is None and file.request is None:
            self._read_meta(file)
        if file.error is not None:
            self._give_back(file)
            self._note(file, Answer(file.error, "", "", "", ""))
            return
        self._unanswered += 1
        if file.stream is None:
            self._offer(file)
        else:
            guards.watch(self._engine.loop.create_task(self._finish(file, file.stream)), "upload")

    def refuse(self, error: EngineError, sop_class_uid: str, sop_instance_uid: str) -> None:
        """Records an instance that cannot be stored, without a file."""
        self._note_refusal(error, sop_class_uid, sop_instance_uid)

    async def settle(self) -> None:
        """Waits for the answers of all instances."""
        while self._unanswered:
            await self._wait_for_answer()

    def abandon(self) -> None:
        """Drops an incomplete file. No other one follows."""
        self._is_over = True
        self._settle_if_over()
        file, self._file = self._file, None
        if file is not None:
            self._give_back(file)
            if file.stream is not None:
                guards.watch(self._engine.loop.create_task(_abort(file.stream, file.writing)), "upload")

    # -- inside ---------------------------------------------------------------------------------

    def _take(self, file: _File, data: bytes | memoryview, summed_from: int, crc: int) -> None:
        self._gather(file, data)
        if file.request is not None:
            file.length += len(data)
            file.crc = crc if file.summed_from >= 0 else crc32c(data, file.crc)
        else:
            file.summed_from, file.crc = summed_from, crc
            if file.held >= part10.FILE_META_BYTES_MAX:
                self._read_meta(file)

    def _gather(self, file: _File, data: bytes | memoryview) -> None:
        length = len(data)
        file.held += length
        if isinstance(data, memoryview):
            file.pieces.append(data)
            return
        self._budget.taken_bytes += length
        file.bytes_length += length
        if length >= JOINED_BYTES_MAX:
            file.pieces.append(data)
        elif file.pieces and isinstance(file.pieces[-1], bytearray):
            file.pieces[-1] += data
        else:
            file.pieces.append(bytearray(data))

    def _read_meta(self, file: _File) -> None:
        """Parses preamble and group 0002, and removes them from the pieces."""
        if len(file.pieces) == 1:
            view = memoryview(file.pieces[0])
        else:
            view = memoryview(b"".join(file.pieces))
            self._budget.taken_bytes += len(view) - file.bytes_length
            file.bytes_length = len(view)
        try:
            meta = part10.read_file_meta(view[: part10.FILE_META_BYTES_MAX])
            file.meta = meta
            file.request = self._request(meta)
        except (DataSetError, InstanceRefused) as error:
            self._drop(file, error.without_frames())
            return
        data_set = view[meta.data_set_offset :]
        file.pieces = [data_set]
        file.held = file.length = len(data_set)
        if file.summed_from != meta.data_set_offset:
            file.summed_from, file.crc = -1, crc32c(data_set)

    def _request(self, meta: part10.FileMeta) -> StoreRequest:
        """The store request of an instance. Raises InstanceRefused if it can never be stored."""
        syntax_uid, sop_class_uid = meta.transfer_syntax_uid, meta.media_storage_sop_class_uid
        request = self._requests.get((syntax_uid, sop_class_uid))
        if request is not None:
            return request
        config = self._engine.config
        if not transfer_syntax.of(syntax_uid).known:
            raise InstanceRefused(f"transfer syntax {syntax_uid[:64]} is not supported", Refusal.TRANSFER_SYNTAX)
        if sop_class_uid and not storage_classes.is_stored(sop_class_uid, promiscuous=config.promiscuous):
            raise InstanceRefused(f"SOP class {sop_class_uid[:64]} is not stored", Refusal.SOP_CLASS)
        settings = config.settings_of("")
        request = StoreRequest(
            syntax_uid,
            self._sender,
            None,
            None,
            settings.durability == "durable",
            POLICIES[settings.duplicates],
            ScanLimits(config.limits.nesting_depth_max, config.limits.element_count_max),
            study_instance_uid=self._study,
            scope=self._scope,
            durable_at=settings.durable,
        )
        self._requests = {(syntax_uid, sop_class_uid): request}
        return request

    def _drop(self, file: _File, error: EngineError) -> None:
        """Refuses a file; the rest of it is read and dropped."""
        file.error = error
        self._give_back(file)
        if file.stream is not None:
            guards.watch(self._engine.loop.create_task(_abort(file.stream, file.writing)), "upload")
            file.stream = None

    def _give_back(self, file: _File) -> None:
        self._budget.taken_bytes -= file.bytes_length
        file.pieces, file.held, file.bytes_length = [], 0, 0

    def _payload(self, file: _File) -> Payload:
        """The collected pieces, which belong to the payload from now on."""
        payload = Payload(file.pieces, file.held, file.crc, partial(self._release, file.bytes_length))
        file.pieces, file.held, file.bytes_length = [], 0, 0
        return payload

    def _release(self, length: int) -> None:
        self._budget.taken_bytes -= length

    async def _make_room(self, file: _File) -> None:
        """Without memory: waits for unanswered instances; if there are none, the file continues as a stream."""
        if self._unanswered:
            await self._wait_for_answer()
        elif file.request is not None:
            self._engine.metrics.counters["stores_streamed_for_memory"] += 1
            await self._write(file)

    async def _write(self, file: _File) -> None:
        """Begins to write the collected pieces when the previous ones are written."""
        assert file.request is not None
        try:
            if file.stream is None:
                file.stream = self._engine.ingestor.begin_stream(file.request)
            if file.writing is not None:
                await asyncio.shield(file.writing)
            # A separate task: if the client disconnects, the write must end before the stream is aborted.
            file.writing = self._engine.loop.create_task(file.stream.write(self._payload(file)))
        except EngineError as error:
            self._drop(file, error.without_frames())

    def _offer(self, file: _File) -> None:
        """Passes a complete file to the ingestor."""
        assert file.request is not None
        payload = self._payload(file)
        try:
            self._engine.ingestor.offer(payload, file.request, partial(self._take_answer, file))
        except Exception as error:
            payload.release()
            self._take_answer(file, _crash_answer(error))

    async def _finish(self, file: _File, stream: StreamIngest) -> None:
        """Writes the rest of a stream."""
        last = self._payload(file)
        try:
            if file.writing is not None:
                await file.writing
            answer = await stream.answer(last)
        except Exception as error:
            last.release()
            await stream.abort()
            if isinstance(error, EngineError):
                answer = Answer(error.without_frames(), "", "", "", "")
            else:
                answer = _crash_answer(error)
        self._take_answer(file, answer)

    def _take_answer(self, file: _File, answer: Answer) -> None:
        self._unanswered -= 1
        if self._next_answer is not None and not self._next_answer.done():
            self._next_answer.set_result(None)
        self._engine.metrics.store_latency_s.observe(perf_counter() - file.began_at)
        self._note(file, answer)
        self._settle_if_over()

    async def _wait_for_answer(self) -> None:
        self._next_answer = self._engine.loop.create_future()
        await self._next_answer

    # -- answers ----------------------------------------------------------------------------------

    def _note(self, file: _File, answer: Answer) -> None:
        outcome, meta = answer.outcome, file.meta
        class_uid, uid = answer.sop_class_uid, answer.sop_instance_uid
        if not uid and meta is not None:
            class_uid, uid = meta.media_storage_sop_class_uid, meta.media_storage_sop_instance_uid
        if isinstance(outcome, EngineError):
            self._note_refusal(outcome, class_uid, uid)
            return
        self._recorder.stored(outcome, uid, file.length)
        key = (answer.study_instance_uid.encode(), class_uid, outcome is not Outcome.DUPLICATE)
        self._counts[key] = self._counts.get(key, 0) + 1
        warning = self._warning(outcome)
        if not warning and meta is not None and meta.media_storage_sop_class_uid not in ("", class_uid):
            warning = Reason.DOES_NOT_MATCH_SOP_CLASS
        self._response.stored(class_uid, uid, answer.study_instance_uid, answer.series_instance_uid, warning)

    def _settle_if_over(self) -> None:
        """Records what was stored, once, when no further answer comes."""
        if not self._is_over or self._unanswered:
            return
        if self._counts:
            counts, self._counts = self._counts, {}
            self._engine.audit_trail.received(self._act, counts)
        when_settled, self._when_settled = self._when_settled, None
        if when_settled is not None:
            guards.call("the answer to a store", when_settled)

    def _note_refusal(self, error: EngineError, class_uid: str, uid: str) -> None:
        reason = reason_of(error)
        self._recorder.refused(error, uid, reason)
        self._response.failed(class_uid, uid, reason)

    def _warning(self, outcome: Outcome) -> int:
        if outcome is Outcome.TRUNCATED:
            return Reason.ELEMENTS_DISCARDED
        has_warning = outcome is Outcome.KEPT_ASIDE and self._engine.config.duplicates_answer == "warning"
        return Reason.COERCED if has_warning else 0


def _crash_answer(error: Exception) -> Answer:
    logger.error("storing an instance crashed", error=for_log(error))
    return Answer(StorageError(f"the store failed: {error!r}"), "", "", "", "")


async def _abort(stream: StreamIngest, writing: asyncio.Task[None] | None) -> None:
    """Removes a stream after its current write."""
    try:
        if writing is not None:
            await asyncio.gather(writing, return_exceptions=True)
        await stream.abort()
    except EngineError as error:
        # Recovery removes it.
        logger.error("an incomplete large instance was not removed", error=for_log(error))
