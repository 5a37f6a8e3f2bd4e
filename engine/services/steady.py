"""The steady state of a retrieval: sends instances as they are stored, through a `StoreBatch`.

An instance costs no task, timer or future here: responses go directly from the receiver to the batch, which reads and
sends by itself (`ext/transmit.pyx`). This module wakes up when the batch needs more instances or has all responses, and
every tenth of a second to count, to send pending responses and to check the peer's progress. It ends at the first
instance that needs more, and leaves it to the caller: one that is converted, large, damaged or unreadable; also when a
peer answers early, memory is short, or the association is traced or used by another retrieval. If an instance is not in
the page cache, a thread reads it, the kernel begins to read the following ones, and then the batch continues.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from itertools import accumulate, islice
from typing import TYPE_CHECKING

from engine.dimse.assembly import BATCH_SLOTS, NOT_CACHED, Frame, StoreBatch
from engine.dimse.messages import CStoreRQ, CStoreRSP
from engine.errors import AssociationFailed, StorageError, TranscodeError
from engine.runtime.retrieval_budget import WHOLE_SHARE, RetrievalBudget
from engine.services.contexts import SendContexts
from engine.services.frames import Frames
from engine.services.suboperations import InstanceQueue, Originator, SendResult

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.retrieve import OpenSegment
    from engine.index.format.types import Instance
    from engine.net.connection import Connection
    from engine.net.responses import Responses
    from engine.runtime.pools import ThreadPool
    from engine.services.coercion import Coercer
    from engine.ul.negotiation import AcceptedContext

DATA_SET_BYTES_MAX = 2 << 20
"""A longer data set would gain nothing here, and its frames would need much memory."""

FRAGMENT_BYTES_MIN = 4096
"""With smaller PDUs a fragment costs more than a batch saves, and frames are mostly headers."""

FRAMES_BYTES_MAX = 8 << 20
"""All frames of a batch together, unless two need more."""

COMMAND_BYTES_MAX = 512
"""Room for a C-STORE-RQ in a frame; the longest has some 260 bytes."""

SEGMENTS_MAX = 4
"""Segments that a batch keeps open, beside the pinned ones."""

REFILL_BELOW = BATCH_SLOTS // 4
"""More instances are added when fewer remain to be sent."""

FIRST_ADDED = 2
"""Instances that are added before anything is sent: one to send, and one to read ahead."""

READ_AHEAD_BYTES = 8 << 20
"""How much the kernel begins to read when an instance is not in the page cache: some milliseconds of a disk's work."""

TICK_S = 0.1

_ANY_UID = "1"
"""Placeholder for the SOP Instance UID in a command template."""


