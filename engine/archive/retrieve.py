"""Retrieval: reads a stored instance as ranges of bytes, as its head, and as frames. Every front end uses it.

    Retrieval ── open(instance) ──► StoredInstance ── read, fill, pieces, whole ──► bytes of the data set
        │                                 │            head ──────────────────────► the elements before Pixel Data
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
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from engine.archive.damage import note_damage
from engine.archive.transcoding.head import Head
from engine.archive.transcoding.head import ImagePixel as ImagePixel
from engine.dicom import elements, tags, transfer_syntax
from engine.dicom.frames import (
    Description,
    DescriptionDoubtful,
    EncapsulatedFrames,
    NativeFrames,
    end_of_pixels,
    frame_table,
    pixel_stream,
)
from engine.dicom.sources import Inflated, Source
from engine.errors import CorruptRecord, FramesUnreadable, SegmentCold, SegmentGone, StorageError
from engine.index.format.types import Instance as Instance
from engine.index.format.types import Level, Query
from engine.storage.reader import OpenSegment as OpenSegment
from engine.storage.reader import Pin as Pin
from engine.storage.record import Position, crc32c

if TYPE_CHECKING:
    from engine.index.catalog import Catalog
    from engine.storage.reader import LogReader

PIECE_BYTES: Final = 1 << 20
"""Bytes that `pieces` and `finish` read at a time."""

TABLES_BYTES_MAX: Final = 64 << 20
"""Frame tables kept in memory: those of eight whole slide images of a million tiles, or of any number of small ones."""
TABLES_MAX: Final = 4096

CACHED_BYTES_MAX: Final = 4 << 20
"""The longest frame that `frame_cached` copies: it takes a millisecond, which an event loop can spare."""

HEAD_BYTES_MAX: Final = 64 << 20
"""The longest head: a longer data set is a document without Pixel Data."""

RECALL_EVERY_S: Final = 60.0
"""Each instance of a study that is read meanwhile fails likewise."""
RECALLS_MAX: Final = 1024
"""Studies that are remembered for so long."""

PIXEL_HEADER_BYTES: Final = 12
"""The longest header of Pixel Data."""

FrameTable: TypeAlias = NativeFrames | EncapsulatedFrames
Result = TypeVar("Result")


class NotCached(Exception):
    """What is to be read is not in the page cache."""


class FrameTables:
    """A cache of frame tables by the instance's identity, which a compaction does not change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: OrderedDict[tuple[str, int, int], FrameTable] = OrderedDict()
        self._held_bytes = 0

    def get(self, instance: Instance) -> FrameTable | None:
        """The table, if it is cached."""
        with self._lock:
            table = self._tables.get(_identity(instance))
            if table is not None:
                self._tables.move_to_end(_identity(instance))
            return table

    def put(self, instance: Instance, table: FrameTable) -> None:
        """Caches a table; removes the least recently used ones if there is no room."""
        with self._lock:
            self._forget(self._tables.pop(_identity(instance), None))
            if table.memory_bytes > TABLES_BYTES_MAX:
                return
            self._tables[_identity(instance)] = table
            self._held_bytes += table.memory_bytes
            while self._held_bytes > TABLES_BYTES_MAX or len(self._tables) > TABLES_MAX:
                self._forget(self._tables.popitem(last=False)[1])

    def _forget(self, table: FrameTable | None) -> None:
        if table is not None:
            self._held_bytes -= table.memory_bytes


def _identity(instance: Instance) -> tuple[str, int, int]:
    return instance.sop_instance_uid, instance.stamp, instance.position.payload_crc


