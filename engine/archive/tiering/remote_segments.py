"""RemoteSegments: segments that are only in the bucket, read through; their heads are here.

    DATA/elsewhere/<id>-<salt>.hint     the hint object of such a segment (`objects.bucket`): header, footer, checksums
    DATA/cache/objects/                 pages of 4 MiB that were read (`objects.pages`)

    bytes of                read from
    the header block        the hint
    records                 pages: memory, disk, bucket
    heads of records        the hint's copy of them, as far as a read asks for no more than a head
    the footer              the hint: so rebuild, start, check and compaction's plan need no bucket

A segment in an archive class is recalled by its first read, which raises SegmentCold (`recalls`).
A read of a record raises StoreUnreachable when the store does not answer, and also when it has no such object: a wrong
url looks like that, and nothing may be noted as damage because of it. Bytes that are wrong each time are CorruptRecord.
"""

from __future__ import annotations

import os
import re
import threading
from array import array
from bisect import bisect_left
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine import log
from engine.archive.tiering import connection
from engine.archive.tiering.paged_bytes import PagedBytes
from engine.archive.tiering.recalls import Recalls
from engine.errors import (
    ConfigError,
    CorruptRecord,
    EngineError,
    ObjectCold,
    ObjectMissing,
    ObjectWrong,
    SegmentGone,
    StorageError,
    StorageFull,
    StoreUnreachable,
    for_log,
)
from engine.objects.archive_classes import ArchiveClasses
from engine.objects.bucket import PAGE_BYTES, Bucket, PageTable, Published, SegmentName, read_page_table
from engine.objects.pages import PageCache
from engine.objects.settings import ObjectStore
from engine.storage import hints
from engine.storage.files import NO_ROOM, Files, replace_file
from engine.storage.record import unpack_head
from engine.storage.segment import FIRST_RECORD
from engine.storage.segment_bytes import SegmentBytes

logger = log.get("archive.remote_segments")

FOLDER = "elsewhere"
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.hint")
_AHEAD_THREADS = 2
HEAD_BYTES_MAX = 64 << 10
"""A longer read is of a payload."""


