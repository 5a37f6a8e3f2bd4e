"""GrowingSegments: segments that other nodes are writing: their heads are here, their payloads in the bucket's tail.

    DATA/elsewhere/<id>-<salt>.groups    what the segment's node has announced (`announcement`), entry after entry

    entry (little endian)    start u64, end u64, length u32, crc32c u32 of the message, then the message of a GROUP

    bytes of            read from
    the header block    the last entry
    heads of records    the entries: a walk over heads, an index, the change feed need no bucket
    payloads            the groups, whole, as pages (`objects.pages`): memory, disk, bucket

One process adds entries (`follower`), any reads them. The file is not synced: what a power cut takes is announced
still, and is added anew when the follower begins. When the segment is sealed and in the bucket as a whole, its hint
takes the place of this file (`tiering.remote_segments`).
"""

from __future__ import annotations

import os
import re
import struct
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from engine.archive.nodes.announcement import Announcement
from engine.archive.tiering.paged_bytes import PagedBytes
from engine.errors import CorruptRecord, ObjectMissing, ObjectWrong, SegmentGone, StoreUnreachable
from engine.objects.bucket import Bucket, Place, SegmentName
from engine.objects.pages import PageCache
from engine.storage.files import Files, raise_write_error
from engine.storage.record import crc32c
from engine.storage.segment import FIRST_RECORD

FOLDER: Final = "elsewhere"
_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.groups")
_ENTRY: Final = struct.Struct("<QQII")
HEAD_BYTES_MAX: Final = 64 << 10
"""A longer read is of a payload."""
PAGE_NUMBERS_FROM: Final = 1 << 40
"""Groups are kept among the pages under numbers that no page of a sealed segment has."""


