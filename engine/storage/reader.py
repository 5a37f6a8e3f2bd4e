"""LogReader: payloads and heads by position, from any process, while others write.

It knows no index and follows no records: `segment.Walk` does that. It keeps a bounded number of segments open.

A position whose bytes are not what was written raises CorruptRecord with segment and offset, whether they are damaged,
cut off or unreadable (EIO). A problem of this process (no descriptors left) raises StorageError, a store that does not
answer raises StoreUnreachable.

A compaction removes segments while we read. A read then raises SegmentGone: the record lies elsewhere or was deleted;
ask the index. A caller that needs a stable view pins its segments first. A descriptor keeps the bytes of a removed
file, and their blocks on the disk, so `sweep` closes those that nobody has pinned.

    not open ──read, pin──► open, at most OPEN_SEGMENTS_MAX ──evicted, dropped, swept──► closed after the last read
                            pinned, at most PINNED_SEGMENTS_MAX ──last pin closed──► as above
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence

from engine.errors import CorruptRecord, StorageError
from engine.storage.decryption import Decryption
from engine.storage.encryption import PayloadCipher, cipher_of, opened, opened_or_shredded
from engine.storage.hints import Trailer, read_header_or_trailer, read_trailer
from engine.storage.keyring import KEY_ID_BYTES
from engine.storage.record import HEADER_BYTES, Position, Record, crc32c, decode_head, head_length
from engine.storage.segment import SegmentHeader
from engine.storage.segment_bytes import SegmentBytes, Where
from engine.storage.segment_store import SegmentStore

OPEN_SEGMENTS_MAX = 256
"""Descriptors kept open; an archive of a terabyte has a thousand segments, a few of them busy."""

PINNED_SEGMENTS_MAX = 256
"""Further descriptors for pins; a retrieval of more segments looks the rest up again if they move."""
ALLOCATION_BYTES_MAX = 64 << 20
"""A longer payload is compared with the segment's size before memory is allocated for it: its length may be damaged."""

_HEAD_BYTES = 1024
"""Most heads are shorter."""
_CHUNK_BYTES = 1 << 20
_CIPHERS_MAX = 4096
"""Ciphers of encrypted payloads that are kept for each segment, for reads in several steps."""


class OpenSegment:
    """A segment's bytes. Closed with the last reference to this object."""

    __slots__ = ("ciphers", "data", "header", "is_durable")

    def __init__(self, data: SegmentBytes) -> None:
        self.data = data
        self.header: SegmentHeader | None = None
        self.ciphers: dict[Position, PayloadCipher] = {}
        """Of encrypted records whose heads have been read and are authentic."""
        self.is_durable = False
        """Whether its name is on stable storage."""

    @property
    def fd(self) -> int:
        """The descriptor of its file on this machine, -1 if there is none."""
        return self.data.fd


class Pin:
    """Segments whose bytes stay readable until `close`, whatever happens to their files; also a context."""

    def __init__(self, reader: LogReader, segments: dict[int, OpenSegment]) -> None:
        self._reader = reader
        self._segments = segments

    @property
    def segment_ids(self) -> frozenset[int]:
        """The pinned segments."""
        return frozenset(self._segments)

    def close(self) -> None:
        """Releases the segments. May be called twice."""
        segments, self._segments = self._segments, {}
        self._reader._unpin(segments)

    def __enter__(self) -> Pin:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        # For a caller that ended without closing it.
        self.close()