class Retrieval:
    """Opens stored instances; one for each archive. Thread-safe."""

    def __init__(self, index: Catalog, reader: LogReader) -> None:
        self._index = index
        self._reader = reader
        self.tables = FrameTables()
        self._recalls_s: dict[str, float] = {}
        """Study → when its segments may be recalled again."""

    def open(self, instance: Instance) -> StoredInstance:
        """Opens an instance for reading. Reads nothing yet."""
        return StoredInstance(self, self._reader, instance)

    def damaged_places(self) -> set[tuple[int, int]]:
        """Segment and offset of all records that are noted as damaged."""
        return {(row.segment_id, row.offset) for row in self._index.damage()}

    def pin(self, segment_ids: Iterable[int]) -> Pin:
        """Keeps these segments readable until the pin is closed, even if they are deleted meanwhile.

        If there are more segments than can be pinned, instances in the others can be missing after they are deleted and
        compacted away.
        """
        return self._reader.pin(segment_ids)

    def segment(self, instance: Instance) -> OpenSegment:
        """The open segment file of an instance, for callers that read it with preadv2(2). Raises StorageError."""
        return self._reader.opened(instance.position)

    def elsewhere(self, instances: Iterable[Instance]) -> list[Instance]:
        """One instance of each segment that is not on this machine. Does not wait for another one."""
        firsts = {instance.position.segment_id: instance for instance in instances}
        return [instance for instance in firsts.values() if not self._is_here(instance)]

    def _is_here(self, instance: Instance) -> bool:
        try:
            self._reader.opened(instance.position)
        except StorageError:
            return False
        return True

    def check_reachable(self, instances: Iterable[Instance]) -> None:
        """Reads a byte of each: of a segment in an archive class all of the study is recalled. Blocks.

        Raises StoreUnreachable. Damage is left to whoever reads the bytes.
        """
        for instance in instances:
            with suppress(CorruptRecord):
                self.open(instance).read(0, 1)

    def fill_cached(self, instance: Instance, targets: Sequence[memoryview]) -> bool:
        """Fills consecutive buffers with the whole of an instance; not checked. False: not without waiting."""
        try:
            return self._reader.read_scattered(instance.position, targets, 0, cached_only=True)
        except StorageError:
            return False  # the caller reads it in another way and gets the error

    def warm(self, instances: Sequence[Instance]) -> None:
        """Reads the first of these into the page cache, and begins with the others. Blocks.

        Raises CorruptRecord, or StorageError if one cannot be read.
        """
        for instance in instances:
            self._reader.read_ahead(instance.position)
        self.open(instances[0]).verify()

    def sweep(self) -> None:
        """Closes segment files that have been removed, which frees their space on the disk. Call it regularly."""
        self._reader.sweep()

    def follow(self, instance: Instance) -> None:
        """Corrects the position of an instance whose segment is gone: a compaction has moved its record.

        Raises SegmentGone when it has been deleted or replaced.
        """
        previous = instance.position
        for version in self._index.versions(instance.sop_instance_uid.encode()):
            current = version.position
            is_same = (current.payload_length, current.payload_crc) == (previous.payload_length, previous.payload_crc)
            if is_same and version.transfer_syntax_uid == instance.transfer_syntax_uid and current[:2] != previous[:2]:
                instance.position = current
                return
        raise SegmentGone("it has been deleted, and its segment is gone", previous.segment_id, previous.offset)

    def following(self, instance: Instance, read: Callable[[Position], Result]) -> Result:
        """Calls `read` with the position of an instance, also after a compaction has moved it. Raises as `read`."""
        try:
            return read(instance.position)
        except SegmentGone:
            self.follow(instance)
        except SegmentCold:
            self._recall(instance.study_instance_uid)
            raise
        return read(instance.position)

    def _recall(self, study_instance_uid: str) -> None:
        """Recalls all of a study at once: whoever reads all of it waits one time."""
        now_s = time.monotonic()
        if now_s < self._recalls_s.get(study_instance_uid, 0.0):
            return
        if len(self._recalls_s) >= RECALLS_MAX:
            self._recalls_s.clear()
        self._recalls_s[study_instance_uid] = now_s + RECALL_EVERY_S
        query = Query(Level.STUDY, {tags.StudyInstanceUID: study_instance_uid.encode()})
        self._reader.recall({each.position.segment_id for each in self._index.instances(query)})

    def note_damage(self, instance: Instance, error: CorruptRecord) -> None:
        """Notes that an instance could not be read, for every process, until a re-send has healed the instance."""
        note_damage(self._index, instance, error)

    def is_noted(self, instance: Instance) -> bool:
        """Whether damage is noted at the position of this instance."""
        place = instance.position[:2]
        return any((row.segment_id, row.offset) == place for row in self._index.damage())


