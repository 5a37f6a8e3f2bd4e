"""Objects larger than memory on their way in: each into a segment of its own, scanned and written as its parts come.

    StreamedRecord      the record: what is found in the parts, and where they are written; blocks
    StreamIngest        one C-STORE: its parts in threads; at the end it is committed, or refused and put into
                        quarantine as far as that has room

The index keeps attributes that may lie anywhere, so what the record says of the instance is known for certain with the
last part only. Its head is written last anyway; room for it is left free. When Pixel Data comes with the first part, as
nearly always, that is as much as it takes, else as much as it may be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine import log
from engine.archive.ingest.entry import make_entry, unreadable
from engine.dicom import elements, transfer_syntax
from engine.errors import DataSetError, EngineError, InstanceRefused
from engine.index.format.entry import HEAL, Entry, Quarantined
from engine.index.format.types import Outcome
from engine.storage.record import KEY_BYTES_MAX, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from engine.archive.ingest.live import Ingestor, ReceivedDataSet, StoreRequest
    from engine.archive.ingest.unparseable import Unparseable
    from engine.archive.ingest.writer import Store
    from engine.storage.log import StreamAppender

logger = log.get("archive.ingest")

HEAD_BYTES_MAX: Final = KEY_BYTES_MAX
"""Of key and meta block together: dicom.attributes bounds what is kept of an instance."""
HEAD_BYTES_MIN: Final = 2048
"""What a record in quarantine takes, whatever the instance would have."""


def claim_of(unparseable: Unparseable, error: InstanceRefused, request: StoreRequest) -> Quarantined:
    """What a C-STORE says of the bytes that came with it."""
    return unparseable.claim(
        error,
        sop_class_uid=request.sop_class_uid,
        sop_instance_uid=request.sop_instance_uid,
        transfer_syntax_uid=request.transfer_syntax_uid,
        calling_ae_title=request.calling_ae_title,
    )


class StreamedRecord:
    """A record of unknown length, and what it says of its payload. Used by one thread at a time; blocks."""

    def __init__(
        self,
        store: Store,
        *,
        transfer_syntax_uid: str,
        calling_ae_title: str,
        sop_class_uid: str | None,
        sop_instance_uid: str | None,
        limits: elements.ScanLimits = elements.SCAN_LIMITS,
        accept_truncated: bool = False,
    ) -> None:
        self._store = store
        self._transfer_syntax_uid = transfer_syntax_uid
        self._calling_ae_title = calling_ae_title
        self._sop_class_uid = sop_class_uid
        self._sop_instance_uid = sop_instance_uid
        self._accept_truncated = accept_truncated
        self._scanner = elements.Scanner(transfer_syntax.of(transfer_syntax_uid), limits)
        self._settled: Entry | None = None
        self._appender: StreamAppender | None = None
        self.cut = ""
        """Where the data set ends early; of one that was accepted all the same."""

    @property
    def payload_length(self) -> int:
        """Bytes written so far."""
        return self._appender.payload_length if self._appender is not None else 0

    def scan(self, buffers: Sequence[Buffer]) -> None:
        """Looks at the next part. Raises InstanceRefused as soon as it shows that this is no instance."""
        try:
            for buffer in buffers:
                self._scanner.feed(buffer)
        except DataSetError as error:
            raise unreadable(error) from error
        if self._settled is None and self._scanner.is_settled:
            self._settled = self._made(self._scanner.so_far())

    def append(self, buffers: Sequence[Buffer], length: int) -> None:
        """Writes the next part. Raises StorageFull or StorageFailed."""
        if self._appender is None:
            head_bytes = HEAD_BYTES_MAX
            if self._settled is not None:
                head_bytes = len(self._settled.sop_instance_uid) + len(self._settled.pack_meta())
            head_bytes = max(head_bytes, HEAD_BYTES_MIN)
            self._appender = self._store.log.begin_stream(Kind.INSTANCE, 0, 0, b"", min(head_bytes, HEAD_BYTES_MAX))
        self._appender.write(buffers, length)

    def entry(self) -> Entry:
        """The entry, once all parts have been scanned. Raises InstanceRefused."""
        try:
            found = self._scanner.finish()
        except DataSetError as error:
            raise unreadable(error) from error
        entry = self._made(found)
        self.cut = found.cut
        return entry

    def finish(self, entry: Entry, crc: int, policy: int) -> None:
        """Ends the record as that of the instance; fills the entry's position, stamp and flags."""
        assert self._appender is not None
        store = self._store
        store.stamp(entry, store.policy_against(entry, policy, self.cut))
        if store.heals(entry, self.payload_length, crc):
            entry.flags |= HEAL
        entry.position = self._appender.finish(
            entry.pack_meta(), crc, flags=entry.flags, stamp=entry.stamp, key=entry.sop_instance_uid
        )

    def quarantine(self, claim: Quarantined, crc: int) -> None:
        """Ends the record as that of bytes in quarantine; fills the claim's position and stamp."""
        assert self._appender is not None
        claim.stamp = self._store.next_stamp()
        claim.position = self._appender.finish(
            claim.pack_meta(), crc, kind=Kind.QUARANTINED, flags=0, stamp=claim.stamp, key=claim.sop_instance_uid
        )

    def abort(self) -> None:
        """Gives up: the half-written segment is removed."""
        if self._appender is not None:
            self._appender.abort()

    def _made(self, found: elements.Head) -> Entry:
        return make_entry(
            found,
            transfer_syntax_uid=self._transfer_syntax_uid,
            calling_ae_title=self._calling_ae_title,
            sop_class_uid=self._sop_class_uid,
            sop_instance_uid=self._sop_instance_uid,
            accept_truncated=self._accept_truncated,
        )


