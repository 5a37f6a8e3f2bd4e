"""Storage Service Class, SCU: sends stored instances on our own association (C-MOVE) or the requestor's (C-GET).

A stored data set is read directly between the PDU headers of one frame, verified there against its checksum and sent
with one write; while the peer processes one instance, the next is read. Instances that are sent as they are stored go
in batches if possible (`steady`); this module sends all others one by one. A data set is transcoded only if the peer
accepted no presentation context for its stored transfer syntax, and then while it is sent (`outgoing`).

    read-ahead    frame i+1 is filled while the response to i is outstanding
    window        responses outstanding at once: 1, or as many as the asynchronous operations window allows
    budget        frames use the worker's `budget`; when it is short, nothing is read ahead and data sets go in pieces.
                  A peer that needs a second for anything then holds no frame that it does not need
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from engine import log
from engine.archive.transcoding import transcode
from engine.dimse.assembly import Frame, p_data_tf
from engine.dimse.messages import CStoreRQ
from engine.errors import AssociationFailed, AuditUnavailable, CorruptRecord, EngineError, LocalProtocolError
from engine.index.format.types import Instance
from engine.runtime.pools import ThreadPool
from engine.runtime.retrieval_budget import PIECE_SHARE, WHOLE_SHARE, RetrievalBudget
from engine.services import outgoing
from engine.services.contexts import UID_LENGTH_MAX, SendContexts
from engine.services.frames import Frames
from engine.services.outgoing import OutgoingDataSet, Stream
from engine.services.steady import SteadySender
from engine.services.suboperations import SENT_WITH_FAILURE, InstanceQueue, Originator, SendResult

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.archive.archive import Archive
    from engine.archive.retrieve import StoredInstance
    from engine.dicom.coercion import Changes
    from engine.net.connection import Connection
    from engine.net.responses import Responses
    from engine.services.coercion import Coercer
    from engine.ul.negotiation import AcceptedContext

logger = log.get("services.storage_scu")

WHOLE_BYTES_MAX = 8 << 20
"""A data set up to this length is sent as one frame; longer ones piece by piece in bounded memory."""

PIECE_BYTES = 1 << 20
PIECE_BYTES_MIN = 64 << 10
"""The length of a piece when memory is short; never less than one fragment."""

GAPS_MAX = 4096
"""Fragments of one frame. A peer may require PDUs of a few bytes, which must not multiply our memory."""

ONE_BY_ONE_MAX = 64
"""Instances sent one by one before a batch is tried again: each change costs a moment in which nothing is read. Few
at first, and twice as many each time, while batches send less than this."""

PROGRESS_S = 1.0
"""The interval of progress checks: silence may last longer than its limit by so much."""

_AS_STORED = OutgoingDataSet(None, None)


@dataclass(slots=True)
class _Ready:
    """An instance that is ready to be sent: in a frame, or in pieces that are still to be read."""

    stored: StoredInstance
    message_id: int
    response: asyncio.Future[Any]
    frame: Frame | None
    prefix: bytes
    context: AcceptedContext
    data: bytes | None = None
    """Sent instead of the stored bytes: the data set in another transfer syntax, or with changed attributes."""
    stream: Stream | None = None
    """The same, converted while it is sent."""
    budget_bytes: int = 0
    """Bytes of the budget that `data` or `stream` uses."""

    @property
    def instance(self) -> Instance:
        """The stored instance."""
        return self.stored.instance

    @property
    def length(self) -> int:
        """Length of the data set that is sent; not for a stream."""
        return self.stored.length if self.data is None else len(self.data)


class InstanceSender:
    """Sends instances on one association."""

    def __init__(
        self,
        archive: Archive,
        transcoder: transcode.Transcoder,
        connection: Connection,
        responses: Responses,
        contexts: Iterable[AcceptedContext],
        *,
        budget: RetrievalBudget,
        reads: ThreadPool,
        fragment: int,
        window: int,
        response_timeout_s: float,
        cleared: Callable[[], Awaitable[None]],
        preferred: tuple[str, ...] = (),
        coercer: Coercer | None = None,
    ) -> None:
        """`contexts`: uses those on which we are SCU; `fragment` in bytes; `window` ≥ 1 outstanding responses;
        `cleared` waits until an instance may be sent, and raises AuditUnavailable: it is read meanwhile."""
        self._cleared = cleared
        self._budget = budget
        self._reads = reads
        self._coercer = coercer
        self._archive = archive
        self._transcoder = transcoder
        self._connection = connection
        self._responses = responses
        self._fragment = fragment
        self._window = window
        self._timeout_s = response_timeout_s
        self._contexts = SendContexts(contexts, preferred)
        self._frames = Frames(budget, fragment)
        self._outstanding: deque[_Ready] = deque()
        """Sent instances without a response."""
        self._ahead: _Ready | None = None
        """The instance that was read ahead and not sent yet."""
        self._leaving: list[Frame] = []
        """Frames whose response came before the kernel had all their bytes."""
        self.unanswered: dict[str, Instance] = {}
        """Instances that were sent, wholly or in part, and have no response: they may or may not have arrived."""
        self._steady = SteadySender(
            archive,
            connection,
            responses,
            self._contexts,
            self._frames,
            budget,
            fragment=fragment,
            window=window,
            timeout_s=response_timeout_s,
            coercer=coercer,
            reads=reads,
            drained=self._drained,
            cleared=cleared,
        )

    async def send_all(
        self, source: InstanceQueue, originator: Originator, is_wanted: Callable[[], bool]
    ) -> AsyncIterator[list[SendResult]]:
        """Sends the instances of `source` in order, as long as `is_wanted`; yields their results.

        An instance that cannot be sent (no context, corrupt, not decodable) has a result with the error, and the next
        one follows. Raises AssociationFailed when the association is lost, or AuditUnavailable.
        """
        one_by_one = 1
        try:
            while True:
                steady_count = 0
                async for results in self._steady.run(source, originator, is_wanted, self.unanswered):
                    steady_count += len(results)
                    yield results
                one_by_one = 1 if steady_count >= ONE_BY_ONE_MAX else min(2 * one_by_one, ONE_BY_ONE_MAX)
                is_finished = True
                async for result in self._one_by_one(islice(source, one_by_one), originator, is_wanted):
                    is_finished = False
                    yield [result]
                if is_finished:
                    break
        finally:
            self._forget_ahead()
            for ready in self._outstanding:
                self._responses.forget(ready.message_id)
                self._free(ready)
            self._frames.close()

    async def _one_by_one(
        self, instances: Iterator[Instance], originator: Originator, is_wanted: Callable[[], bool]
    ) -> AsyncIterator[SendResult]:
        """Sends instances in the way that each needs, reading one ahead."""
        outstanding = self._outstanding
        for instance in instances:
            try:
                ready = self._ahead = await self._prepare(instance, originator)
                while len(outstanding) >= self._window:
                    yield await self._answer()
                await self._cleared()
                if not is_wanted():
                    break
                await self._transmit(ready)
            except (AssociationFailed, AuditUnavailable):
                raise
            except EngineError as error:
                self._forget_ahead()
                if isinstance(error, CorruptRecord):
                    await self._blocking(functools.partial(self._archive.retrieval.note_damage, instance, error))
                yield SendResult(instance, SENT_WITH_FAILURE, error)
        self._forget_ahead()
        while outstanding:
            yield await self._answer()
        if self._leaving:
            await self._reclaim_leaving()

    @property
    def unreported(self) -> list[SendResult]:
        """Results that `send_all` could not yield, because it was cancelled at that moment."""
        return self._steady.unreported

    # -- inside ---------------------------------------------------------------------------------

    async def _prepare(self, instance: Instance, originator: Originator) -> _Ready:
        if len(instance.sop_instance_uid) > UID_LENGTH_MAX:
            # Old archives have such instances. Many peers would end the association over one, and fail all others.
            length = len(instance.sop_instance_uid)
            raise LocalProtocolError(f"a SOP Instance UID of {length} characters, {UID_LENGTH_MAX} are allowed")
        context, target = self._contexts.choose(instance)
        converted, budget_bytes = _AS_STORED, 0
        changes = self._coercer.changes(instance) if self._coercer is not None else None
        if changes is not None or target != instance.transfer_syntax_uid or instance.position.payload_length & 1:
            converted, budget_bytes = await self._convert(instance, target, changes)
        message_id, response = self._responses.expect()
        try:
            command = CStoreRQ(
                message_id,
                instance.sop_class_uid,
                instance.sop_instance_uid,
                originator.priority,
                originator.ae_title,
                originator.message_id,
            ).encode()
            self._connection.trace_command(context.presentation_context_id, command)
            prefix = p_data_tf(context.presentation_context_id, True, command, self._fragment)
            stored = self._archive.retrieval.open(instance)
            data, stream = converted.data, converted.stream
            ready = _Ready(stored, message_id, response, None, prefix, context, data, stream, budget_bytes)
            if ready.stream is not None:
                pass
            elif ready.length <= min(WHOLE_BYTES_MAX, GAPS_MAX * self._fragment):
                ready.frame = await self._whole_frame(ready)
            elif ready.data is None:
                # Damage found in the middle would cost the association, and everything else on it.
                await self._blocking(ready.stored.verify_damaged)
        except BaseException:
            self._budget.give_back(budget_bytes)
            self._responses.forget(message_id)
            raise
        return ready

    async def _convert(self, instance: Instance, target: str, changes: Changes | None) -> tuple[OutgoingDataSet, int]:
        """The converted data set, and the bytes of the budget that it uses. Raises MemoryShort."""
        budget_bytes = outgoing.conversion_bytes(instance, changes)
        if not self._budget.take(budget_bytes, PIECE_SHARE):
            # Hold no memory while you wait for memory.
            await self._drained()
            self._shed(ahead=False)
            await self._budget.wait_for(budget_bytes, self._timeout_s)
        try:
            converted = await outgoing.convert(self._archive, self._transcoder, self._reads, instance, target, changes)
        except BaseException:
            self._budget.give_back(budget_bytes)
            raise
        if converted.data is not None:
            self._budget.give_back(budget_bytes - len(converted.data))
            budget_bytes = len(converted.data)
        return converted, budget_bytes

    def _free(self, ready: _Ready) -> None:
        """Frees its converted data or stream."""
        self._budget.give_back(ready.budget_bytes)
        ready.budget_bytes = 0
        ready.data = ready.stream = None

    def _forget_ahead(self) -> None:
        if self._ahead is not None:
            self._responses.forget(self._ahead.message_id)
            self._frames.drop(self._ahead.frame)
            self._free(self._ahead)
            self._ahead = None

    def _shed(self, *, ahead: bool) -> None:
        """Frees all memory that is not needed now; `ahead`: also the frame that was read ahead."""
        self._frames.drop_idle()
        if not self._connection.unsent_bytes:
            self._leaving, frames = [], self._leaving
            for frame in frames:
                self._frames.drop(frame)
            for ready in self._outstanding:
                self._frames.drop(ready.frame)
                ready.frame = None
        if ahead and self._ahead is not None:
            self._frames.drop(self._ahead.frame)
            self._ahead.frame = None

    async def _whole_frame(self, ready: _Ready) -> Frame | None:
        """The whole message in one frame; None when memory is short."""
        frame = self._frames.take(len(ready.prefix), ready.length, WHOLE_SHARE)
        if frame is None:
            return None
        try:
            gaps = frame.layout(ready.prefix, ready.length, self._fragment, ready.context.presentation_context_id, True)
            await self._fill(gaps, ready, 0)
            if ready.data is None:
                ready.stored.check(frame.crc())
        except BaseException:
            self._frames.keep(frame)
            raise
        return frame

    async def _fill(self, gaps: list[memoryview], ready: _Ready, at: int) -> None:
        """Reads the data set from offset `at` into `gaps`."""
        if ready.data is not None:
            _fill_from(ready.data, gaps, at)
            return
        if not ready.stored.fill_cached(gaps, at):
            await self._blocking(functools.partial(ready.stored.fill, gaps, at))

    async def _transmit(self, ready: _Ready) -> None:
        if self._leaving:
            await self._reclaim_leaving()
        if ready.frame is not None:
            self._begin(ready)
            self._connection.send(ready.frame)
            return
        frame, piece_bytes = await self._piece_frame(ready)
        if ready.stream is not None:
            await self._transmit_stream(ready, ready.stream, frame, piece_bytes)
            return
        self._begin(ready)
        try:
            await self._transmit_pieces(ready, frame, piece_bytes)
        except CorruptRecord as error:
            # Note the damage first: the abort cancels this task, and a thread that has not begun would never note it.
            await self._blocking(functools.partial(self._archive.retrieval.note_damage, ready.instance, error))
            # The peer has a part of the object: only an abort tells it that the object is incomplete.
            self._connection.abort(f"stored object is corrupt: {error}", 2, 0)
            raise AssociationFailed(f"aborted, stored object is corrupt: {error}") from error
        self._frames.keep(frame)

    def _begin(self, ready: _Ready) -> None:
        """Marks an instance as sent: from now on the peer may have a part of it."""
        self._ahead = None
        self._outstanding.append(ready)
        self.unanswered[ready.instance.sop_instance_uid] = ready.instance

    def _piece_bytes(self, limit: int) -> int:
        return max(min(limit // self._fragment, GAPS_MAX), 1) * self._fragment

    async def _piece_frame(self, ready: _Ready) -> tuple[Frame, int]:
        """A frame for the pieces, one after the other, and the length of a piece.

        Raises MemoryShort, or CorruptRecord for an instance that would fit one frame; nothing has been sent then.
        """
        piece_bytes = self._piece_bytes(PIECE_BYTES)
        length = piece_bytes if ready.stream is not None else ready.length
        frame = self._frames.take(len(ready.prefix), min(length, piece_bytes), PIECE_SHARE)
        if frame is None:
            # Hold no memory while you wait for memory.
            await self._drained()
            self._shed(ahead=False)
            piece_bytes = self._piece_bytes(PIECE_BYTES_MIN)
            frame = await self._frames.wait_for(len(ready.prefix), min(length, piece_bytes), self._timeout_s)
        if ready.data is None and ready.stream is None and ready.length <= WHOLE_BYTES_MAX:
            try:
                await self._blocking(ready.stored.verify)
            except BaseException:
                self._frames.keep(frame)
                raise
        return frame, piece_bytes

    async def _transmit_pieces(self, ready: _Ready, frame: Frame, piece_bytes: int) -> None:
        """Sends the data set piece by piece; the last one only after the checksum of the whole was verified."""
        prefix, at, crc = ready.prefix, 0, 0
        async with self._connection.message() as send:
            while at < ready.length:
                length = min(piece_bytes, ready.length - at)
                is_last = at + length == ready.length
                gaps = frame.layout(prefix, length, self._fragment, ready.context.presentation_context_id, is_last)
                await self._fill(gaps, ready, at)
                crc = frame.crc(crc)
                if is_last and ready.data is None:
                    ready.stored.check(crc)
                send(frame)
                await self._until(self._connection.part_drained)
                prefix, at = b"", at + length

    async def _transmit_stream(self, ready: _Ready, stream: Stream, frame: Frame, piece_bytes: int) -> None:
        """Sends a stream one piece behind: only its end shows which piece is the last, and that all was correct."""
        prefix, piece, following = ready.prefix, memoryview(bytearray(piece_bytes)), memoryview(bytearray(piece_bytes))
        try:
            length = await self._blocking(functools.partial(stream.fill, piece))
        except BaseException:
            self._frames.keep(frame)
            raise
        self._begin(ready)
        is_last = False
        while not is_last:
            try:
                next_length = await self._blocking(functools.partial(stream.fill, following))
            except EngineError as error:
                # The peer has a part of the object: only an abort tells it that the object is incomplete.
                self._connection.abort(f"the object cannot be sent completely: {error}", 2, 0)
                raise AssociationFailed(f"aborted, the object cannot be sent completely: {error}") from error
            is_last = next_length == 0
            gaps = frame.layout(prefix, length, self._fragment, ready.context.presentation_context_id, is_last)
            _fill_from(piece, gaps, 0)
            self._connection.send(frame)
            await self._drained()
            prefix, piece, following, length = b"", following, piece, next_length
        self._frames.keep(frame)
        self._free(ready)

    async def _drained(self) -> None:
        await self._until(self._connection.drained)

    async def _until(self, drained: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._in_time(drained, f"the peer received nothing for {self._timeout_s:g} s")
        except ConnectionError as error:
            raise AssociationFailed(str(error)) from error

    async def _reclaim_leaving(self) -> None:
        """Waits until the kernel has the leaving frames, so that they do not pile up, and makes them idle."""
        await self._drained()
        while self._leaving:
            self._frames.keep(self._leaving.pop())

    async def _answer(self) -> SendResult:
        """Waits for the response to the instance that was sent first."""
        ready = self._outstanding[0]
        response = await self._in_time(
            lambda: asyncio.shield(ready.response), f"the peer did not answer C-STORE within {self._timeout_s:g} s"
        )
        self._outstanding.popleft()
        self._free(ready)
        del self.unanswered[ready.instance.sop_instance_uid]
        if ready.frame is not None:
            if self._connection.unsent_bytes:
                self._leaving.append(ready.frame)
            else:
                self._frames.keep(ready.frame)
        return SendResult(ready.instance, response.status)

    async def _in_time(self, wait: Callable[[], Awaitable[Any]], why: str) -> Any:
        """The result of `wait`. Raises AssociationFailed after too long a silence; a slow peer may go on receiving.

        Progress is checked once a second, so that silence that begins late is not waited for twice as long.
        """
        step_s = min(PROGRESS_S, self._timeout_s / 4)
        delivered, silent_s = -1, 0.0
        while True:
            try:
                async with asyncio.timeout(step_s):
                    return await wait()
            except TimeoutError:
                if self._budget.is_short:
                    self._shed(ahead=True)
                before, delivered = delivered, self._connection.delivered_bytes
                silent_s = silent_s + step_s if delivered == before else step_s
                if silent_s < self._timeout_s:
                    continue
                self._connection.give_up(why)
                raise AssociationFailed(why) from None

    async def _blocking(self, work: Callable[[], Any]) -> Any:
        return await self._reads.run(work)


def _fill_from(data: Buffer, gaps: list[memoryview], at: int) -> None:
    """Copies `data` from offset `at` into gaps."""
    view = memoryview(data)
    for gap in gaps:
        gap[:] = view[at : at + len(gap)]
        at += len(gap)
