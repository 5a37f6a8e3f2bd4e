"""The live port: instances from many associations and requests at once, each answered when it is committed.

    ingestor.store(data_set, request, done)             by callback: C-STORE
    ingestor.offer(data_set, request, done)             the same, with the UIDs: HTTP
    answer = await ingestor.ingest(data_set, request)   the same, awaited
    stream = ingestor.begin_stream(request)             for a data set that its receiver does not hold in memory

An example of a front end that receives a Part 10 file in pieces, without preamble and group 0002:

    request = StoreRequest(transfer_syntax_uid, user, None, None, durable=True, policy=POLICIES["keep-first"])
    if length <= WHOLE_BYTES_MAX:
        return await ingestor.ingest(Payload(pieces, length, crc), request)
    stream, crc = ingestor.begin_stream(request), 0
    try:
        async for piece in body:  # of some MiB: each is written before the next one is asked for
            crc = crc32c(piece, crc)
            await stream.write(Payload([piece], len(piece), crc))
        return await stream.answer(Payload([], 0, crc))
    except BaseException:
        await stream.abort()
        raise

Call all public methods on the loop's thread. None blocks on the disk for longer than a copy into the page cache: work
that may (syncing, comparing with a stored instance, large objects) runs in threads. Memory is borrowed from the caller
until its `release` is called; the caller must limit how much it lends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine import log
from engine.access.scope import FULL
from engine.archive.ingest import foreign
from engine.archive.ingest.committer import Committer
from engine.archive.ingest.decision import Decision, Step
from engine.archive.ingest.entry import answer_of, entry_of, scan
from engine.archive.ingest.foreign import ForeignStudy, NoRoom
from engine.archive.ingest.resolver import Duplicate
from engine.archive.ingest.second_copy import SecondCopies
from engine.archive.ingest.stream import StreamIngest
from engine.dicom import transfer_syntax
from engine.dicom.elements import Head
from engine.errors import EngineError, InstanceQuarantined, InstanceRefused, for_log
from engine.index.format.entry import HEAL
from engine.index.format.types import Outcome

if TYPE_CHECKING:
    from engine.archive.ingest.request import Answer, Done, ReceivedDataSet, StoreRequest
    from engine.archive.ingest.unparseable import Unparseable
    from engine.archive.ingest.writer import Writer

logger = log.get("archive.ingest")

WHOLE_BYTES_MAX = 8 << 20
"""Stream a data set only if it is longer than this: a stream needs its own segment."""


class Ingestor:
    """The ingest of one server process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        writer: Writer,
        on_failure: Callable[[EngineError], None],
        unparseable: Unparseable | None = None,
        copies: SecondCopies | None = None,
    ) -> None:
        """With `unparseable`, a data set that is no instance is put into quarantine before it is refused.

        Without `copies`, no request may ask for a second copy.
        """
        self._loop = loop
        self._writer = writer
        self._resolver = writer.resolver
        self._unparseable = unparseable
        self._committer = Committer(loop, writer, on_failure, copies)
        self.copies = copies
        self.commit = self._committer.group

    @property
    def depth(self) -> int:
        """Number of instances received and not yet answered."""
        return self.commit.depth + (self.copies.waiting_count if self.copies is not None else 0)

    def keep_free(self, reserve_bytes: int) -> None:
        """Sets how many bytes of the disk stay free."""
        self._writer.log.keep_free(reserve_bytes)

    def store(self, data_set: ReceivedDataSet, request: StoreRequest, done: Done) -> None:
        """Stores a whole data set; calls `done` exactly once, possibly before this returns."""
        if transfer_syntax.of(request.transfer_syntax_uid).deflated:
            # Inflating takes longer than a copy into the page cache.
            self._loop.create_task(self._scan_and_store(data_set, request, done))
            return
        self._store_scanned(data_set, request, self._scan(data_set, request), done)

    def offer(self, data_set: ReceivedDataSet, request: StoreRequest, done: Callable[[Answer], None]) -> None:
        """As `store`, with the UIDs in the answer."""
        if transfer_syntax.of(request.transfer_syntax_uid).deflated:
            self._loop.create_task(self._scan_and_offer(data_set, request, done))
            return
        self._offer_scanned(data_set, request, self._scan(data_set, request), done)

    async def ingest(self, data_set: ReceivedDataSet, request: StoreRequest) -> Answer:
        """As `offer`, awaited. A cancelled caller gets no answer; the instance may be stored all the same."""
        answer: asyncio.Future[Answer] = self._loop.create_future()

        def done(found: Answer) -> None:
            if not answer.done():
                answer.set_result(found)

        self.offer(data_set, request, done)
        return await answer

    def begin_stream(self, request: StoreRequest) -> StreamIngest:
        """Starts an object in parts. Raises StorageError while it would not be answered in time."""
        self._committer.check_in_time(request.durable_at)
        return StreamIngest(self._committer, self._writer, self._unparseable, request)

    def close(self) -> None:
        """Commits what has been submitted, and seals the log. Blocks."""
        self._committer.close()

    # -- inside ---------------------------------------------------------------------------------

    def _scan(self, data_set: ReceivedDataSet, request: StoreRequest) -> Head | InstanceRefused:
        """What the data set says, or why it cannot be taken."""
        try:
            return scan(data_set.buffers, request.transfer_syntax_uid, self._writer.schema, request.limits)
        except InstanceRefused as error:
            return error.without_frames()

    async def _scan_and_store(self, data_set: ReceivedDataSet, request: StoreRequest, done: Done) -> None:
        try:
            head = await self._committer.blocking(lambda: self._scan(data_set, request))
        except EngineError as error:
            data_set.release()
            done(error)
            return
        self._store_scanned(data_set, request, head, done)

    async def _scan_and_offer(
        self, data_set: ReceivedDataSet, request: StoreRequest, done: Callable[[Answer], None]
    ) -> None:
        try:
            head = await self._committer.blocking(lambda: self._scan(data_set, request))
        except EngineError as error:
            data_set.release()
            done(answer_of(error, None))
            return
        self._offer_scanned(data_set, request, head, done)

    def _offer_scanned(
        self,
        data_set: ReceivedDataSet,
        request: StoreRequest,
        head: Head | InstanceRefused,
        done: Callable[[Answer], None],
    ) -> None:
        known = None if isinstance(head, InstanceRefused) else head
        self._store_scanned(data_set, request, head, lambda outcome: done(answer_of(outcome, known)))

    def _store_scanned(
        self, data_set: ReceivedDataSet, request: StoreRequest, head: Head | InstanceRefused, done: Done
    ) -> None:
        committer, durable, length, crc = self._committer, request.durable, data_set.length, data_set.crc
        duplicate: Duplicate | None = None
        try:
            committer.check_in_time(request.durable_at)
            if isinstance(head, InstanceRefused):
                raise head
            entry = entry_of(head, self._writer.schema, request)
            if request.scope is not FULL:
                foreign.check(self._writer.index, request.scope, entry, head.study_instance_uid)
            stored = self._resolver.look_up(entry, length, crc)
            decision: Decision | None = None
            if entry.stamp:
                duplicate = Duplicate(
                    self._resolver,
                    entry,
                    stored,
                    data_set.buffers,
                    length,
                    crc,
                    policy=request.policy,
                    is_cut=head.cut != "",
                    durable=durable,
                )
                decision = duplicate.decide()
            if duplicate is None or decision is not None:
                flags = request.policy if decision is None else decision.flags
                self._writer.append(entry, data_set.buffers, length, crc, flags, sync_soon=durable)
        except EngineError as error:
            self._refuse(error, data_set, request, done)
            return
        if head.cut:
            done = _with_warning(done)
        if duplicate is not None and decision is None:
            committer.spawn(self._settle(duplicate, data_set, request), done)
            return
        data_set.release()
        if request.durable_at != "local":
            done = committer.held(request.durable_at, entry.position, done)
        committer.submit(entry, durable, done)
        if self._writer.log.rolled:
            committer.seal()

    async def _settle(self, duplicate: Duplicate, data_set: ReceivedDataSet, request: StoreRequest) -> Outcome:
        """Handles an instance of a known UID for which stored bytes must be read."""
        entry, committer = duplicate.entry, self._committer
        try:
            decision = await committer.blocking(duplicate.settle)
            if decision.step is Step.APPEND:
                self._append(duplicate, data_set, request, decision.flags)
        finally:
            data_set.release()
        if decision.step is Step.ACKNOWLEDGE:
            assert duplicate.stored is not None
            await committer.copied(request.durable_at, duplicate.stored.position)
            return self._resolver.outcome_of(duplicate.stored)
        outcome = await committer.committed(entry, request.durable)
        await committer.copied(request.durable_at, entry.position)
        if entry.flags & HEAL:
            return await committer.blocking(lambda: self._writer.outcome_of(entry, outcome))
        return outcome

    def _append(self, duplicate: Duplicate, data_set: ReceivedDataSet, request: StoreRequest, flags: int) -> None:
        try:
            self._writer.append(
                duplicate.entry, data_set.buffers, data_set.length, data_set.crc, flags, sync_soon=request.durable
            )
        except EngineError as error:
            self._committer.note(error)
            raise
        if self._writer.log.rolled:
            self._committer.seal()

    def _refuse(self, error: EngineError, data_set: ReceivedDataSet, request: StoreRequest, done: Done) -> None:
        if isinstance(error, InstanceRefused) and self._unparseable is not None and self._unparseable.keeps(error):
            self._committer.spawn(self._quarantine(error, data_set, request, self._unparseable), done)
            return
        if isinstance(error, ForeignStudy):
            error = NoRoom()
        data_set.release()
        self._committer.note(error)
        done(error)

    async def _quarantine(
        self, error: InstanceRefused, data_set: ReceivedDataSet, request: StoreRequest, unparseable: Unparseable
    ) -> Outcome:
        """Puts a refused data set into quarantine if there is room, and raises the refusal, whatever else happens.

        One for a foreign study counts as stored for its sender, who must not tell the difference.
        """
        claim = unparseable.claim(error, request)
        length, crc = data_set.length, data_set.crc
        try:
            if isinstance(error, ForeignStudy) and unparseable.has(claim, length, crc):
                return Outcome.STORED
            is_kept = await self._committer.blocking(lambda: unparseable.wants(claim, length, crc))
            if is_kept:
                self._writer.quarantine(claim, data_set.buffers, length, crc)
        except EngineError as failure:
            self._committer.note(failure)
            logger.warning("nothing was put into quarantine", reason=for_log(failure))
            is_kept = False
        finally:
            data_set.release()
        if self._writer.log.rolled:
            self._committer.seal()
        if not is_kept:
            raise NoRoom() if isinstance(error, ForeignStudy) else error
        answer = await self._committer.book(claim, error)
        if isinstance(error, ForeignStudy):
            if not isinstance(answer, InstanceQuarantined):
                raise NoRoom()
            logger.warning("kept in quarantine: its sender may not see the study", sender=request.calling_ae_title)
            return Outcome.STORED
        raise answer


def _with_warning(done: Done) -> Done:
    """Adds to an answer that the data set ends early."""

    def say(outcome: Outcome | EngineError) -> None:
        done(outcome if isinstance(outcome, EngineError) else outcome.of_cut())

    return say
