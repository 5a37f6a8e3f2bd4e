"""Retrieval: a stored instance as ranges of bytes, as its head, and as frames. One way to read, for every front end.

    Retrieval ── open(instance) ──► StoredInstance ── read, fill, pieces, whole ──► bytes of the data set
        │                                 │            head ──────────────────────► what lies before Pixel Data
        pin, sweep: segments              │            frames ────────────────────► `dicom.frames.FrameTable`
                                          └─ SegmentGone: the index says where a compaction moved the record; read again

Everything here blocks, except `fill_cached`, which reads only what is in the page cache: an event loop calls that
first, and hands `fill` to a thread when it returns False. Knows nothing of asyncio, DIMSE or HTTP.

A checksum covers the whole data set, so a part of it cannot be checked. `whole`, `pieces` and `verify` check; `finish`
checks what `read` has read. A record that is not as it was written raises CorruptRecord, and is noted as damage.
A caller that needs a stable view pins its segments first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from engine.archive.damage import note_damage
from engine.errors import CorruptRecord, SegmentGone
from engine.storage.reader import OpenSegment as OpenSegment
from engine.storage.reader import Pin as Pin
from engine.storage.record import Position, crc32c

if TYPE_CHECKING:
    from engine.index.catalog import Catalog
    from engine.index.format.types import Instance
    from engine.storage.reader import LogReader

PIECE_BYTES: Final = 1 << 20
"""How much `pieces` and `finish` read at a time."""

Result = TypeVar("Result")


class Retrieval:
    """Opens stored instances; one for each archive. Thread-safe."""

    def __init__(self, index: Catalog, reader: LogReader) -> None:
        self._index = index
        self._reader = reader

    def open(self, instance: Instance) -> StoredInstance:
        """The instance for reading. Reads nothing yet."""
        return StoredInstance(self, self._reader, instance)

    def pin(self, segment_ids: Iterable[int]) -> Pin:
        """Keeps these segments readable until the pin is closed, even if they are deleted meanwhile.

        When more segments are asked for than can be pinned, the instances in the others can be missing once they are
        deleted and compacted away.
        """
        return self._reader.pin(segment_ids)

    def segment(self, instance: Instance) -> OpenSegment:
        """The open segment file of an instance, for a caller that reads it with preadv2(2). Raises StorageError."""
        return self._reader.opened(instance.position)

    def sweep(self) -> None:
        """Closes segment files that have been removed, so that the disk gets their space back. Call it regularly."""
        self._reader.sweep()

    def follow(self, instance: Instance) -> None:
        """Corrects the position of an instance whose segment is gone: a compaction has moved its record.

        Raises SegmentGone when it has been deleted or replaced.
        """
        old = instance.position
        for version in self._index.versions(instance.sop_instance_uid.encode()):
            new = version.position
            is_same = (new.payload_length, new.payload_crc) == (old.payload_length, old.payload_crc)
            if is_same and version.transfer_syntax_uid == instance.transfer_syntax_uid and new[:2] != old[:2]:
                instance.position = new
                return
        raise SegmentGone("it has been deleted, and its segment is gone", old.segment_id, old.offset)

    def following(self, instance: Instance, read: Callable[[Position], Result]) -> Result:
        """What `read` returns for the position of an instance, wherever a compaction has moved it. Raises as `read`."""
        try:
            return read(instance.position)
        except SegmentGone:
            self.follow(instance)
        return read(instance.position)

    def note_damage(self, instance: Instance, error: CorruptRecord) -> None:
        """Names an instance that could not be read, so that every process knows of it until a re-send has healed it."""
        note_damage(self._index, instance, error)

    def is_noted(self, instance: Instance) -> bool:
        """Whether damage is noted where this instance lies."""
        place = instance.position[:2]
        return any((row.segment_id, row.offset) == place for row in self._index.damage())


class StoredInstance:
    """One stored data set, open for reading. A `dicom.sources.Source`. Not for several threads at once."""

    __slots__ = ("_checked_bytes", "_crc", "_reader", "_retrieval", "instance", "length")

    def __init__(self, retrieval: Retrieval, reader: LogReader, instance: Instance) -> None:
        self._retrieval = retrieval
        self._reader = reader
        self.instance = instance
        self.length = instance.position.payload_length
        """Bytes of the data set as it is stored."""
        self._crc = self._checked_bytes = 0

    # -- ranges ---------------------------------------------------------------------------------

    def read(self, offset: int, count: int) -> memoryview:
        """`count` bytes at `offset`, fewer only at the end. Trust them after `finish` only. Raises CorruptRecord."""
        count = max(min(count, self.length - offset), 0)
        target = memoryview(bytearray(count))
        if count:
            self._follow(lambda position: self._reader.read_into(position, target, offset))
        # Each byte once and in order, whatever is read twice or ahead.
        if offset <= self._checked_bytes < offset + count:
            self._crc = crc32c(target[self._checked_bytes - offset :], self._crc)
            self._checked_bytes = offset + count
        return target

    def fill(self, targets: Sequence[memoryview], offset: int) -> None:
        """Fills buffers that lie end to end in the data set from `offset`; not checked. Raises CorruptRecord."""
        self._follow(lambda position: self._reader.read_scattered(position, targets, offset))

    def fill_cached(self, targets: Sequence[memoryview], offset: int) -> bool:
        """The same without waiting for a disk. False: call `fill`, which waits or says what is wrong."""
        try:
            return self._reader.read_scattered(self.instance.position, targets, offset, cached_only=True)
        except CorruptRecord:
            return False

    # -- the whole ------------------------------------------------------------------------------

    def whole(self) -> bytes:
        """All of it, checked. Raises CorruptRecord."""
        return self._follow(self._reader.read)

    def pieces(self) -> Iterator[memoryview]:
        """All of it piece by piece, checked before the last piece is given out. At least one piece, maybe empty.

        Raises CorruptRecord. Each piece is overwritten by the next one.
        """
        buffer = memoryview(bytearray(min(PIECE_BYTES, max(self.length, 1))))
        at = crc = 0
        while True:
            piece = buffer[: min(len(buffer), self.length - at)]
            self.fill([piece], at)
            crc = crc32c(piece, crc)
            at += len(piece)
            if at < self.length:
                yield piece
                continue
            self._follow(functools.partial(self._reader.check, crc=crc))
            yield piece
            return

    def verify(self) -> None:
        """Reads all of it and compares its checksum. Raises CorruptRecord."""
        self._follow(self._reader.verify_payload)

    def verify_record(self, *, past_the_cache: bool = False) -> None:
        """The same, and the record's head too; `past_the_cache`: from the disk, if it has been written there."""

        def verify(position: Position) -> None:
            if past_the_cache:
                self._reader.forget(position)
            self._reader.verify(position)

        self._follow(verify)

    def verify_damaged(self) -> None:
        """Verifies an instance only if damage is noted where it lies. Raises CorruptRecord if it is still damaged."""
        if self._retrieval.is_noted(self.instance):
            self.verify()

    def check(self, crc: int) -> None:
        """Compares a checksum that the caller has taken of all bytes. Does not block, and notes no damage.

        Raises CorruptRecord.
        """
        self._reader.check(self.instance.position, crc)

    def finish(self) -> None:
        """Reads what `read` has not read. Raises CorruptRecord unless the checksum of all is right."""
        while self._checked_bytes < self.length:
            self.read(self._checked_bytes, PIECE_BYTES)
        self._follow(lambda position: self._reader.check(position, self._crc))

    def _follow(self, read: Callable[[Position], Result]) -> Result:
        try:
            return self._retrieval.following(self.instance, read)
        except CorruptRecord as error:
            self._retrieval.note_damage(self.instance, error)
            raise