class StoredInstance:
    """One stored data set, open for reading. A `dicom.sources.Source`. Not for several threads at once."""

    __slots__ = ("_checked_bytes", "_crc", "_inflated", "_reader", "_retrieval", "instance", "length", "syntax")

    def __init__(self, retrieval: Retrieval, reader: LogReader, instance: Instance) -> None:
        self._retrieval = retrieval
        self._reader = reader
        self.instance = instance
        self.length = instance.position.payload_length
        """Bytes of the stored data set."""
        self.syntax = transfer_syntax.of(instance.transfer_syntax_uid)
        self._crc = self._checked_bytes = 0
        self._inflated: Inflated | None = None

    # -- ranges ---------------------------------------------------------------------------------

    def read(self, offset: int, count: int) -> memoryview:
        """`count` bytes at `offset`, fewer only at the end. Do not trust them before `finish`. Raises CorruptRecord."""
        count = max(min(count, self.length - offset), 0)
        target = memoryview(bytearray(count))
        if count:
            self._follow(lambda position: self._reader.read_into(position, target, offset))
        self._take_checksum(target, offset)
        return target

    def read_cached(self, offset: int, count: int) -> memoryview | None:
        """The same without waiting for a disk. None: call `read`, which waits, or raises the error."""
        target = memoryview(bytearray(max(min(count, self.length - offset), 0)))
        if not self.fill_cached([target], offset):
            return None
        self._take_checksum(target, offset)
        return target

    def _take_checksum(self, piece: memoryview, offset: int) -> None:
        """Adds each byte to the checksum once and in order, even if it is read twice or ahead."""
        end = offset + len(piece)
        if offset <= self._checked_bytes < end:
            self._crc = crc32c(piece[self._checked_bytes - offset :], self._crc)
            self._checked_bytes = end

    def fill(self, targets: Sequence[memoryview], offset: int) -> None:
        """Fills consecutive buffers with the data set from `offset` on; not checked. Raises CorruptRecord."""
        self._follow(lambda position: self._reader.read_scattered(position, targets, offset))

    def fill_cached(self, targets: Sequence[memoryview], offset: int) -> bool:
        """The same without waiting for a disk. False: call `fill`, which waits, or raises the error."""
        try:
            return self._reader.read_scattered(self.instance.position, targets, offset, cached_only=True)
        except StorageError:
            return False

    # -- the whole data set ---------------------------------------------------------------------

    def segment(self) -> OpenSegment:
        """The open file that it lies in, as `Retrieval.segment` has it. Raises StorageError."""
        return self._retrieval.segment(self.instance)

    def whole(self) -> bytes:
        """All of it, checked. Raises CorruptRecord."""
        return self._follow(self._reader.read)

    def pieces(self) -> Iterator[memoryview]:
        """All of it piece by piece, checked before the last piece is yielded. At least one piece, maybe empty.

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
        """The same, with the record's header; `past_the_cache`: from the disk, if it has been written there."""

        def verify(position: Position) -> None:
            if past_the_cache:
                self._reader.forget(position)
            self._reader.verify(position)

        self._follow(verify)

    def verify_damaged(self) -> None:
        """Verifies an instance that is noted as damaged, and no other. Raises CorruptRecord if it is still damaged."""
        if self._retrieval.is_noted(self.instance):
            self.verify()

    def check(self, crc: int) -> None:
        """Compares the caller's checksum of all bytes. Does not block, and notes no damage.

        Raises CorruptRecord.
        """
        self._reader.check(self.instance.position, crc)

    @property
    def is_read(self) -> bool:
        """Whether `finish` has nothing to read."""
        return self._checked_bytes == self.length

    def finish(self) -> None:
        """Reads the bytes that `read` has not read. Raises CorruptRecord if the checksum of all is wrong."""
        while self._checked_bytes < self.length:
            self.read(self._checked_bytes, PIECE_BYTES)
        self._follow(lambda position: self._reader.check(position, self._crc))

    # -- head and frames ------------------------------------------------------------------------

    def head(self, bytes_max: int = HEAD_BYTES_MAX) -> memoryview:
        """The bytes before the value of Pixel Data, header included. All bytes if there is none, or if it is deflated.

        Not checked, and cut at `bytes_max`. Raises CorruptRecord.
        """
        pixel_data = self.instance.pixel_data_offset
        is_all = pixel_data < 0 or self.syntax.deflated
        return self.read(0, min(self.length if is_all else pixel_data + PIXEL_HEADER_BYTES, bytes_max))

    def tail(self) -> memoryview:
        """The bytes after Pixel Data, mostly none. Not checked. Raises CorruptRecord, FramesUnreadable."""
        pixel_data = self.instance.pixel_data_offset
        if pixel_data < 0 or self.syntax.deflated:
            return memoryview(b"")
        return self.read(end_of_pixels(self, self.syntax, pixel_data), self.length)

    def frames(self) -> FrameTable:
        """The table of frames. Raises CorruptRecord, FramesUnreadable, TranscodeError (a deflate stream)."""
        table = self._retrieval.tables.get(self.instance)
        return table if table is not None else self._frames()

    def frame(self, number: int) -> memoryview:
        """A frame, numbered from 1: a bare codestream, or samples in little endian. Not checked. Raises as `frames`."""
        table = self.frames()
        table.check(number)
        try:
            return table.read(self._source(), number)
        except FramesUnreadable:
            if not (isinstance(table, EncapsulatedFrames) and table.is_trusted):
                raise
            return self._frames(trust_offsets=False).read(self._source(), number)

    def frame_cached(self, number: int) -> memoryview | None:
        """The same without waiting for a disk. None: call `frame`, which waits, or raises the error."""
        table = self._frames_cached()
        if table is None:
            return None
        try:
            span = table.span(number)
            if span is None or span[1] > CACHED_BYTES_MAX:
                return None
            target = memoryview(bytearray(span[1]))
            return table.cut(number, target) if self.fill_cached([target], span[0]) else None
        except FramesUnreadable:
            return None

    def frame_place(self, number: int) -> tuple[int, int] | None:
        """Offset and length of a frame that leaves as it lies there, in one piece, found without waiting for a disk.

        None: call `frame_cached` or `frame`.
        """
        table = self._frames_cached()
        if table is None:
            return None
        try:
            return table.place(CachedOnly(self), number)
        except (FramesUnreadable, NotCached):
            return None

    def image_pixel(self) -> ImagePixel:
        """The description of a frame's samples in the head. Raises CorruptRecord, DataSetError, TranscodeError."""
        source = self._source()
        return Head.read(source, elements.encoding_of(source.read(0, 8), self.syntax)).image_pixel()

    def pixels(self) -> Source:
        """The value of Pixel Data as one stream: native in little endian, or all fragments joined.

        Raises as `frames`.
        """
        return pixel_stream(self._source(), self.syntax, self.instance.pixel_data_offset)

    def _frames(self, *, trust_offsets: bool = True) -> FrameTable:
        source, pixel_data = self._source(), self.instance.pixel_data_offset
        description = self._only_frame_description()
        try:
            table = frame_table(source, self.syntax, pixel_data, description, trust_offsets=trust_offsets)
        except DescriptionDoubtful:
            table = frame_table(source, self.syntax, pixel_data, trust_offsets=trust_offsets)
        self._retrieval.tables.put(self.instance, table)
        return table

    def _source(self) -> Source:
        if not self.syntax.deflated:
            return self
        if self._inflated is None:
            self._inflated = Inflated(self)
        return self._inflated

    def _only_frame_description(self) -> Description | None:
        return Description.of_one_frame(elements.blob_items(self.instance.attributes))

    def _frames_cached(self) -> FrameTable | None:
        """The table of frames if it is in memory, or if the index describes the only frame, a short one."""
        if self.syntax.deflated:
            return None
        table, pixel_data = self._retrieval.tables.get(self.instance), self.instance.pixel_data_offset
        if table is not None or pixel_data < 0 or self.length - pixel_data > CACHED_BYTES_MAX:
            return table
        description = self._only_frame_description()
        if description is None:
            return None
        try:
            table = frame_table(CachedOnly(self), self.syntax, pixel_data, description)
        except (FramesUnreadable, NotCached):
            return None
        self._retrieval.tables.put(self.instance, table)
        return table

    def _follow(self, read: Callable[[Position], Result]) -> Result:
        try:
            return self._retrieval.following(self.instance, read)
        except CorruptRecord as error:
            self._retrieval.note_damage(self.instance, error)
            raise


class CachedOnly:
    """A stored instance as a `Source` that reads what is in the page cache."""

    def __init__(self, stored: StoredInstance) -> None:
        self._stored = stored
        self.length = stored.length

    def read(self, offset: int, count: int) -> memoryview:
        """See `Source`. Raises NotCached."""
        data = self._stored.read_cached(offset, count)
        if data is None:
            raise NotCached
        return data
