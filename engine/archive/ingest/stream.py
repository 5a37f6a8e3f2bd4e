"""Ingest of objects larger than memory: each goes into a segment of its own, scanned and written part by part.

    StreamedRecord      the record: scans the parts and writes them; blocks. Both ports use it
    StreamIngest        one object of the live port: handles its parts in threads; at the end it is committed, or
                        refused and put into quarantine if there is room

The index keeps attributes that may be anywhere in a data set, so the entry is complete only with the last part. The
record's head is written last, into space that is left free for it: as much as it needs if Pixel Data begins in the
first part, as nearly always, else as much as it may need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from engine import log
from engine.access.scope import FULL
from engine.archive.ingest import foreign
from engine.archive.ingest.entry import answer_of, entry_of, unreadable
from engine.archive.ingest.foreign import ForeignStudy, NoRoom
from engine.archive.ingest.resolver import Duplicate
from engine.archive.ingest.writer import study_of
from engine.dicom import elements, transfer_syntax
from engine.errors import DataSetError, EngineError, InstanceQuarantined, InstanceRefused, for_log
from engine.index.format.entry import HEAL, Entry, Quarantined
from engine.index.format.types import Outcome
from engine.storage.record import KEY_BYTES_MAX, Kind

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.archive.ingest.committer import Committer
    from engine.archive.ingest.request import Answer, ReceivedDataSet, StoreRequest
    from engine.archive.ingest.unparseable import Unparseable
    from engine.archive.ingest.writer import Writer
    from engine.storage.stream_appender import StreamAppender

logger = log.get("archive.ingest")

HEAD_BYTES_MAX: Final = KEY_BYTES_MAX
"""The longest key and meta block together: dicom.attributes bounds the kept attributes of an instance."""
HEAD_BYTES_MIN: Final = 2048
"""The space for a record in quarantine, whatever the instance would need."""


class StreamedRecord:
    """A record of unknown length, and the head of its data set. For one thread at a time; blocks."""

    def __init__(self, writer: Writer, request: StoreRequest) -> None:
        self._writer = writer
        self._request = request
        self._scanner = elements.Scanner(
            transfer_syntax.of(request.transfer_syntax_uid), request.limits, writer.schema.extractor
        )
        self._scanned_entry: Entry | None = None
        self._appender: StreamAppender | None = None
        self.head: elements.Head | None = None
        """The head of the data set, as far as it could be read."""

    @property
    def payload_length(self) -> int:
        """Bytes written so far."""
        return self._appender.payload_length if self._appender is not None else 0

    @property
    def is_cut(self) -> bool:
        """Whether the data set ends early and was accepted; valid once there is an entry."""
        return self.head is not None and self.head.cut != ""

    def scan(self, buffers: Sequence[Buffer]) -> None:
        """Scans the next part. Raises InstanceRefused as soon as the data set is invalid."""
        try:
            for buffer in buffers:
                self._scanner.feed(buffer)
        except DataSetError as error:
            raise unreadable(error) from error
        if self._scanned_entry is None and self._scanner.is_settled:
            self.head = self._scanner.so_far()
            self._scanned_entry = entry_of(self.head, self._writer.schema, self._request)

    def append(self, buffers: Sequence[Buffer], length: int) -> None:
        """Writes the next part. Raises StorageFull or StorageFailed."""
        if self._appender is None:
            head_bytes = HEAD_BYTES_MAX
            if self._scanned_entry is not None:
                head_bytes = len(self._scanned_entry.sop_instance_uid) + len(self._scanned_entry.pack_meta())
            head_bytes = max(head_bytes, HEAD_BYTES_MIN)
            self._appender = self._writer.log.begin_stream(Kind.INSTANCE, 0, 0, b"", min(head_bytes, HEAD_BYTES_MAX))
        self._appender.write(buffers, length)

    def entry(self) -> Entry:
        """The entry, after all parts have been scanned. Raises InstanceRefused."""
        try:
            self.head = self._scanner.finish()
        except DataSetError as error:
            raise unreadable(error) from error
        return entry_of(self.head, self._writer.schema, self._request)

    def finish(self, entry: Entry, crc: int) -> None:
        """Ends the record as an instance, durably; fills the entry's position, stamp and flags.

        Raises InstanceRefused if too many versions of its UID are kept aside, StorageFull or StorageFailed.
        """
        assert self._appender is not None
        writer, length = self._writer, self.payload_length
        entry.flags = self._request.policy
        stored = writer.resolver.look_up(entry, length, crc)
        if entry.stamp:
            duplicate = Duplicate(
                writer.resolver,
                entry,
                stored,
                None,
                length,
                crc,
                policy=self._request.policy,
                is_cut=self.is_cut,
                durable=False,
            )
            entry.flags = duplicate.settle_written().flags
        entry.stamp = writer.next_stamp(entry.stamp)
        entry.position = self._appender.finish(
            entry.pack_meta(),
            crc,
            flags=entry.flags,
            stamp=entry.stamp,
            key=entry.sop_instance_uid,
            study=study_of(entry),
        )

    def quarantine(self, claim: Quarantined, crc: int) -> None:
        """Ends the record as bytes in quarantine; fills the claim's position and stamp."""
        assert self._appender is not None
        claim.stamp = self._writer.next_stamp()
        claim.position = self._appender.finish(
            claim.pack_meta(), crc, kind=Kind.QUARANTINED, flags=0, stamp=claim.stamp, key=claim.sop_instance_uid
        )

    def abort(self) -> None:
        """Removes the unfinished segment."""
        if self._appender is not None:
            self._appender.abort()


