"""Storage Service Class, SCU: sends stored instances on an association, its own (C-MOVE) or the asker's (C-GET).

Does not choose instances and does not count them. A stored data set is read straight between the PDU headers of one
frame, checked there against its checksum and sent with one write; while the peer thinks about one instance the next is
read. Only when the peer took no presentation context for the stored transfer syntax is a data set transcoded.

    read-ahead    frame i+1 is filled while the answer to i is due
    window        answers outstanding at once: 1, or what the asynchronous operations window allows
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import log
from engine.archive.transcoding import transcode
from engine.dimse.assembly import Frame, p_data_tf
from engine.dimse.messages import CStoreRQ
from engine.errors import AssociationFailed, CorruptRecord, EngineError, SegmentGone
from engine.index.types import Instance
from engine.services.contexts import SendContexts

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.net.connection import Connection
    from engine.net.responses import Responses
    from engine.services.coercion import Coercer
    from engine.ul.negotiation import AcceptedContext

logger = log.get("services.storage_scu")

WHOLE_BYTES_MAX = 8 << 20
"""A data set up to this length is sent as one frame; longer ones go piece by piece in bounded memory."""

PIECE_BYTES = 1 << 20

GAPS_MAX = 4096
"""Fragments of one frame. A peer may ask for PDUs of a few bytes: what it takes shall not multiply our memory."""

PROGRESS_S = 1.0
"""How often a peer that takes its time is looked at: by so much silence may last longer than its limit."""

SENT_WITH_FAILURE = 0xA700
"""Not a status on the wire: what the sender notes for an instance that it could not send."""


@dataclass(frozen=True, slots=True)
class Originator:
    """What sub-operations of a C-MOVE carry (PS3.7 9.1.1.1)."""

    ae_title: str = ""
    message_id: int | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one instance: the peer's status, or why it was not sent."""

    instance: Instance
    status: int
    error: EngineError | None = None


@dataclass(slots=True)
class _Ready:
    """An instance that can go out: a frame, or a large one that is yet to be read."""

    instance: Instance
    message_id: int
    response: asyncio.Future[Any]
    frame: Frame | None
    prefix: bytes
    context: AcceptedContext
    data: bytes | None = None
    """What is sent instead of the stored bytes: the data set in another transfer syntax, or with other attributes."""
    rest_offset: int = -1
    """Where in the stored bytes to go on after `data`; -1: nowhere."""

    @property
    def length(self) -> int:
        """Bytes of the data set as it is sent."""
        if self.data is None:
            return self.instance.position.payload_length
        rest = self.instance.position.payload_length - self.rest_offset if self.rest_offset >= 0 else 0
        return len(self.data) + rest


