"""Instances on their way in as DICOM files in pieces (PS3.10): each is handed to the one way in, its answer noted.

    preamble, group 0002 ─► request: transfer syntax, who sends
    data set             ─► gathered: pieces where they were received, with their crc32c
       whole, short        ─► ingestor.offer: several are on their way, and one sync is for all of them
       long, or no memory  ─► ingestor.begin_stream: a piece is written while the next one is gathered

Nothing of an instance is kept but its item in the response. What has been handed over is stored whatever becomes of
the request; what is half here when it ends is given up.
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

from engine import guards, log
from engine.archive.ingest.request import POLICIES, Answer, Outcome, Payload, StoreRequest, crc32c
from engine.dicom import part10, storage_classes, transfer_syntax
from engine.dicom.elements import ScanLimits
from engine.errors import DataSetError, EngineError, InstanceRefused, Refusal, StorageError
from engine.runtime.store_notes import StoreNotes
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

JOINED_BYTES_MAX: Final = 16 << 10
"""Shorter pieces of bytes are copied together: each buffer is an object, and a step for whoever reads them."""

STREAM_PIECE_BYTES: Final = 4 << 20
"""What is gathered of a long object before it is written."""


class _File:
    """One file while it comes."""

    __slots__ = (
        "began_at", "bytes_length", "crc", "error", "held", "length", "meta", "pieces", "request", "stream",
        "summed_from", "writing",
    )  # fmt: skip

    def __init__(self) -> None:
        self.pieces: list[Buffer] = []
        self.held = 0
        """Bytes in the pieces."""
        self.bytes_length = 0
        """How many of these the budget knows of from us: views of blocks are counted by their pool."""
        self.length = 0
        """Of the data set so far."""
        self.crc = 0
        """Of the data set so far; before it is known where that begins, from `summed_from`."""
        self.summed_from = -1
        """-1: pieces come without the checksum of the data set."""
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
        self._notes = StoreNotes(engine, logger.about(principal.address), self._sender)
        config = engine.config
        self._whole_bytes_max = config.limits.stream_threshold_bytes
        self._data_set_bytes_max = config.limits.data_set_bytes_max
        self._requests: dict[tuple[str, str], StoreRequest] = {}
        """By transfer syntax and SOP class, which nearly all files of a request share."""
        self._on_the_way = 0
        self._answered: asyncio.Future[None] | None = None
        self._file: _File | None = None

    # -- one file after another -------------------------------------------------------------------

    def begin(self) -> None:
        """A file begins."""
        self._file = _File()
        self._file.error = self._engine.admission.refusal()

    async def add(self, data: bytes | memoryview, summed_from: int = -1, crc: int = 0) -> None:
        """What follows of the file. `crc`: of it from the offset `summed_from` to here, where that is known."""
        file = self._file
        assert file is not None
        if file.error is not None:
            return
        self._gather(file, data)
        if file.request is not None:
            file.length += len(data)
            file.crc = crc if file.summed_from >= 0 else crc32c(data, file.crc)
        else:
            file.summed_from, file.crc = summed_from, crc
            if file.held >= part10.FILE_META_BYTES_MAX:
                self._read_meta(file)
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
        """The file is whole. Waits while too much is on its way."""
        file, self._file = self._file, None
        assert file is not None
        if file.error is None and file.request is None:
            self._read_meta(file)
        if file.error is not None:
            self._give_back(file)
            self._note(file, Answer(file.error, "", "", "", ""))
            return
        self._on_the_way += 1
        if file.stream is None:
            self._offer(file)
        else:
            guards.watch(self._engine.loop.create_task(self._finish(file, file.stream)), "upload")
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
        """Takes preamble and group 0002 off what has come."""
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
        """What is known of an instance beside its bytes. Raises InstanceRefused for what is never stored."""
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
        )
        self._requests = {(syntax_uid, sop_class_uid): request}
        return request

    def _drop(self, file: _File, error: EngineError) -> None:
        """It is not stored; the rest of it is read and forgotten."""
        file.error = error
        self._give_back(file)
        if file.stream is not None:
            guards.watch(self._engine.loop.create_task(_abort(file.stream, file.writing)), "upload")
            file.stream = None

    def _give_back(self, file: _File) -> None:
        self._budget.taken_bytes -= file.bytes_length
        file.pieces, file.held, file.bytes_length = [], 0, 0

    def _payload(self, file: _File) -> Payload:
        """What is gathered, which belongs to the payload from now on."""
        payload = Payload(file.pieces, file.held, file.crc, partial(self._released, file.bytes_length))
        file.pieces, file.held, file.bytes_length = [], 0, 0
        return payload

    def _released(self, length: int) -> None:
        self._budget.taken_bytes -= length

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
            self._drop(file, error.without_frames())

    def _offer(self, file: _File) -> None:
        """Hands a whole file over."""
        assert file.request is not None
        payload = self._payload(file)
        try:
            self._engine.ingestor.offer(payload, file.request, partial(self._take_answer, file))
        except Exception as error:
            payload.release()
            self._take_answer(file, _of_crash(error))

    async def _finish(self, file: _File, stream: StreamIngest) -> None:
        """Hands over what is left of a stream."""
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
                answer = _of_crash(error)
        self._take_answer(file, answer)

    def _take_answer(self, file: _File, answer: Answer) -> None:
        self._on_the_way -= 1
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)
        self._engine.metrics.store_latency_s.observe(perf_counter() - file.began_at)
        self._note(file, answer)

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
        self._notes.stored(outcome, uid, file.length)
        warning = self._warning(outcome)
        if not warning and meta is not None and meta.media_storage_sop_class_uid not in ("", class_uid):
            warning = Reason.DOES_NOT_MATCH_SOP_CLASS
        self._response.stored(class_uid, uid, answer.study_instance_uid, answer.series_instance_uid, warning)

    def _note_refusal(self, error: EngineError, class_uid: str, uid: str) -> None:
        reason = reason_of(error)
        self._notes.refused(error, uid, reason)
        self._response.failed(class_uid, uid, reason)

    def _warning(self, outcome: Outcome) -> int:
        if outcome is Outcome.TRUNCATED:
            return Reason.ELEMENTS_DISCARDED
        is_told = outcome is Outcome.KEPT_ASIDE and self._engine.config.duplicates_answer == "warning"
        return Reason.COERCED if is_told else 0


def _of_crash(error: Exception) -> Answer:
    logger.error("storing an instance crashed", error=repr(error))
    return Answer(StorageError(f"the store failed: {error!r}"), "", "", "", "")


async def _abort(stream: StreamIngest, writing: asyncio.Task[None] | None) -> None:
    """Leaves nothing of a stream, once what is being written of it is written."""
    try:
        if writing is not None:
            await asyncio.gather(writing, return_exceptions=True)
        await stream.abort()
    except EngineError as error:
        # Recovery removes what is left of it.
        logger.error("half a large object stays on the disk", error=str(error))
