"""The steady state of a retrieval: instances that go out as they are stored, through a `StoreBatch`.

An instance costs no task, timer or future of its own here: answers reach the batch straight from the receiver, and it
sends and reads on by itself (`ext/transmit.pyx`). This side wakes up when instances are short or all is answered, and
every tenth of a second to count, to answer and to look whether the peer gets on. It ends with the first instance that
needs more than that, and leaves it to its caller: what is converted, large, damaged or not in the page cache, a peer
that answers early, a budget that is short, an association that is traced or that another retrieval sends on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from engine.dimse.assembly import BATCH_SLOTS, Frame, StoreBatch
from engine.dimse.messages import CStoreRQ, CStoreRSP
from engine.errors import AssociationFailed, StorageError, TranscodeError
from engine.runtime.retrieval_budget import WHOLE_SHARE, RetrievalBudget
from engine.services.contexts import SendContexts
from engine.services.frames import Frames
from engine.services.suboperations import Originator, Sent, Source

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.retrieve import OpenSegment
    from engine.index.format.types import Instance
    from engine.net.connection import Connection
    from engine.net.responses import Responses
    from engine.services.coercion import Coercer
    from engine.ul.negotiation import AcceptedContext

DATA_SET_BYTES_MAX = 2 << 20
"""What is longer gains nothing, and its frames would hold much."""

FRAGMENT_BYTES_MIN = 4096
"""With smaller PDUs a fragment costs more than what is saved here, and frames are mostly headers."""

FRAMES_BYTES_MAX = 8 << 20
"""All frames of a batch together, unless two take more."""

COMMAND_BYTES_MAX = 512
"""Room for a C-STORE-RQ in a frame; the longest has some 260 bytes."""

SEGMENTS_MAX = 4
"""Segments that a batch keeps open, beside those that are pinned."""

NEWS_BELOW = BATCH_SLOTS // 4
"""More instances are added when fewer are left to be sent."""

TICK_S = 0.1

_ANY_UID = "1"
"""Stands in a kind of command where the SOP Instance UID will be."""


class SteadySender:
    """One association's; see the module's head."""

    def __init__(
        self,
        archive: Archive,
        connection: Connection,
        responses: Responses,
        contexts: SendContexts,
        frames: Frames,
        budget: RetrievalBudget,
        *,
        fragment: int,
        window: int,
        timeout_s: float,
        coercer: Coercer | None,
        drained: Callable[[], Awaitable[None]],
    ) -> None:
        """`fragment` in bytes; `window` ≥ 1 answers outstanding; `timeout_s`: how long a peer may be silent;
        `drained` waits until the kernel has all that was sent, and raises AssociationFailed."""
        self._retrieval = archive.retrieval
        self._connection = connection
        self._responses = responses
        self._contexts = contexts
        self._frames = frames
        self._budget = budget
        self._fragment = fragment
        self._window = window
        self._timeout_s = timeout_s
        self._coercer = coercer
        self._drained = drained
        self._loop = asyncio.get_running_loop()
        self._batch: StoreBatch | None = None
        self._in_batch: list[Frame] = []
        self._added: deque[tuple[Instance, int]] = deque()
        """What is in the batch and not collected, with its message id."""
        self._heads: dict[tuple[str, str], int | None] = {}
        """The batch's kind of command for a SOP class and transfer syntax; None: none of the batch's."""
        self._segments: dict[int, OpenSegment] = {}
        self.untold: list[Sent] = []
        """Answered, and not told since whoever asked for the instances was gone (cancelled) in that moment."""
        self._news: asyncio.Future[None] | None = None
        self._has_got_on = False
        """Whether the batch sent all that was added to it: what could not be added may fit another."""
        self._lost = ""
        """Why the association is over."""
        self._progress = (0, 0)
        self._progress_at = 0.0

    async def run(
        self, source: Source, originator: Originator, is_wanted: Callable[[], bool], unanswered: dict[str, Instance]
    ) -> AsyncIterator[list[Sent]]:
        """Sends from `source` what it can; what it cannot is next there when this ends. All is answered then.

        Gives results as they come, many at a time.

        Raises AssociationFailed when the peer is lost; `unanswered` gets what it may or may not have then.
        """
        self._has_got_on = True
        while self._has_got_on:
            self._has_got_on = False
            async for results in self._run(source, originator, is_wanted, unanswered):
                yield results

    async def _run(
        self, source: Source, originator: Originator, is_wanted: Callable[[], bool], unanswered: dict[str, Instance]
    ) -> AsyncIterator[list[Sent]]:
        """One batch, with frames of one size and few segments."""
        batch = self._begin(source, is_wanted)
        if batch is None:
            return
        try:
            more = True
            while not self._is_over(batch, more):
                more = more and self._add_from(batch, source, originator)
                batch.news_below = NEWS_BELOW if more else 0
                batch.advance()
                await self._news_or_tick(batch, more)
                if results := self._collected(batch):
                    yield results
            if self._lost:
                yield self._out_of_turn(batch)
                raise AssociationFailed(self._lost)
            if batch.error is not None:
                raise batch.error
            await self._all_taken()
            self._has_got_on = batch.answered_count > 0 and not batch.stopped
        finally:
            self._end(batch, source, unanswered)

    # -- what the responses tell ----------------------------------------------------------------

    def received(self, response: CStoreRSP) -> None:
        """A response that did not come straight to the batch."""
        if self._batch is not None:
            self._batch.answered(response.message_id_being_responded_to, response.status)

    def fail(self, reason: str) -> None:
        """The association is gone."""
        self._lost = reason
        if self._batch is not None:
            self._batch.halt()
        self._wake()

    # -- inside ---------------------------------------------------------------------------------

    def _begin(self, source: Source, is_wanted: Callable[[], bool]) -> StoreBatch | None:
        """A batch whose frames the next instance fits, if there is memory for that and nobody else has one here."""
        first = next(source, None) if self._fragment >= FRAGMENT_BYTES_MIN else None
        if first is None:
            return None
        source.put_back(first)
        self._heads.clear()
        length = first.position.payload_length
        if length > DATA_SET_BYTES_MAX or self._context(first) is None or not self._is_unchanged(first):
            return None
        frames = self._taken(length)
        if not frames:
            return None
        window = min(self._window, len(frames) - 1)
        outlet = self._connection.open_outlet()
        batch = StoreBatch(self._connection, is_wanted, self._wake, frames, self._fragment, window, outlet)
        if not self._connection.filter_commands(batch.take):
            if outlet is not None:
                self._connection.close_outlet()
            self._frames.keep_all(frames)
            return None
        self._batch, self._in_batch, self._lost = batch, frames, ""
        self._progress, self._progress_at = (0, 0), self._loop.time()
        return batch

    def _taken(self, length: int) -> list[Frame]:
        """Frames for data sets of about this length; none when memory is short."""
        payload = length + length // 8
        room = Frame.room_for(COMMAND_BYTES_MAX, payload, self._fragment)
        count = max(2, min(self._window + 1, FRAMES_BYTES_MAX // room, BATCH_SLOTS))
        frames: list[Frame] = []
        while len(frames) < count:
            frame = self._frames.take(COMMAND_BYTES_MAX, payload, WHOLE_SHARE)
            if frame is None:
                break
            frames.append(frame)
        if len(frames) < 2:
            self._frames.keep_all(frames)
            return []
        return frames

    def _add_from(self, batch: StoreBatch, source: Source, originator: Originator) -> bool:
        """Fills the batch; whether there may be more for it."""
        room = batch.room
        instances = source.take(room)
        message_ids = self._responses.expect_by(self, len(instances))
        for number, (instance, message_id) in enumerate(zip(instances, message_ids, strict=True)):
            if not self._add(batch, instance, message_id, originator):
                self._responses.forget_all(message_ids[number:])
                for each in reversed(instances[number:]):
                    source.put_back(each)
                return False
            self._added.append((instance, message_id))
        return len(instances) == room

    def _add(self, batch: StoreBatch, instance: Instance, message_id: int, originator: Originator) -> bool:
        key = (instance.sop_class_uid, instance.transfer_syntax_uid)
        if key not in self._heads:
            self._heads[key] = self._head(batch, instance, originator)
        head, position = self._heads[key], instance.position
        if head is None or not self._is_unchanged(instance):
            return False
        segment = self._segment(instance)
        if segment is None:
            return False
        return batch.add(
            head,
            message_id,
            instance.sop_instance_uid,
            segment.fd,
            position.payload_offset,
            position.payload_length,
            position.payload_crc,
        )

    def _context(self, instance: Instance) -> AcceptedContext | None:
        """Where it goes in its own transfer syntax."""
        try:
            context, target = self._contexts.choose(instance)
        except TranscodeError:
            return None
        return context if target == instance.transfer_syntax_uid else None

    def _is_unchanged(self, instance: Instance) -> bool:
        is_even = not instance.position.payload_length & 1
        return is_even and (self._coercer is None or self._coercer.changes(instance) is None)

    def _head(self, batch: StoreBatch, instance: Instance, originator: Originator) -> int | None:
        """The kind of command of this SOP class and transfer syntax; None: it has none here."""
        context = self._context(instance)
        if context is None:
            return None
        command = CStoreRQ(
            1,
            instance.sop_class_uid,
            _ANY_UID,
            originator.priority,
            originator.ae_title,
            originator.message_id,
        ).encode()
        try:
            return batch.add_head(context.presentation_context_id, command)
        except ValueError:
            return None  # longer than a PDU of this peer

    def _segment(self, instance: Instance) -> OpenSegment | None:
        """Where it lies, open until the batch is over; None: not in this batch."""
        position = instance.position
        segment = self._segments.get(position.segment_id)
        if segment is None and len(self._segments) < SEGMENTS_MAX:
            try:
                segment = self._segments[position.segment_id] = self._retrieval.segment(instance)
            except StorageError:
                return None  # whoever reads it otherwise learns why
        return segment

    def _is_over(self, batch: StoreBatch, more: bool) -> bool:
        if self._lost or batch.error is not None:
            return True
        return not batch.outstanding and bool(batch.stopped or not (more or batch.unsent_count))

    async def _news_or_tick(self, batch: StoreBatch, more: bool) -> None:
        """Until the batch says something, or for a moment. Raises AssociationFailed after too much silence."""
        if self._is_over(batch, more):
            return
        news = self._news = self._loop.create_future()
        timer = self._loop.call_later(min(TICK_S, self._timeout_s / 4), self._wake)
        try:
            await news
        finally:
            self._news = None
            timer.cancel()
        if not self._lost:
            self._look(batch)

    def _look(self, batch: StoreBatch) -> None:
        """Whether the peer gets on, and others need our memory."""
        now, progress = self._loop.time(), (batch.answered_count, self._connection.delivered_bytes)
        if progress != self._progress:
            self._progress, self._progress_at = progress, now
        elif now - self._progress_at > self._timeout_s:
            why = f"the peer did not answer C-STORE within {self._timeout_s:g} s"
            self._connection.give_up(why)
            self.fail(why)
        if self._budget.is_short:
            batch.halt()
            if not self._connection.unsent_bytes:
                # Nothing refers to them: the batch sends no more.
                batch.let_go()
                self._drop_frames()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _collected(self, batch: StoreBatch) -> list[Sent]:
        """Those that are answered, in order."""
        statuses, take = batch.collect(), self._added.popleft
        answered = [take() for _ in statuses]
        self._responses.forget_all([message_id for _, message_id in answered])
        return [Sent(instance, status) for (instance, _), status in zip(answered, statuses, strict=True)]

    def _out_of_turn(self, batch: StoreBatch) -> list[Sent]:
        """Those that are answered behind one that is not."""
        return [
            Sent(instance, status)
            for (instance, _), (_, status) in zip(self._added, batch.rest(), strict=True)
            if status is not None
        ]

    async def _all_taken(self) -> None:
        """An early answer: the kernel may have to take the rest of what was sent before its frame is used again."""
        if self._connection.unsent_bytes:
            await self._drained()

    def _drop_frames(self) -> None:
        while self._in_batch:
            self._frames.drop(self._in_batch.pop())

    def _end(self, batch: StoreBatch, source: Source, unanswered: dict[str, Instance]) -> None:
        batch.halt()
        self._connection.close_outlet()
        self._connection.filter_commands(None)
        for (instance, message_id), (is_sent, status) in reversed(list(zip(self._added, batch.rest(), strict=True))):
            self._responses.forget(message_id)
            if not is_sent:
                source.put_back(instance)
            elif status is None:
                unanswered[instance.sop_instance_uid] = instance
            else:
                self.untold.append(Sent(instance, status))
        self._added.clear()
        self._segments.clear()
        if not self._connection.unsent_bytes:
            self._frames.keep_all(self._in_batch)
        # Else the association is over, and the budget gets them when the frames are closed.
        self._in_batch, self._batch = [], None