class InstanceSender:
    """Sends instances on one association; `send_all` tells what became of each."""

    def __init__(
        self,
        archive: Archive,
        transcoder: transcode.Transcoder,
        connection: Connection,
        responses: Responses,
        contexts: Iterable[AcceptedContext],
        *,
        fragment: int,
        window: int,
        response_timeout_s: float,
        preferred: tuple[str, ...] = (),
        coercer: Coercer | None = None,
    ) -> None:
        """`contexts`: those on which we are SCU; `fragment` in bytes; `window` ≥ 1 answers outstanding."""
        self._coercer = coercer
        self._archive = archive
        self._transcoder = transcoder
        self._connection = connection
        self._responses = responses
        self._fragment = fragment
        self._window = window
        self._timeout_s = response_timeout_s
        self._contexts = SendContexts(contexts, preferred)
        self._frames: list[Frame] = []
        """Frames that may be laid out again: the kernel has all of what was in them."""
        self.unanswered: dict[str, Instance] = {}
        """What has been sent, wholly or in part, and has no answer: it may or may not have arrived."""
        self.gave_up = False
        """Whether the association was ended because the peer was too slow."""

    async def send_all(self, instances: AsyncIterator[Instance], originator: Originator) -> AsyncIterator[Sent]:
        """Sends what `instances` yields, in order, reading one ahead. Raises AssociationFailed when the peer is lost.

        What could not be sent (no context, corrupt, not decodable) is reported, and the next one follows.
        """
        outstanding: deque[_Ready] = deque()
        try:
            async for instance in instances:
                try:
                    ready = await self._prepare(instance, originator)
                except AssociationFailed:
                    raise
                except EngineError as error:
                    if isinstance(error, CorruptRecord):
                        await self._blocking(functools.partial(self._archive.note_damage, instance, error))
                    yield Sent(instance, SENT_WITH_FAILURE, error)
                    continue
                while len(outstanding) >= self._window:
                    yield await self._answer(outstanding.popleft())
                outstanding.append(ready)
                await self._transmit(ready)
            while outstanding:
                yield await self._answer(outstanding.popleft())
        finally:
            for ready in outstanding:
                ready.response.cancel()

    # -- inside ---------------------------------------------------------------------------------

    async def _prepare(self, instance: Instance, originator: Originator) -> _Ready:
        context, target = self._contexts.choose(instance)
        data: bytes | None = None
        if target != instance.transfer_syntax_uid:
            stored = await self._blocking(lambda: self._archive.read(instance))
            data = await self._transcoder.transcode(stored, instance.transfer_syntax_uid, target)
        rest_offset = -1
        changes = self._coercer.changes(instance) if self._coercer is not None else None
        if self._coercer is not None and changes is not None:
            replaced = await self._coercer.replaced(instance, changes, data, target)
            data, rest_offset = replaced.data, replaced.rest_offset
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
            ready = _Ready(instance, message_id, response, None, prefix, context, data, rest_offset)
            if ready.length <= min(WHOLE_BYTES_MAX, GAPS_MAX * self._fragment):
                ready.frame = await self._whole_frame(ready)
            elif data is None:
                # Found corrupt in the middle it would cost the association, and everything else on it.
                await self._blocking(functools.partial(self._archive.check_damaged, instance))
        except BaseException:
            response.cancel()
            raise
        return ready

    def _frame(self, prefix: int, payload: int) -> Frame:
        room = Frame.room_for(prefix, payload, self._fragment)
        for number, frame in enumerate(self._frames):
            if frame.capacity >= room:
                return self._frames.pop(number)
        self._frames.clear()
        return Frame(room + room // 8)

    async def _whole_frame(self, ready: _Ready) -> Frame:
        frame = self._frame(len(ready.prefix), ready.length)
        gaps = frame.layout(ready.prefix, ready.length, self._fragment, ready.context.presentation_context_id, True)
        await self._fill(gaps, ready, 0)
        if ready.data is None:
            self._archive.reader.check(ready.instance.position, frame.crc())
        return frame

    async def _fill(self, gaps: list[memoryview], ready: _Ready, at: int) -> None:
        """Puts the data set from `at` into `gaps`."""
        if ready.data is not None:
            gaps, at = _fill_from(ready.data, gaps, at)
            if not gaps:
                return
            at += ready.rest_offset
        try:
            await self._read(ready.instance, gaps, at)
        except SegmentGone:
            # Not pinned, and moved by a compaction since the retrieval began.
            await self._blocking(functools.partial(self._archive.follow, ready.instance))
            await self._read(ready.instance, gaps, at)

    async def _read(self, instance: Instance, gaps: list[memoryview], at: int) -> None:
        reader, position = self._archive.reader, instance.position
        if not reader.read_scattered(position, gaps, at, cached_only=True):
            await self._blocking(functools.partial(reader.read_scattered, position, gaps, at))

    async def _transmit(self, ready: _Ready) -> None:
        self.unanswered[ready.instance.sop_instance_uid] = ready.instance
        if ready.frame is not None:
            self._connection.send(ready.frame)
            return
        try:
            await self._transmit_pieces(ready)
        except CorruptRecord as error:
            # Half of the object is at the peer already: only an abort keeps it from being taken for whole.
            self._connection.abort(f"stored object is corrupt: {error}", 2, 0)
            await self._blocking(functools.partial(self._archive.note_damage, ready.instance, error))
            raise AssociationFailed(f"aborted, stored object is corrupt: {error}") from error
        except ConnectionError as error:
            raise AssociationFailed(str(error)) from error

    async def _transmit_pieces(self, ready: _Ready) -> None:
        """Piece by piece; the last one goes out only after the checksum of the whole has been found right."""
        prefix, at, crc = ready.prefix, 0, 0
        piece_bytes = max(min(PIECE_BYTES // self._fragment, GAPS_MAX), 1) * self._fragment
        while at < ready.length:
            length = min(piece_bytes, ready.length - at)
            is_last = at + length == ready.length
            frame = self._frame(len(prefix), length)
            gaps = frame.layout(prefix, length, self._fragment, ready.context.presentation_context_id, is_last)
            await self._fill(gaps, ready, at)
            crc = frame.crc(crc)
            if is_last and ready.data is None:
                self._archive.reader.check(ready.instance.position, crc)
            self._connection.send(frame)
            await self._drained()
            self._frames.append(frame)
            prefix, at = b"", at + length

    async def _drained(self) -> None:
        await self._in_time(self._connection.drained, f"the peer took nothing for {self._timeout_s:g} s")

    async def _answer(self, ready: _Ready) -> Sent:
        response = await self._in_time(
            lambda: asyncio.shield(ready.response), f"the peer did not answer C-STORE within {self._timeout_s:g} s"
        )
        del self.unanswered[ready.instance.sop_instance_uid]
        if ready.frame is not None and not self._connection.unsent_bytes:
            self._frames.append(ready.frame)
        return Sent(ready.instance, response.status)

    async def _in_time(self, wait: Callable[[], Awaitable[Any]], why: str) -> Any:
        """What `wait` gives, or AssociationFailed. The limit is for silence: a slow peer may go on taking bytes.

        Looked at once a second, so that silence that begins late is not waited for twice as long.
        """
        step_s = min(PROGRESS_S, self._timeout_s / 4)
        delivered, silent_s = -1, 0.0
        while True:
            try:
                async with asyncio.timeout(step_s):
                    return await wait()
            except TimeoutError:
                before, delivered = delivered, self._connection.delivered_bytes
                silent_s = silent_s + step_s if delivered == before else step_s
                if silent_s < self._timeout_s:
                    continue
                self.gave_up = True
                self._connection.abort(why)
                raise AssociationFailed(why) from None

    async def _blocking(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, work)


def _fill_from(data: bytes, gaps: list[memoryview], at: int) -> tuple[list[memoryview], int]:
    """Puts `data` from `at` into gaps; the gaps that are left, and how far behind the end of `data` they begin."""
    view = memoryview(data)
    for number, gap in enumerate(gaps):
        piece = view[at : at + len(gap)]
        gap[: len(piece)] = piece
        at += len(gap)
        if len(piece) < len(gap):
            return [gap[len(piece) :], *gaps[number + 1 :]], max(at - len(gap) - len(data), 0)
    return [], 0