class StreamIngest:
    """The ingest of one large object, whose parts are scanned and written in threads.

    If a part shows that this is no instance, the object goes to quarantine while there is room, and is dropped
    otherwise; at the end it is refused like any other.
    """

    def __init__(
        self, committer: Committer, writer: Writer, unparseable: Unparseable | None, request: StoreRequest
    ) -> None:
        self._committer = committer
        self._writer = writer
        self._unparseable = unparseable
        self._request = request
        self._record = StreamedRecord(writer, request)
        self._refusal: InstanceRefused | None = None
        self._is_dropped = False
        """Whether the object is dropped."""

    async def write(self, part: ReceivedDataSet) -> None:
        """Writes one part and releases it; await it before the next one. Raises StorageFull or StorageFailed."""
        try:
            if not self._is_dropped:
                await self._committer.blocking(lambda: self._write(part.buffers, part.length))
        except EngineError as error:
            if self._refusal is None:
                raise
            logger.warning("nothing was put into quarantine", reason=for_log(error))
            await self.abort()
        finally:
            part.release()

    def _write(self, buffers: Sequence[Buffer], length: int) -> None:
        if self._refusal is None:
            try:
                self._record.scan(buffers)
            except InstanceRefused as error:
                self._refusal = error
        if self._refusal is None or self._is_quarantinable(self._refusal, length):
            self._record.append(buffers, length)
        else:
            self._is_dropped = True
            self._record.abort()

    def _is_quarantinable(self, refusal: InstanceRefused, length: int) -> bool:
        unparseable = self._unparseable
        return (
            unparseable is not None
            and unparseable.keeps(refusal)
            and unparseable.has_room(self._record.payload_length + length)
        )

    async def finish(self, last: ReceivedDataSet) -> Outcome:
        """Writes the last part and commits the object. Raises InstanceRefused if it is no instance."""
        crc = last.crc
        await self.write(last)
        if self._refusal is None:
            try:
                entry = await self._committer.blocking(self._entry)
            except InstanceRefused as error:
                self._refusal = error
        if self._refusal is not None:
            answer = await self._refused(self._refusal, crc)
            if not isinstance(self._refusal, ForeignStudy):
                raise answer
            if not isinstance(answer, InstanceQuarantined):
                raise NoRoom()
            return Outcome.STORED  # for its sender, who must not tell the difference
        await self._committer.blocking(lambda: self._record.finish(entry, crc))
        # `finish` has synced the segment: the entry only needs to become visible.
        outcome = await self._committer.committed(entry, durable=False)
        await self._committer.copied(self._request.durable_at, entry.position)
        if entry.flags & HEAL:
            committed = outcome
            outcome = await self._committer.blocking(lambda: self._writer.outcome_of(entry, committed))
        return outcome.of_cut() if self._record.is_cut else outcome

    def _entry(self) -> Entry:
        entry = self._record.entry()
        if self._request.scope is not FULL:
            assert self._record.head is not None
            study = self._record.head.study_instance_uid
            foreign.check(self._writer.index, self._request.scope, entry, study)
        return entry

    async def answer(self, last: ReceivedDataSet) -> Answer:
        """As `finish`, but with the UIDs, and with errors as answers. After an error nothing of the object is left."""
        outcome: Outcome | EngineError
        try:
            outcome = await self.finish(last)
        except EngineError as error:
            await self.abort()
            outcome = error
        return answer_of(outcome, self._record.head)

    async def _refused(self, refusal: InstanceRefused, crc: int) -> InstanceRefused:
        """Puts the object into quarantine if there is room. Returns the error for its sender."""
        unparseable, length = self._unparseable, self._record.payload_length
        if unparseable is None or self._is_dropped or not unparseable.keeps(refusal):
            await self.abort()
            return refusal
        claim = unparseable.claim(refusal, self._request)
        if not await self._committer.blocking(lambda: unparseable.wants(claim, length, crc)):
            await self.abort()
            return refusal
        await self._committer.blocking(lambda: self._record.quarantine(claim, crc))
        return await self._committer.book(claim, refusal)

    async def abort(self) -> None:
        """Drops the object."""
        self._is_dropped = True
        await self._committer.blocking(self._record.abort)