class LogReader:
    """Reads records by position. Thread-safe."""

    def __init__(
        self,
        store: SegmentStore,
        *,
        open_segments_max: int = OPEN_SEGMENTS_MAX,
        pinned_segments_max: int = PINNED_SEGMENTS_MAX,
    ) -> None:
        self._store = store
        self._open_segments_max = open_segments_max
        self._pinned_segments_max = pinned_segments_max
        self._lock = threading.Lock()
        self._segments: OrderedDict[int, OpenSegment] = OrderedDict()
        self._pinned: dict[int, tuple[OpenSegment, int]] = {}
        """Each pinned segment, and its number of pins."""
        self._decryption = Decryption()

    def read(self, position: Position, *, verify: bool = True) -> bytes:
        """The whole payload. Raises CorruptRecord."""
        segment = self._segment(position)
        try:
            if position.payload_length > ALLOCATION_BYTES_MAX:
                stored_length = position.stored_length
                count = max(0, min(segment.data.size() - position.payload_offset, stored_length))
                if count < stored_length:
                    raise _too_short(count, stored_length, position)
            if position.is_encrypted:
                target = bytearray(position.payload_length)
                self._decrypt(segment, position, [memoryview(target)], 0)
                return self._checked(position, bytes(target), verify)
            data = segment.data.read(position.payload_length, position.payload_offset)
        except OSError as error:
            raise _unreadable(error, position) from error
        if len(data) != position.payload_length:
            raise _too_short(len(data), position.payload_length, position)
        return self._checked(position, data, verify)

    def _checked(self, position: Position, data: bytes, verify: bool) -> bytes:
        if verify:
            self.check(position, crc32c(data))
        return data

    def read_into(self, position: Position, target: memoryview, payload_offset: int = 0) -> None:
        """Fills `target` from the payload; not verified, see `check`. Raises CorruptRecord if it cannot be filled."""
        length = target.nbytes
        if payload_offset < 0 or payload_offset + length > position.payload_length:
            raise _outside(position, payload_offset, length)
        if length == 0:
            return
        segment = self._segment(position)
        try:
            if position.is_encrypted:
                self._decrypt(segment, position, [target], payload_offset)
                return
            count = segment.data.read_into([target], position.payload_offset + payload_offset)
        except OSError as error:
            raise _unreadable(error, position) from error
        if count != length:
            raise _too_short(count, length, position)

    def read_scattered(
        self, position: Position, targets: Sequence[memoryview], payload_offset: int, *, cached_only: bool = False
    ) -> bool:
        """Fills consecutive `targets` with the payload from `payload_offset` on. Not verified, see `check`.

        `cached_only`: never waits for the disk; False if not all of it is in the page cache. Raises CorruptRecord.
        """
        length = sum(map(len, targets))
        if payload_offset < 0 or payload_offset + length > position.payload_length:
            raise _outside(position, payload_offset, length)
        segment = self._segment(position)
        offset = position.payload_offset + payload_offset
        try:
            if position.is_encrypted:
                return self._decrypt(segment, position, targets, payload_offset, cached_only=cached_only)
            if cached_only:
                return segment.data.try_read_into(targets, offset) == length
            count = segment.data.read_into(targets, offset)
        except OSError as error:
            raise _unreadable(error, position) from error
        if count != length:
            raise _too_short(count, length, position)
        return True

    def opened(self, position: Position) -> OpenSegment:
        """The segment file of a record, for a caller that reads it with preadv2(2); not verified, see `check`.

        The object keeps it open. An encrypted record is not read in this way. Raises as `read` if there is no such
        segment, StorageError if it is no local file.
        """
        segment = self._segment(position)
        if segment.fd < 0:
            raise StorageError(f"segment {position.segment_id:016x} is no file on this machine")
        return segment

    def recall(self, segment_ids: Collection[int]) -> None:
        """Begins to bring back those of these segments that are in an archive class."""
        self._store.recall(segment_ids)

    def check(self, position: Position, crc: int) -> None:
        """Raises CorruptRecord unless `crc` is the checksum of the whole payload."""
        if crc != position.payload_crc:
            raise CorruptRecord(
                f"payload: checksum {crc:08x}, expected {position.payload_crc:08x}",
                position.segment_id,
                position.offset,
            )

    def verify(self, position: Position) -> Record:
        """Reads the whole record piece by piece and checks head and payload. Raises CorruptRecord."""
        record = self.read_record(position)
        self.verify_payload(position)
        return record

    def read_ahead(self, position: Position) -> None:
        """A hint: this payload will be read soon. Does not wait for it. Raises as `read`."""
        self._segment(position).data.read_ahead(position.payload_offset, position.stored_length)

    def forget(self, position: Position) -> None:
        """A hint: read this record from the disk next time, if it has been written there. Raises as `read`."""
        self._segment(position).data.forget(position.offset, position.record_bytes)

    def verify_payload(self, position: Position) -> None:
        """Reads the payload piece by piece and compares its checksum. Raises CorruptRecord."""
        buffer = memoryview(bytearray(min(_CHUNK_BYTES, position.payload_length)))
        at = crc = 0
        while at < position.payload_length:
            piece = buffer[: position.payload_length - at]
            self.read_into(position, piece, at)
            crc = crc32c(piece, crc)
            at += len(piece)
        self.check(position, crc)

    def where(self, position: Position) -> Where:
        """Where the record's segment is. Raises as `read` if there is no such segment."""
        return self._segment(position).data.where

    def read_record(self, position: Position) -> Record:
        """The record's head, checked, decrypted, and compared with `position`. Raises CorruptRecord, KeyMissing."""
        segment = self._segment(position)
        try:
            head = segment.data.read(position.head_bytes, position.offset)
        except OSError as error:
            raise _unreadable(error, position) from error
        return self._record_of(segment, position, head)

    def record_at(self, segment_id: int, offset: int) -> Record:
        """The record that begins there, its head checked and decrypted. Raises CorruptRecord, KeyMissing."""
        position = Position(segment_id, offset, 0, 0, 0, 0)
        segment = self._segment(position)
        seed = self._header(segment, segment_id).seed
        try:
            head = segment.data.read(_HEAD_BYTES, offset)
            length = head_length(head, segment_id, offset)
            if length > len(head):
                head = segment.data.read(length, offset)
        except OSError as error:
            raise _unreadable(error, position) from error
        return opened_or_shredded(decode_head(head[:length], seed, segment_id, offset), head[:length])

    def header(self, segment_id: int) -> SegmentHeader:
        """The header of a segment. Raises CorruptRecord."""
        return self._header(self._segment(Position(segment_id, 0, 0, 0, 0, 0)), segment_id)

    def trailer(self, segment_id: int) -> Trailer | None:
        """The end of a sealed segment; None if it is not sealed. Raises CorruptRecord."""
        return read_trailer(self._segment(Position(segment_id, 0, 0, 0, 0, 0)).data, segment_id)

    def _record_of(self, segment: OpenSegment, position: Position, head: bytes) -> Record:
        seed = self._header(segment, position.segment_id).seed
        record = opened(decode_head(head, seed, position.segment_id, position.offset), head)
        if record.position != position:
            raise CorruptRecord(
                f"another record lies here: {record.position}, expected {position}",
                position.segment_id,
                position.offset,
            )
        return record

    def key_id(self, position: Position) -> bytes:
        """The id of the key of a record; b"" if it is not encrypted. Raises as `read`."""
        if not position.is_encrypted:
            return b""
        segment = self._segment(position)
        try:
            key_id = segment.data.read(KEY_ID_BYTES, position.offset + HEADER_BYTES + position.key_length)
        except OSError as error:
            raise _unreadable(error, position) from error
        if len(key_id) != KEY_ID_BYTES:
            raise _too_short(len(key_id), KEY_ID_BYTES, position)
        return key_id

    def sync(self, segment_id: int) -> None:
        """Makes everything that any process has written to this segment durable, with its directory entry.

        Raises StorageFailed, and CorruptRecord when there is no such segment.
        """
        segment = self._segment(Position(segment_id, 0, 0, 0, 0, 0))
        segment.data.sync()
        if not segment.is_durable:
            self._store.sync_names()
            segment.is_durable = True

    def drop(self, segment_id: int) -> None:
        """Closes a segment's file, before it is removed or because it was replaced. Running reads are not disturbed."""
        with self._lock:
            dropped = self._segments.pop(segment_id, None)
        del dropped

    def pin(self, segment_ids: Iterable[int]) -> Pin:
        """Keeps these segments open, as many as the limit allows, without those that are gone already."""
        pinned: dict[int, OpenSegment] = {}
        for segment_id in dict.fromkeys(segment_ids):
            try:
                segment = self._segment(Position(segment_id, 0, 0, 0, 0, 0))
            except StorageError:
                continue  # a read from it raises the reason
            with self._lock:
                entry, count = self._pinned.get(segment_id, (segment, 0))
                if not count and len(self._pinned) >= self._pinned_segments_max:
                    break
                self._pinned[segment_id] = (entry, count + 1)
            pinned[segment_id] = entry
        return Pin(self, pinned)

    def _unpin(self, segments: dict[int, OpenSegment]) -> None:
        with self._lock:
            for segment_id in segments:
                entry, count = self._pinned.pop(segment_id)
                if count > 1:
                    self._pinned[segment_id] = (entry, count - 1)

    def sweep(self) -> list[int]:
        """Closes removed files that are not pinned, which frees their space on the disk.

        Returns their segments. Call it every few seconds in a long-running process.
        """
        with self._lock:
            removed = [segment_id for segment_id, segment in self._segments.items() if segment.data.is_gone()]
            dropped = [self._segments.pop(segment_id) for segment_id in removed]
        dropped.clear()
        return removed

    def close(self) -> None:
        """Closes all files but the pinned ones. Reading opens them again."""
        with self._lock:
            dropped, self._segments = self._segments, OrderedDict()
        dropped.clear()

    def _decrypt(
        self,
        segment: OpenSegment,
        position: Position,
        targets: Sequence[memoryview],
        payload_offset: int,
        *,
        cached_only: bool = False,
    ) -> bool:
        """As `read_scattered`, of an encrypted record. Raises OSError too."""
        if not position.payload_length:
            return True
        cipher = segment.ciphers.get(position) or self._cipher(segment, position, cached_only)
        if cipher is None:
            return False
        options = position, targets, payload_offset
        is_filled = self._decryption.fill(segment.data, cipher, *options, cached_only=cached_only)
        if not is_filled and not cached_only:
            count = max(segment.data.size() - position.payload_offset, 0)
            raise _too_short(count, position.stored_length, position)
        return is_filled

    def _cipher(self, segment: OpenSegment, position: Position, cached_only: bool) -> PayloadCipher | None:
        """The cipher of a payload, from its head; None if the head is not in the page cache."""
        head = bytearray(position.head_bytes)
        read = segment.data.try_read_into if cached_only else segment.data.read_into
        if read([memoryview(head)], position.offset) != len(head):
            if cached_only:
                return None
            raise _too_short(0, len(head), position)
        content = bytes(head)
        self._record_of(segment, position, content)
        if len(segment.ciphers) >= _CIPHERS_MAX:
            segment.ciphers.clear()
        cipher = segment.ciphers[position] = cipher_of(content, position)
        return cipher

    def _segment(self, position: Position) -> OpenSegment:
        segment_id = position.segment_id
        with self._lock:
            segment = self._segments.get(segment_id)
            if segment is not None:
                self._segments.move_to_end(segment_id)
                return segment
            if segment_id in self._pinned:
                return self._pinned[segment_id][0]
        opened = OpenSegment(self._store.open(segment_id, position.offset))
        evicted: list[OpenSegment] = []
        with self._lock:
            # Another thread may have been quicker; its descriptor stays and ours is closed on leaving.
            segment = self._segments.setdefault(segment_id, opened)
            while len(self._segments) > self._open_segments_max:
                evicted.append(self._segments.popitem(last=False)[1])
        return segment

    def _header(self, segment: OpenSegment, segment_id: int) -> SegmentHeader:
        if segment.header is None:
            segment.header = read_header_or_trailer(segment.data, segment_id)
        return segment.header


def _outside(position: Position, payload_offset: int, length: int) -> StorageError:
    return StorageError(
        f"bytes {payload_offset} to {payload_offset + length} of a payload of {position.payload_length}"
    )


def _unreadable(error: OSError, position: Position) -> CorruptRecord:
    return CorruptRecord(f"cannot be read: {error.strerror}", position.segment_id, position.offset)


def _too_short(count: int, expected: int, position: Position) -> CorruptRecord:
    return CorruptRecord(f"the file ends after {count} of {expected} bytes", position.segment_id, position.offset)