class SteadySender:
    """Sends batches of stored instances on one association."""

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
        reads: ThreadPool,
        drained: Callable[[], Awaitable[None]],
        cleared: Callable[[], Awaitable[None]],
    ) -> None:
        """`fragment` in bytes; `window` ≥ 1 outstanding responses; `timeout_s`: how long a peer may be silent;
        `drained` waits until the kernel has everything that was sent, and raises AssociationFailed; `cleared` waits
        until the first instance may be sent, and raises AuditUnavailable."""
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
        self._reads = reads
        self._drained = drained
        self._cleared = cleared
        self._is_cleared = False
        self._loop = asyncio.get_running_loop()
        self._batch: StoreBatch | None = None
        self._batch_frames: list[Frame] = []
        self._pending: deque[tuple[Instance, int]] = deque()
        """Instances in the batch without a collected response, with their message ids."""
        self._heads: dict[tuple[str, str], int | None] = {}
        """The batch's command template for a SOP class and transfer syntax; None: the batch cannot send these."""
        self._segments: dict[int, OpenSegment] = {}
        self.unreported: list[SendResult] = []
        """Results that could not be reported, because the caller was cancelled at that moment."""
        self._news: asyncio.Future[None] | None = None
        self._warmed: Instance | None = None
        """The last instance that a thread read into the page cache."""
        self._may_continue = False
        """Whether the batch sent everything that was added to it: instances that did not fit may fit another batch."""
        self._end_reason = ""
        """Why the association has ended."""
        self._progress = (0, 0)
        self._progress_at = 0.0

    async def run(
        self,
        source: InstanceQueue,
        originator: Originator,
        is_wanted: Callable[[], bool],
        unanswered: dict[str, Instance],
    ) -> AsyncIterator[list[SendResult]]:
        """Sends from `source` up to the first instance that needs more; all sent ones have responses then.

        Yields results as they come, many at a time. Raises AssociationFailed when the association is lost; `unanswered`
        then gets the instances that may or may not have arrived; or AuditUnavailable, before anything was sent.
        """
        self._may_continue = True
        while self._may_continue:
            self._may_continue = False
            async for results in self._run(source, originator, is_wanted, unanswered):
                yield results

    async def _run(
        self,
        source: InstanceQueue,
        originator: Originator,
        is_wanted: Callable[[], bool],
        unanswered: dict[str, Instance],
    ) -> AsyncIterator[list[SendResult]]:
        """Sends one batch, with frames of one size and from few segments."""
        batch = self._begin(source, is_wanted)
        if batch is None:
            return
        try:
            # The first one is on its way while the others are added.
            more = self._add_from(batch, source, originator, FIRST_ADDED)
            if not self._is_cleared:
                await self._clear(batch)
            batch.advance()
            while not self._is_over(batch, more):
                more = more and self._add_from(batch, source, originator, batch.room)
                batch.refill_below = REFILL_BELOW if more else 0
                batch.advance()
                if batch.stopped == NOT_CACHED:
                    await self._warm(batch)
                await self._news_or_tick(batch, more)
                if results := self._collect(batch):
                    yield results
            if self._end_reason:
                yield self._results_out_of_order(batch)
                raise AssociationFailed(self._end_reason)
            if batch.error is not None:
                raise batch.error
            await self._wait_for_kernel()
            self._may_continue = batch.answered_count > 0 and not batch.stopped
        finally:
            self._end(batch, source, unanswered)

    # -- `net.responses.ResponseHandler` --------------------------------------------------------

    def received(self, response: CStoreRSP) -> None:
        """Passes a response to the batch that did not go there directly."""
        if self._batch is not None:
            self._batch.answered(response.message_id_being_responded_to, response.status)

    def fail(self, reason: str) -> None:
        """The association has ended."""
        self._end_reason = reason
        if self._batch is not None:
            self._batch.halt()
        self._wake()

    # -- inside ---------------------------------------------------------------------------------

    async def _clear(self, batch: StoreBatch) -> None:
        """Reads the first instance, and waits until it may be sent."""
        window, batch.window = batch.window, 0
        batch.advance()
        await self._cleared()
        batch.window = window
        self._is_cleared = True

    def _begin(self, source: InstanceQueue, is_wanted: Callable[[], bool]) -> StoreBatch | None:
        """Makes a batch with frames for the next instance; None if memory is short or the association has one."""
        first = next(source, None) if self._fragment >= FRAGMENT_BYTES_MIN else None
        if first is None:
            return None
        source.put_back(first)
        self._heads.clear()
        length = first.position.payload_length
        if length > DATA_SET_BYTES_MAX or self._context(first) is None or not self._is_unchanged(first):
            return None
        frames = self._take_frames(length)
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
        self._batch, self._batch_frames, self._end_reason = batch, frames, ""
        self._progress, self._progress_at = (0, 0), self._loop.time()
        return batch

    def _take_frames(self, length: int) -> list[Frame]:
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

    def _add_from(self, batch: StoreBatch, source: InstanceQueue, originator: Originator, count: int) -> bool:
        """Adds `count` to the batch, which has room for them; returns whether the source may have more for it."""
        instances = source.take(count)
        message_ids = self._responses.expect_by(self, len(instances))
        for number, (instance, message_id) in enumerate(zip(instances, message_ids, strict=True)):
            if not self._add(batch, instance, message_id, originator):
                self._responses.forget_all(message_ids[number:])
                for each in reversed(instances[number:]):
                    source.put_back(each)
                return False
            self._pending.append((instance, message_id))
        return len(instances) == count

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
            partial(self._retrieval.fill_cached, instance) if position.is_encrypted else None,
        )

    def _context(self, instance: Instance) -> AcceptedContext | None:
        """The context for an instance in its own transfer syntax; None: it must be converted."""
        try:
            context, target = self._contexts.choose(instance)
        except TranscodeError:
            return None
        return context if target == instance.transfer_syntax_uid else None

    def _is_unchanged(self, instance: Instance) -> bool:
        is_even = not instance.position.payload_length & 1
        return is_even and (self._coercer is None or self._coercer.changes(instance) is None)

    def _head(self, batch: StoreBatch, instance: Instance, originator: Originator) -> int | None:
        """The command template for the instance's SOP class and transfer syntax; None: the batch cannot send it."""
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
            return None  # the command is longer than a PDU of this peer

    def _segment(self, instance: Instance) -> OpenSegment | None:
        """The instance's segment, open until the batch ends; None: not in this batch."""
        position = instance.position
        segment = self._segments.get(position.segment_id)
        if segment is None and len(self._segments) < SEGMENTS_MAX:
            try:
                segment = self._segments[position.segment_id] = self._retrieval.segment(instance)
            except StorageError:
                return None  # the caller reads the instance in another way and gets the error
        return segment

    def _is_over(self, batch: StoreBatch, more: bool) -> bool:
        if self._end_reason or batch.error is not None:
            return True
        if batch.stopped == NOT_CACHED:
            return False
        return not batch.outstanding and bool(batch.stopped or not (more or batch.unsent_count))

    async def _warm(self, batch: StoreBatch) -> None:
        """Has a thread read the next instance into the page cache. The batch ends if that does not help."""
        upcoming = [instance for instance, _ in islice(self._pending, batch.read_count, None)]
        first, sizes = upcoming[0], accumulate(each.position.payload_length for each in upcoming)
        count = max(sum(size <= READ_AHEAD_BYTES for size in sizes), 1)
        if first is self._warmed:
            batch.halt()
            return
        self._warmed = first
        try:
            await self._reads.run(partial(self._retrieval.warm, upcoming[:count]))
        except StorageError:
            batch.halt()  # the caller reads it in another way and gets the error
            return
        self._progress_at = self._loop.time()  # the disk's time is not the peer's silence
        batch.resume()

    async def _news_or_tick(self, batch: StoreBatch, more: bool) -> None:
        """Waits until the batch calls `_wake`, or for a tick. Checks the peer's progress then."""
        if self._is_over(batch, more) or batch.stopped == NOT_CACHED:
            return
        news = self._news = self._loop.create_future()
        timer = self._loop.call_later(min(TICK_S, self._timeout_s / 4), self._wake)
        try:
            await news
        finally:
            self._news = None
            timer.cancel()
        if not self._end_reason:
            self._check(batch)

    def _check(self, batch: StoreBatch) -> None:
        """Gives a silent peer up, and frees memory when it is short."""
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
                # Nothing refers to the frames: the batch sends no more.
                batch.let_go()
                self._drop_frames()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _collect(self, batch: StoreBatch) -> list[SendResult]:
        """The results with responses, in order."""
        statuses, take = batch.collect(), self._pending.popleft
        entries = [take() for _ in statuses]
        self._responses.forget_all([message_id for _, message_id in entries])
        return [SendResult(instance, status) for (instance, _), status in zip(entries, statuses, strict=True)]

    def _results_out_of_order(self, batch: StoreBatch) -> list[SendResult]:
        """The results behind an instance without a response."""
        return [
            SendResult(instance, status)
            for (instance, _), (_, status) in zip(self._pending, batch.rest(), strict=True)
            if status is not None
        ]

    async def _wait_for_kernel(self) -> None:
        """After an early response, waits until the kernel has the rest of the frame, so that it can be reused."""
        if self._connection.unsent_bytes:
            await self._drained()

    def _drop_frames(self) -> None:
        while self._batch_frames:
            self._frames.drop(self._batch_frames.pop())

    def _end(self, batch: StoreBatch, source: InstanceQueue, unanswered: dict[str, Instance]) -> None:
        batch.halt()
        self._connection.close_outlet()
        self._connection.filter_commands(None)
        for (instance, message_id), (is_sent, status) in reversed(list(zip(self._pending, batch.rest(), strict=True))):
            self._responses.forget(message_id)
            if not is_sent:
                source.put_back(instance)
            elif status is None:
                unanswered[instance.sop_instance_uid] = instance
            else:
                self.unreported.append(SendResult(instance, status))
        self._pending.clear()
        self._segments.clear()
        if not self._connection.unsent_bytes:
            self._frames.keep_all(self._batch_frames)
        # Otherwise the association has ended, and `Frames.close` returns their memory.
        self._batch_frames, self._batch = [], None