class GrowingSegments:
    """The unsealed segments of other nodes. Thread-safe."""

    def __init__(self, data: Path, files: Files, bucket: Callable[[], Bucket], pages: PageCache) -> None:
        """`bucket` makes no request, and raises StoreUnreachable when the archive does not say where it is."""
        self._folder = str(data / FOLDER)
        self._files = files
        self._bucket = bucket
        self._pages = pages
        self._ends: dict[SegmentName, tuple[int, int]] = {}
        """Of each file to which this process adds: where its whole entries end, and its size then."""

    # -- SegmentStore ---------------------------------------------------------------------------

    def open(self, segment_id: int, offset: int = 0, *, salt: int | None = None) -> GrowingSegment:
        """A segment's bytes. Asks no other machine. Raises SegmentGone."""
        for name in self.names():
            if name.segment_id == segment_id and salt in (None, name.salt):
                try:
                    fd = self._files.open(self.path(name), os.O_RDONLY)
                except OSError as error:
                    raise SegmentGone("the segment is sealed now, or gone", segment_id, offset) from error
                return GrowingSegment(self, self._files, fd, name)
        raise SegmentGone("the segment file is missing", segment_id, offset)

    def segment_ids(self) -> list[int]:
        """The segments, ascending."""
        return sorted({name.segment_id for name in self.names()})

    def sync_names(self) -> None:
        """Does nothing: what a power cut takes is announced still."""

    def recall(self, segment_ids: Collection[int]) -> None:
        """Does nothing: the tail is in no archive class."""

    # -- the folder -----------------------------------------------------------------------------

    def names(self) -> list[SegmentName]:
        """The segments with their salts."""
        try:
            entries = self._files.list_directory(self._folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise_write_error(error, f"list {self._folder}")
        matches = filter(None, map(_NAME.fullmatch, entries))
        return sorted(SegmentName(int(match[1], 16), int(match[2], 16)) for match in matches)

    def path(self, name: SegmentName) -> str:
        """The file of a segment."""
        return f"{self._folder}/{name}.groups"

    def add(self, announcement: Announcement) -> None:
        """Adds what was announced of a segment. For one process. Raises StorageFull or StorageFailed."""
        message = announcement.message()
        fields = _ENTRY.pack(announcement.start, announcement.end, len(message), crc32c(message))
        path = self.path(announcement.name)
        if not self._files.exists(self._folder):
            self._files.make_directory(self._folder)
        try:
            fd = self._files.open(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise_write_error(error, f"open {path}")
        known = self._ends.pop(announcement.name, None)  # noted again only when all went well
        try:
            size = self._files.size(fd)
            if known is not None and known[1] == size:
                end = known[0]
            else:
                end = _Entries(self._files, fd, announcement.name).read()
            self._files.pwritev(fd, [fields + message], end)
        finally:
            self._files.close(fd)
        end += len(fields) + len(message)
        self._ends[announcement.name] = end, max(end, size)

    def end(self, name: SegmentName) -> int:
        """Up to where the bytes of a segment are known without a gap; 0: nothing is."""
        try:
            return self.open(name.segment_id, salt=name.salt).whole_end()
        except SegmentGone:
            return 0

    def discard(self, name: SegmentName) -> None:
        """Forgets a segment that is sealed in the bucket, or gone."""
        self._ends.pop(name, None)
        self._files.unlink(self.path(name))
        self._pages.forget_segment(name)

    def group(self, name: SegmentName, place: Place, data_crc: int) -> bytes:
        """The bytes of a group. Raises StoreUnreachable, CorruptRecord."""

        def fetch() -> bytes:
            return self._bucket().group(place).data

        try:
            return self._pages.get(name, _page_number(place), data_crc, fetch)
        except ObjectMissing as error:
            # Its segment has been sealed a moment ago, or a wrong url looks like this: no damage.
            raise StoreUnreachable(f"a group of segment {name} is not in the bucket: {error}") from error
        except ObjectWrong as error:
            raise CorruptRecord(str(error), name.segment_id, 0) from error

    def group_at_once(self, name: SegmentName, place: Place) -> bytes | None:
        """The same if it is in memory."""
        return self._pages.in_memory(name, _page_number(place))


def _page_number(place: Place) -> int:
    return PAGE_NUMBERS_FROM + (place.epoch << 44) + place.number


class _Entries:
    """The entries of one file, read as far as it has them."""

    def __init__(self, files: Files, fd: int, name: SegmentName) -> None:
        self._files = files
        self._fd = fd
        self._name = name
        self._end = 0
        self.header = b""
        self.starts, self.ends = array("Q"), array("Q")
        self.places: list[tuple[Place, int]] = []
        """Place and checksum of each group, in the order of their ends."""
        self.offsets, self.head_places = array("Q"), array("Q")
        """Where each record begins, and where its head lies in the file."""
        self.head_lengths = array("I")

    def read(self) -> int:
        """Reads what is new; returns where the next entry begins."""
        while (fields := self._files.pread(self._fd, _ENTRY.size, self._end)) and len(fields) == _ENTRY.size:
            start, end, length, crc = _ENTRY.unpack(fields)
            message = self._files.pread(self._fd, length, self._end + _ENTRY.size)
            if len(message) < length or crc32c(message) != crc:
                break  # is being written, or was when the power went
            try:
                announcement = Announcement.of_row(self._name.segment_id, self._name.salt, start, end, message)
            except CorruptRecord:
                break
            self._take(announcement, self._end + _ENTRY.size + length)
            self._end += _ENTRY.size + length
        return self._end

    def _take(self, announcement: Announcement, entry_end: int) -> None:
        if self.ends and announcement.end <= self.ends[-1]:
            return  # announced twice
        assert announcement.place is not None
        self.header = announcement.header
        self.starts.append(announcement.start)
        self.ends.append(announcement.end)
        self.places.append((announcement.place, announcement.data_crc))
        at = entry_end - sum(len(head) for _, head in announcement.heads)
        for offset, head in announcement.heads:
            if not self.offsets or offset > self.offsets[-1]:
                self.offsets.append(offset)
                self.head_places.append(at)
                self.head_lengths.append(len(head))
            at += len(head)


class GrowingSegment(PagedBytes):
    """SegmentBytes of a segment that another node writes. Closed with the last reference to this object."""

    __slots__ = ("_entries", "_fd", "_files", "_lock", "_segments", "name")

    def __init__(self, segments: GrowingSegments, files: Files, fd: int, name: SegmentName) -> None:
        """`fd`: of its entries; closed with this object."""
        self._segments = segments
        self._files = files
        self._fd = fd
        self._lock = threading.Lock()
        self._entries = _Entries(files, fd, name)
        self.name = name

    def __del__(self) -> None:
        self._files.close(self._fd)

    def _look(self) -> _Entries:
        self._entries.read()
        return self._entries

    def size(self) -> int:
        """The end of what was announced."""
        with self._lock:
            ends = self._look().ends
            return ends[-1] if ends else 0

    def whole_end(self) -> int:
        """Up to where the groups follow each other."""
        with self._lock:
            entries = self._look()
            end = 0
            for start, group_end in zip(entries.starts, entries.ends, strict=True):
                if start > end:
                    break
                end = max(end, group_end)
            return end

    def read(self, length: int, offset: int, /) -> bytes:
        """`length` bytes, or those up to the end. A short read at the place of a head returns the head alone."""
        length = max(0, min(length, self.size() - offset))
        if length <= HEAD_BYTES_MAX and offset >= FIRST_RECORD:
            head = self._head_at(offset)
            if head:
                return head[:length]
        return super().read(length, offset)

    def _head_at(self, offset: int) -> bytes:
        with self._lock:
            entries = self._entries
            at = bisect_left(entries.offsets, offset)
            if at == len(entries.offsets) or entries.offsets[at] != offset:
                return b""
            return self._files.pread(self._fd, entries.head_lengths[at], entries.head_places[at])

    def _piece(self, offset: int, length: int, *, at_once: bool) -> bytes | memoryview:
        """Bytes from `offset` on, not necessarily all; none at the end, or if they are not here at once."""
        with self._lock:
            entries = self._entries
            if not entries.ends or offset >= entries.ends[-1]:
                self._look()
            if offset < FIRST_RECORD:
                return entries.header.ljust(FIRST_RECORD, b"\0")[offset : offset + length]
            number = bisect_right(entries.ends, offset)
            if number == len(entries.ends) or entries.starts[number] > offset:
                return b""
            start, (place, crc) = entries.starts[number], entries.places[number]
        if at_once:
            data = self._segments.group_at_once(self.name, place)
            if data is None:
                return b""
        else:
            data = self._segments.group(self.name, place, crc)
        return memoryview(data)[offset - start : offset - start + length]

    def read_ahead(self, offset: int, length: int) -> None:
        """Does nothing: an instance is in the group that the one before it has fetched."""

    def forget(self, offset: int, length: int) -> None:
        """Does nothing: each group is compared with its checksum when it is fetched."""

    def is_gone(self) -> bool:
        """Whether the segment is sealed now, or gone."""
        return not self._files.is_linked(self._fd)
