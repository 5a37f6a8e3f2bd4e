"""Storage Service Class, SCU: sends stored instances on an association, its own (C-MOVE) or the asker's (C-GET).

Does not choose instances and does not count them. A stored data set is read straight between the PDU headers of one
frame, checked there against its checksum and sent with one write; while the peer thinks about one instance the next is
read. What goes out as it is stored goes in batches as long as nothing is in the way (`steady`); here is what happens
otherwise, one by one. Only when the peer took no presentation context for the stored transfer syntax is a data set
transcoded, and then it is made while it is sent (`outgoing`).

    read-ahead    frame i+1 is filled while the answer to i is due
    window        answers outstanding at once: 1, or what the asynchronous operations window allows
    budget        frames are taken from the worker's (`budget`); when it is short, nothing is read ahead and data sets
                  go in pieces. A peer that takes a second for anything keeps no frame then that it does not need
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
from engine.errors import AssociationFailed, CorruptRecord, EngineError, LocalProtocolError
from engine.index.format.types import Instance
from engine.runtime.pools import ThreadPool
from engine.runtime.retrieval_budget import PIECE_SHARE, WHOLE_SHARE, RetrievalBudget
from engine.services.contexts import UID_LENGTH_MAX, SendContexts
from engine.services.frames import Frames
from engine.services.outgoing import Outgoing, Stream, bytes_held, outgoing
from engine.services.steady import SteadySender
from engine.services.suboperations import SENT_WITH_FAILURE, Originator, Sent, Source

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
"""A data set up to this length is sent as one frame; longer ones go piece by piece in bounded memory."""

PIECE_BYTES = 1 << 20
PIECE_BYTES_MIN = 64 << 10
"""A piece when memory is short; never less than one fragment."""

GAPS_MAX = 4096
"""Fragments of one frame. A peer may ask for PDUs of a few bytes: what it takes shall not multiply our memory."""

ONE_BY_ONE = 64
"""Instances sent one by one before a batch is tried again: each change costs a moment in which nothing is read."""

PROGRESS_S = 1.0
"""How often a peer that takes its time is looked at: by so much silence may last longer than its limit."""


_AS_STORED = Outgoing(None, None)


@dataclass(slots=True)
class _Ready:
    """An instance that can go out: a frame, or one that goes in pieces and is yet to be read."""

    stored: StoredInstance
    message_id: int
    response: asyncio.Future[Any]
    frame: Frame | None
    prefix: bytes
    context: AcceptedContext
    data: bytes | None = None
    """What is sent instead of the stored bytes: the data set in another transfer syntax, or with other attributes."""
    stream: Stream | None = None
    """The same, if it is made while it is sent."""
    held_bytes: int = 0
    """What `data` or `stream` has taken from the budget."""

    @property
    def instance(self) -> Instance:
        """Where it lies, and what it is."""
        return self.stored.instance

    @property
    def length(self) -> int:
        """Bytes of the data set as it is sent, unless it is a stream."""
        return self.stored.length if self.data is None else len(self.data)


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
        budget: RetrievalBudget,
        reads: ThreadPool,
        fragment: int,
        window: int,
        response_timeout_s: float,
        preferred: tuple[str, ...] = (),
        coercer: Coercer | None = None,
    ) -> None:
        """`contexts`: those on which we are SCU; `fragment` in bytes; `window` ≥ 1 answers outstanding."""
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
        """Sent and not answered."""
        self._ahead: _Ready | None = None
        """Read and not sent."""
        self._leaving: list[Frame] = []
        """Answered before the kernel had all of them."""
        self.unanswered: dict[str, Instance] = {}
        """What has been sent, wholly or in part, and has no answer: it may or may not have arrived."""
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
            drained=self._drained,
        )

    async def send_all(
        self, source: Source, originator: Originator, is_wanted: Callable[[], bool]
    ) -> AsyncIterator[list[Sent]]:
        """Sends what `source` gives, in order, reading ahead, while that `is_wanted`: what is read and not
        wanted any more is not sent. Raises AssociationFailed when the peer is lost.

        What could not be sent (no context, corrupt, not decodable) is reported, and the next one follows.
        """
        try:
            while True:
                async for results in self._steady.run(source, originator, is_wanted, self.unanswered):
                    yield results
                is_through = True
                async for sent in self._one_by_one(islice(source, ONE_BY_ONE), originator, is_wanted):
                    is_through = False
                    yield [sent]
                if is_through:
                    break
        finally:
            self._forget_ahead()
            for ready in self._outstanding:
                self._responses.forget(ready.message_id)
                self._give_back(ready)
            self._frames.close()

    async def _one_by_one(
        self, instances: Iterator[Instance], originator: Originator, is_wanted: Callable[[], bool]
    ) -> AsyncIterator[Sent]:
        """Sends them in whatever way each needs, reading one ahead."""
        outstanding = self._outstanding
        for instance in instances:
            try:
                ready = self._ahead = await self._prepare(instance, originator)
                while len(outstanding) >= self._window:
                    yield await self._answer()
                if not is_wanted():
                    break
                await self._transmit(ready)
            except AssociationFailed:
                raise
            except EngineError as error:
                self._forget_ahead()
                if isinstance(error, CorruptRecord):
                    await self._blocking(functools.partial(self._archive.retrieval.note_damage, instance, error))
                yield Sent(instance, SENT_WITH_FAILURE, error)
        self._forget_ahead()
        while outstanding:
            yield await self._answer()
        if self._leaving:
            await self._all_left()

    @property
    def untold(self) -> list[Sent]:
        """What was answered and `send_all` could not tell, as it was cancelled in that moment."""
        return self._steady.untold

    # -- inside ---------------------------------------------------------------------------------

    async def _prepare(self, instance: Instance, originator: Originator) -> _Ready:
        if len(instance.sop_instance_uid) > UID_LENGTH_MAX:
            # Old archives hold some. Many would end the association over it, and with it all that follows.
            length = len(instance.sop_instance_uid)
            raise LocalProtocolError(f"a SOP Instance UID of {length} characters, {UID_LENGTH_MAX} are allowed")
        context, target = self._contexts.choose(instance)
        made, held_bytes = _AS_STORED, 0
        changes = self._coercer.changes(instance) if self._coercer is not None else None
        if changes is not None or target != instance.transfer_syntax_uid or instance.position.payload_length & 1:
            made, held_bytes = await self._made(instance, target, changes)
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
            ready = _Ready(stored, message_id, response, None, prefix, context, made.data, made.stream, held_bytes)
            if ready.stream is not None:
                pass
            elif ready.length <= min(WHOLE_BYTES_MAX, GAPS_MAX * self._fragment):
                ready.frame = await self._whole_frame(ready)
            elif ready.data is None:
                # Found corrupt in the middle it would cost the association, and everything else on it.
                await self._blocking(ready.stored.verify_damaged)
        except BaseException:
            self._budget.give_back(held_bytes)
            self._responses.forget(message_id)
            raise
        return ready

    async def _made(self, instance: Instance, target: str, changes: Changes | None) -> tuple[Outgoing, int]:
        """What is sent instead of the stored bytes, and what it holds of the budget. Raises MemoryShort."""
        held_bytes = bytes_held(instance, changes)
        if not self._budget.take(held_bytes, PIECE_SHARE):
            # Who waits must hold nothing.
            await self._drained()
            self._shed(ahead=False)
            await self._budget.wait_for(held_bytes, self._timeout_s)
        try:
            made = await outgoing(self._archive, self._transcoder, self._reads, instance, target, changes)
        except BaseException:
            self._budget.give_back(held_bytes)
            raise
        if made.data is not None:
            self._budget.give_back(held_bytes - len(made.data))
            held_bytes = len(made.data)
        return made, held_bytes

    def _give_back(self, ready: _Ready) -> None:
        """Its data, or its stream, are needed no more."""
        self._budget.give_back(ready.held_bytes)
        ready.held_bytes = 0
        ready.data = ready.stream = None

    def _forget_ahead(self) -> None:
        if self._ahead is not None:
            self._responses.forget(self._ahead.message_id)
            self._frames.drop(self._ahead.frame)
            self._give_back(self._ahead)
            self._ahead = None

    def _shed(self, *, ahead: bool) -> None:
        """Lets go of all memory that can be had again; of what is read `ahead` too."""
        self._frames.drop_idle()
        if not self._connection.unsent_bytes:
            self._leaving, left = [], self._leaving
            for frame in left:
                self._frames.drop(frame)
            for ready in self._outstanding:
                self._frames.drop(ready.frame)
                ready.frame = None
        if ahead and self._ahead is not None:
            self._frames.drop(self._ahead.frame)
            self._ahead.frame = None

    async def _whole_frame(self, ready: _Ready) -> Frame | None:
        """The whole message in one frame; None: memory is short."""
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
        """Puts the data set from `at` into `gaps`."""
        if ready.data is not None:
            _fill_from(ready.data, gaps, at)
            return
        if not ready.stored.fill_cached(gaps, at):
            await self._blocking(functools.partial(ready.stored.fill, gaps, at))

    async def _transmit(self, ready: _Ready) -> None:
        if self._leaving:
            await self._all_left()
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
            # Note it first: the abort cancels this task, and a thread that has not begun would not note it at all.
            await self._blocking(functools.partial(self._archive.retrieval.note_damage, ready.instance, error))
            # Half of the object is at the peer already: only an abort keeps it from being taken for whole.
            self._connection.abort(f"stored object is corrupt: {error}", 2, 0)
            raise AssociationFailed(f"aborted, stored object is corrupt: {error}") from error
        self._frames.keep(frame)

    def _begin(self, ready: _Ready) -> None:
        """From here on the peer may have some of it."""
        self._ahead = None
        self._outstanding.append(ready)
        self.unanswered[ready.instance.sop_instance_uid] = ready.instance

    def _piece_bytes(self, most: int) -> int:
        return max(min(most // self._fragment, GAPS_MAX), 1) * self._fragment

    async def _piece_frame(self, ready: _Ready) -> tuple[Frame, int]:
        """What the pieces go out in, one after the other, and the length of each.

        Raises MemoryShort, or CorruptRecord for what would have gone in one frame; nothing has been sent then.
        """
        piece_bytes = self._piece_bytes(PIECE_BYTES)
        length = piece_bytes if ready.stream is not None else ready.length
        frame = self._frames.take(len(ready.prefix), min(length, piece_bytes), PIECE_SHARE)
        if frame is None:
            # Who waits must hold nothing.
            await self._drained()
            self._shed(ahead=False)
            piece_bytes = self._piece_bytes(PIECE_BYTES_MIN)
            wanted = min(length, piece_bytes)
            frame = await self._frames.wait_for(len(ready.prefix), wanted, self._timeout_s)
        if ready.data is None and ready.stream is None and ready.length <= WHOLE_BYTES_MAX:
            try:
                await self._blocking(ready.stored.verify)
            except BaseException:
                self._frames.keep(frame)
                raise
        return frame, piece_bytes

    async def _transmit_pieces(self, ready: _Ready, frame: Frame, piece_bytes: int) -> None:
        """Piece by piece; the last one goes out only after the checksum of the whole has been found right."""
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
        """Piece by piece, one ahead: which is the last is known when nothing follows it, and that all was right."""
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
                ahead = await self._blocking(functools.partial(stream.fill, following))
            except EngineError as error:
                # Half of the object is at the peer already: only an abort keeps it from being taken for whole.
                self._connection.abort(f"object cannot be sent to its end: {error}", 2, 0)
                raise AssociationFailed(f"aborted, object cannot be sent to its end: {error}") from error
            is_last = ahead == 0
            gaps = frame.layout(prefix, length, self._fragment, ready.context.presentation_context_id, is_last)
            _fill_from(piece, gaps, 0)
            self._connection.send(frame)
            await self._drained()
            prefix, piece, following, length = b"", following, piece, ahead
        self._frames.keep(frame)
        self._give_back(ready)

    async def _drained(self) -> None:
        await self._until(self._connection.drained)

    async def _until(self, has_taken: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._in_time(has_taken, f"the peer took nothing for {self._timeout_s:g} s")
        except ConnectionError as error:
            raise AssociationFailed(str(error)) from error

    async def _all_left(self) -> None:
        """A peer that answers what it has not read yet is waited for: else that would pile up."""
        await self._drained()
        while self._leaving:
            self._frames.keep(self._leaving.pop())

    async def _answer(self) -> Sent:
        """What becomes of the instance that was sent first."""
        ready = self._outstanding[0]
        response = await self._in_time(
            lambda: asyncio.shield(ready.response), f"the peer did not answer C-STORE within {self._timeout_s:g} s"
        )
        self._outstanding.popleft()
        self._give_back(ready)
        del self.unanswered[ready.instance.sop_instance_uid]
        if ready.frame is not None:
            if self._connection.unsent_bytes:
                self._leaving.append(ready.frame)
            else:
                self._frames.keep(ready.frame)
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
    """Puts `data` from `at` into gaps."""
    view = memoryview(data)
    for gap in gaps:
        gap[:] = view[at : at + len(gap)]
        at += len(gap)