class RemoteSegments:
    """The segments of one archive that are in its bucket only. Thread-safe."""

    def __init__(self, data: Path, archive_id: bytes, files: Files) -> None:
        """Reads nothing yet."""
        self._data = data
        self._archive_id = archive_id
        self._files = files
        self._folder = str(data / FOLDER)
        self._lock = threading.Lock()
        self._bucket: Bucket | None = None
        self._settings: ObjectStore | None = None
        self._recalls: Recalls | None = None
        self._ahead: ThreadPoolExecutor | None = None
        self._wanted: set[tuple[SegmentName, int]] = set()
        self.pages = PageCache(str(data / "cache" / "objects"), files, self._cache_bytes)

    # -- SegmentStore ---------------------------------------------------------------------------

    def open(self, segment_id: int, offset: int = 0, *, salt: int | None = None) -> RemoteSegment:
        """A segment's bytes. Asks no other machine."""
        for name in self.names():
            if name.segment_id == segment_id and salt in (None, name.salt):
                return self._open(name, offset)
        raise SegmentGone("the segment file is missing", segment_id, offset)

    def segment_ids(self) -> list[int]:
        """The segments, ascending."""
        return sorted({name.segment_id for name in self.names()})

    def sync_names(self) -> None:
        """Makes the names durable."""
        if self._files.exists(self._folder):
            self._files.sync_directory(self._folder)

    def recall(self, segment_ids: Collection[int]) -> None:
        """Begins to bring back those that are in an archive class."""
        names = [name for name in self.names() if name.segment_id in segment_ids]
        try:
            self._recalls_of_bucket().begin_all(names)
        except StoreUnreachable as error:
            logger.warning("segments cannot be recalled", error=for_log(error))

    # -- the folder -----------------------------------------------------------------------------

    def names(self) -> list[SegmentName]:
        """The segments with their salts. Raises StorageFull or StorageFailed."""
        try:
            entries = self._files.list_directory(self._folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            kind = StorageFull if error.errno in NO_ROOM else StorageError
            raise kind(f"{self._folder} cannot be read: {error.strerror}") from error
        matches = filter(None, map(_NAME.fullmatch, entries))
        return sorted(SegmentName(int(match[1], 16), int(match[2], 16)) for match in matches)

    def add(self, name: SegmentName, hint: bytes) -> None:
        """From now on the segment is in the bucket only. Durable. Raises StorageFull or StorageFailed."""
        if not self._files.exists(self._folder):
            self._files.make_directory(self._folder)
            self._files.sync_directory(str(self._data))
        replace_file(self._files, self._path(name), hint)

    def has(self, name: SegmentName) -> bool:
        """Whether the hint of this segment is here."""
        return self._files.exists(self._path(name))

    def published(self, name: SegmentName) -> Published:
        """A segment as a manifest has it. Raises SegmentGone, CorruptRecord."""
        data = self._open(name, 0)
        return Published(name, data.size(), data.segment_crc)

    def discard(self, name: SegmentName) -> None:
        """Forgets a segment that is a file again, or is in no bucket any more."""
        self._files.unlink(self._path(name))
        self.sync_names()
        self.pages.forget_segment(name)

    def _path(self, name: SegmentName) -> str:
        return f"{self._folder}/{name}.hint"

    def _open(self, name: SegmentName, offset: int) -> RemoteSegment:
        try:
            fd = self._files.open(self._path(name), os.O_RDONLY)
        except FileNotFoundError as error:
            raise SegmentGone("the segment is a file again, or gone", name.segment_id, offset) from error
        except OSError as error:
            kind = StorageFull if error.errno in NO_ROOM else StorageError
            raise kind(f"the hint of segment {name} cannot be opened: {error.strerror}") from error
        try:
            table = read_page_table(name, self._files.size(fd), lambda length, at: self._files.pread(fd, length, at))
            return RemoteSegment(self, self._files, fd, table)
        except ObjectWrong as error:
            self._files.close(fd)
            raise CorruptRecord(str(error), name.segment_id, offset) from error
        except BaseException:
            self._files.close(fd)
            raise

    # -- the bucket -----------------------------------------------------------------------------

    def _recalls_of_bucket(self) -> Recalls:
        bucket = self.bucket()
        with self._lock:
            if self._recalls is None:
                assert self._settings is not None
                self._recalls = Recalls(ArchiveClasses(self._settings), bucket.segment_key)
            return self._recalls

    def _cache_bytes(self) -> int:
        settings = self._settings
        return settings.cache_bytes if settings is not None else ObjectStore().cache_bytes

    def bucket(self) -> Bucket:
        """The bucket. Makes no request. Raises StoreUnreachable when the archive does not say where it is."""
        with self._lock:
            if self._bucket is None:
                try:
                    settings = connection.recorded(self._data, self._files)
                    if settings is None:
                        raise StoreUnreachable("the archive has segments in a bucket, and does not say in which one")
                    self._bucket = connection.bucket_of(self._archive_id, settings)
                except ConfigError as error:
                    raise StoreUnreachable(str(error)) from error
                self._settings = settings
            return self._bucket

    def page(self, table: PageTable, number: int) -> bytes:
        """One page of a segment. Raises StoreUnreachable, or CorruptRecord."""
        name = table.name
        start = number * PAGE_BYTES
        end = min(start + PAGE_BYTES, table.segment_bytes)

        def get() -> bytes:
            bucket = self.bucket()
            return bucket.objects.get_range(bucket.segment_key(name), start, end)

        def fetch() -> bytes:
            recalls = self._recalls_of_bucket()
            recalls.check(name)
            try:
                return get()
            except ObjectCold:
                if (cold := recalls.begin(name)) is not None:
                    raise cold from None
            return get()  # it was back a moment later

        try:
            return self.pages.get(name, number, table.pages[number], fetch)
        except ObjectMissing as error:
            raise StoreUnreachable(f"segment {name} is not where the archive looks for it: {error}") from error
        except ObjectWrong as error:
            raise CorruptRecord(str(error), name.segment_id, start) from error

    def ahead(self, table: PageTable, numbers: range) -> None:
        """Begins to fetch pages, and does not wait for them."""
        with self._lock:
            if self._ahead is None:
                self._ahead = ThreadPoolExecutor(_AHEAD_THREADS, thread_name_prefix="pages-ahead")
            for number in numbers:
                key = (table.name, number)
                if key not in self._wanted and len(self._wanted) < 2 * _AHEAD_THREADS:
                    self._wanted.add(key)
                    self._ahead.submit(self._fetch_ahead, table, number)

    def _fetch_ahead(self, table: PageTable, number: int) -> None:
        try:
            self.page(table, number)
        except EngineError:
            pass  # whoever needs the page gets the error
        finally:
            with self._lock:
                self._wanted.discard((table.name, number))


class _HeadPlaces:
    """Where in the footer the head of each record is: 16 bytes a record."""

    def __init__(self, data: SegmentBytes, segment_id: int) -> None:
        """Raises CorruptRecord."""
        self._offsets, self._places = array("Q"), array("Q")
        heads = hints.read_heads(data, segment_id, opens=False)
        if heads is None:
            return
        at = heads.start
        for _ in range(heads.trailer.record_count):
            position = unpack_head(heads.data, at, segment_id).position
            self._offsets.append(position.offset)
            self._places.append(at)
            at += position.head_bytes
        self._places.append(at)

    def find(self, offset: int) -> tuple[int, int] | None:
        """Place and length in the footer of the head of the record at `offset`; None: no record begins there."""
        at = bisect_left(self._offsets, offset)
        if at == len(self._offsets) or self._offsets[at] != offset:
            return None
        return self._places[at], self._places[at + 1] - self._places[at]


class RemoteSegment(PagedBytes):
    """SegmentBytes of a segment in a bucket. Closed with the last reference to this object."""

    __slots__ = ("_fd", "_files", "_heads", "_segments", "_table", "_tail")

    def __init__(self, segments: RemoteSegments, files: Files, fd: int, table: PageTable) -> None:
        """`fd`: of its hint; closed with this object."""
        self._segments = segments
        self._files = files
        self._fd = fd
        self._table = table
        self._tail = table.tail
        self._heads: _HeadPlaces | None = None

    def __del__(self) -> None:
        self._files.close(self._fd)

    @property
    def name(self) -> SegmentName:
        """Its number and salt."""
        return self._table.name

    @property
    def segment_crc(self) -> int:
        """crc32c of all its bytes."""
        return self._table.segment_crc

    def size(self) -> int:
        """As of the segment's file."""
        return self._table.segment_bytes

    def read(self, length: int, offset: int, /) -> bytes:
        """`length` bytes, or those up to the end."""
        length = max(0, min(length, self.size() - offset))
        if length <= HEAD_BYTES_MAX and FIRST_RECORD <= offset < self._tail:
            head = self._head_at(offset)
            if len(head) >= length:
                return head[:length]
        return super().read(length, offset)

    def _head_at(self, offset: int) -> bytes:
        """The head of the record that begins there, from the footer; empty if none does."""
        if self._heads is None:
            self._heads = _HeadPlaces(self, self.name.segment_id)
        place = self._heads.find(offset)
        return b"" if place is None else self._files.pread(self._fd, place[1], FIRST_RECORD + place[0])

    def _piece(self, offset: int, length: int, *, at_once: bool) -> bytes | memoryview:
        """Bytes from `offset` on, not necessarily all; none at the end, or if they are not here at once."""
        if offset < FIRST_RECORD:
            return self._files.pread(self._fd, min(length, FIRST_RECORD - offset), offset)
        if offset >= self._tail:
            count = min(length, self.size() - offset)
            return self._files.pread(self._fd, count, FIRST_RECORD + offset - self._tail) if count > 0 else b""
        number, at = divmod(offset, PAGE_BYTES)
        if at_once:
            page = self._segments.pages.in_memory(self.name, number)
            if page is None:
                return b""
        else:
            page = self._segments.page(self._table, number)
        return memoryview(page)[at : min(at + length, at + self._tail - offset, len(page))]

    def read_ahead(self, offset: int, length: int) -> None:
        """Begins to fetch the pages of these bytes."""
        end = min(offset + length, self._tail)
        if end > offset >= FIRST_RECORD:
            self._segments.ahead(self._table, range(offset // PAGE_BYTES, -(-end // PAGE_BYTES)))

    def forget(self, offset: int, length: int) -> None:
        """The next read of these bytes asks the store."""
        for number in range(offset // PAGE_BYTES, -(-min(offset + length, self.size()) // PAGE_BYTES)):
            self._segments.pages.forget(self.name, number)

    def is_gone(self) -> bool:
        """Whether the segment is a file again, or gone."""
        return not self._files.is_linked(self._fd)
