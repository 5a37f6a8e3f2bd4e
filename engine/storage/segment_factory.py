"""SegmentFactory: makes segment files, with the next free number, lock, header, space, and a durable name.

    number ──► create ──► lock ──► header ──► allocate ──► prewrite (a segment made ahead), at once or later
      ▲           │         │
      └───────────┴─────────┘   taken by another process, or removed by a recovery before the lock: the next number

Thread-safe. The name of a new file is durable only after `sync_names`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from engine.errors import StorageError, StorageFailed, StorageFull
from engine.sizes import bytes_text
from engine.storage import hints
from engine.storage.files import Files, raise_write_error
from engine.storage.growing_segment import GrowingSegment
from engine.storage.log_health import LogHealth
from engine.storage.segment import FIRST_RECORD, LAYOUT_LOG, LAYOUT_STREAM, SegmentHeader, segment_path
from engine.storage.segment_ids import SegmentIds

FREE_SHARE = 4
"""A new segment takes at most this share (a quarter) of the free space, so every writer gets one on a small disk."""
PREWRITE_STEP_BYTES = 16 << 20
"""Bytes written between two looks at the clock."""
PREWRITE_LATER_BYTES = 4 << 20
"""Bytes written at once while the log is idle: for some milliseconds a record may have to go elsewhere."""

_PAGE_MASK = ~4095


class SegmentFactory:
    """Makes the segments of one writer."""

    def __init__(
        self,
        directory: str,
        files: Files,
        archive_id: bytes,
        health: LogHealth,
        *,
        writer: str,
        segment_bytes: int,
        reserve_bytes: int,
        prewrite_bytes: int,
        allocates: bool,
        ids: SegmentIds,
        clock_ns: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """Parameters as of SegmentLog; an I/O error ends `health`. Raises StorageError for a bad archive id."""
        if len(archive_id) != 16:
            raise StorageError(f"an archive id has 16 bytes, this one {len(archive_id)}")
        self.reserve_bytes = reserve_bytes
        """Bytes that stay free on the disk."""
        self._directory = directory
        self._files = files
        self._archive_id = archive_id
        self._health = health
        self._writer = writer
        self._segment_bytes = segment_bytes
        self._prewrite_bytes = prewrite_bytes
        self._allocates = allocates
        self._ids = ids
        self._clock_ns = clock_ns
        self._random_bytes = random_bytes
        self._lock = threading.Lock()
        self._created_count = 0
        self._created_synced_count = 0

    def create_log_segment(self, least_bytes: int = FIRST_RECORD) -> GrowingSegment:
        """A segment for many records with its space allocated. Raises StorageFull or StorageFailed."""
        return self._create(least_bytes, LAYOUT_LOG)

    def create_stream_segment(self, least_bytes: int) -> GrowingSegment:
        """A segment for one streamed record, without allocated space. Raises StorageFull or StorageFailed."""
        return self._create(least_bytes, LAYOUT_STREAM)

    def prewrite(self, segment: GrowingSegment, patience_s: float) -> None:
        """Writes zeros ahead of the records, so that a burst of them finds blocks that need no allocation."""
        give_up_ns = self._clock_ns() + int(patience_s * 1e9)
        while not self.is_prewritten(segment) and self._clock_ns() < give_up_ns:
            self._write_zeros(segment, PREWRITE_STEP_BYTES)

    def prewrite_step(self, segment: GrowingSegment) -> None:
        """Writes the next zeros. Write nothing else there meanwhile. Raises StorageFull or StorageFailed."""
        self._write_zeros(segment, PREWRITE_LATER_BYTES)

    def _write_zeros(self, segment: GrowingSegment, most_bytes: int) -> None:
        offset = max(segment.prewritten, FIRST_RECORD)
        step_bytes = min(most_bytes, self._prewrite_end(segment) - offset)
        self._files.write_zeros(segment.path, offset, step_bytes)
        segment.prewritten = offset + step_bytes

    def is_prewritten(self, segment: GrowingSegment) -> bool:
        """Whether the segment is prewritten to its end."""
        return max(segment.prewritten, FIRST_RECORD) >= self._prewrite_end(segment)

    def _prewrite_end(self, segment: GrowingSegment) -> int:
        return min(self._prewrite_bytes, segment.limit) & _PAGE_MASK if segment.is_allocated else 0

    def discard(self, segment: GrowingSegment) -> None:
        """Removes an empty segment."""
        try:
            self._files.unlink(segment.path)
        except StorageFailed as error:
            self._health.fail(error)
            raise
        finally:
            self._files.close(segment.fd)

    @property
    def has_unsynced_names(self) -> bool:
        """Whether a segment has been created since the last `sync_names`."""
        return self._created_count > self._created_synced_count

    def sync_names(self) -> None:
        """Makes the directory entries of all segments created before the call durable."""
        with self._lock:
            created_count = self._created_count
        if created_count > self._created_synced_count:
            self._files.sync_directory(self._directory)
            self._created_synced_count = created_count

    def check_reserve(self, wanted_bytes: int = 0) -> None:
        """Raises StorageFull if that many more bytes would use the reserve."""
        free_bytes = self._free_bytes() - wanted_bytes
        if free_bytes < 0:
            left_bytes = free_bytes + self.reserve_bytes
            raise StorageFull(f"only {left_bytes} bytes would be free and {self.reserve_bytes} shall stay free")

    # -- inside ---------------------------------------------------------------------------------

    def _free_bytes(self) -> int:
        """Free bytes without the reserve."""
        try:
            return self._files.free_bytes(self._directory) - self.reserve_bytes
        except OSError as error:
            raise_write_error(error, f"statvfs {self._directory}")

    def _create(self, least_bytes: int, layout: int) -> GrowingSegment:
        try:
            segment = self._create_sized(least_bytes, layout)
        except StorageFailed as error:
            self._health.fail(error)
            raise
        with self._lock:
            self._created_count += 1
        return segment

    def _create_sized(self, least_bytes: int, layout: int) -> GrowingSegment:
        least_bytes += hints.FOOTER_BYTES_MIN
        free_bytes = self._free_bytes()
        if free_bytes < least_bytes:
            raise StorageFull(
                f"the disk is full: {bytes_text(max(free_bytes, 0))} are free beside the reserve of"
                f" {bytes_text(self.reserve_bytes)} (limits.disk_reserve_bytes), {bytes_text(least_bytes)} are needed;"
                " delete studies, compact, or give it a larger disk"
            )
        segment = self._create_file(layout)
        try:
            self._files.pwritev(segment.fd, [segment.header.encode()], 0, FIRST_RECORD)
            if layout == LAYOUT_LOG:
                self._size(segment, least_bytes, max(least_bytes, min(self._segment_bytes, free_bytes // FREE_SHARE)))
        except StorageFull:
            self._files.unlink(segment.path)
            self._files.close(segment.fd)
            raise
        except StorageFailed:
            self._files.close(segment.fd)
            raise
        return segment

    def _size(self, segment: GrowingSegment, least_bytes: int, size_bytes: int) -> None:
        """Sets the limit of a segment and allocates that much, or less if the disk has no more."""
        while self._allocates:
            try:
                self._files.allocate(segment.fd, 0, size_bytes)
            except StorageFull:
                if size_bytes == least_bytes:
                    raise
                size_bytes = max(least_bytes, size_bytes // 2)
                continue
            segment.is_allocated = True
            break
        segment.limit = size_bytes - hints.FOOTER_BYTES_MIN

    def _create_file(self, layout: int) -> GrowingSegment:
        """Creates and locks a file with the next free id. Several processes do this at once."""
        while True:
            segment_id = self._ids.next()
            path = segment_path(self._directory, segment_id)
            try:
                fd = self._files.create(path)
            except FileExistsError:
                continue
            # Between create and lock a recovery may have taken the empty file for an abandoned one, and removed it.
            if self._files.lock(fd) and self._files.is_linked(fd):
                break
            self._files.close(fd)
        salt = int.from_bytes(self._random_bytes(8), "little")
        header = SegmentHeader(segment_id, self._archive_id, salt, self._clock_ns(), self._writer, layout)
        return GrowingSegment(header, fd, path)