class StreamIngest:
    """One large object on its way in, its parts scanned and written in threads.

    What a part shows not to be an instance goes on into the quarantine, as far as there is room, then nowhere, and is
    refused at the end like any other.
    """

    def __init__(
        self, ingestor: Ingestor, store: Store, unparseable: Unparseable | None, request: StoreRequest
    ) -> None:
        self._ingestor = ingestor
        self._store = store
        self._unparseable = unparseable
        self._request = request
        self._record = StreamedRecord(
            store,
            transfer_syntax_uid=request.transfer_syntax_uid,
            calling_ae_title=request.calling_ae_title,
            sop_class_uid=request.sop_class_uid,
            sop_instance_uid=request.sop_instance_uid,
            limits=request.limits,
            accept_truncated=request.accept_truncated,
        )
        self._refusal: InstanceRefused | None = None
        self._is_dropped = False
        """Nothing of it is kept any more."""

    async def write(self, part: ReceivedDataSet) -> None:
        """Takes one part and releases it. Raises StorageFull or StorageFailed."""
        try:
            if not self._is_dropped:
                await self._ingestor.blocking(lambda: self._write(part.buffers, part.length))
        except EngineError as error:
            if self._refusal is None:
                raise
            logger.warning("nothing was put into quarantine", reason=str(error))
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
        """Takes the last part and commits the object. Raises InstanceRefused when it is none."""
        crc = last.crc
        await self.write(last)
        if self._refusal is None:
            try:
                entry = await self._ingestor.blocking(self._record.entry)
            except InstanceRefused as error:
                self._refusal = error
        if self._refusal is not None:
            raise await self._refused(self._refusal, crc)
        await self._ingestor.blocking(lambda: self._record.finish(entry, crc, self._request.policy))
        # The appender has synced its segment in finish: the entry only needs to become visible.
        outcome = await self._ingestor.committed(entry, durable=False)
        if entry.flags & HEAL:
            await self._ingestor.blocking(lambda: self._store.clear_healed(entry.sop_instance_uid))
            outcome = Outcome.KEPT_ASIDE if outcome is Outcome.KEPT_ASIDE else Outcome.STORED
        return outcome.of_cut() if self._record.cut else outcome

    async def _refused(self, refusal: InstanceRefused, crc: int) -> InstanceRefused:
        """Puts it into quarantine if it is wanted there; what its sender is answered with."""
        unparseable, length = self._unparseable, self._record.payload_length
        if unparseable is None or self._is_dropped or not unparseable.keeps(refusal):
            await self.abort()
            return refusal
        claim = claim_of(unparseable, refusal, self._request)
        if not await self._ingestor.blocking(lambda: unparseable.wants(claim, length, crc)):
            await self.abort()
            return refusal
        await self._ingestor.blocking(lambda: self._record.quarantine(claim, crc))
        return await self._ingestor.book(claim, unparseable, refusal)

    async def abort(self) -> None:
        """Keeps nothing of it."""
        self._is_dropped = True
        await self._ingestor.blocking(self._record.abort)
