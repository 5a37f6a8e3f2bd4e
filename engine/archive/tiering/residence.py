"""Residence: whether the bytes of a segment are a file here, or only in the bucket; and the way between both.

    file                 ──evict──►  compare with the bucket ─► hint to DATA/elsewhere ─► remove the file
    only in the bucket   ──fetch──►  download, compare ─► file, synced, renamed ─► remove the hint

While both are there the file counts. Readers that have the file open read on; the next one reads through. A segment is
evicted only when the bucket has it: size, and page checksums of its hint against the file here.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from engine import log
from engine.archive.layout import Layout
from engine.archive.tiering.remote_segments import RemoteSegments
from engine.errors import CorruptRecord, ObjectMissing, ObjectWrong, SegmentGone
from engine.objects.bucket import PAGE_BYTES, SegmentName
from engine.storage.files import Files
from engine.storage.record import crc32c
from engine.storage.segment import segment_path
from engine.storage.segment_ids import newest_of_slots
from engine.storage.segment_store import LocalSegments

logger = log.get("archive.residence")

Spent = Callable[[int], None]


class Residence:
    """Moves segments of one archive between this machine and its bucket."""

    def __init__(self, layout: Layout, files: Files, remote: RemoteSegments) -> None:
        self._layout = layout
        self._files = files
        self._remote = remote
        self._local = LocalSegments(layout.segments, files)

    def evict(self, name: SegmentName) -> int:
        """Removes the file of a segment that the bucket has; returns its bytes, 0 if it stays.

        Raises StoreUnreachable, ObjectWrong when the bucket has other bytes, StorageFull or StorageFailed.
        """
        if name.segment_id in newest_of_slots(self._local.segment_ids()).values():
            return 0  # it shows which number comes next, and a writer may have just sealed it
        try:
            data = self._local.open(name.segment_id, salt=name.salt)
        except SegmentGone:
            return 0
        bucket = self._remote.bucket()
        try:
            hint = bucket.hint(name)
            there_bytes = bucket.objects.head(bucket.segment_key(name)).size
        except ObjectMissing as error:
            raise ObjectWrong(f"segment {name} is not in the bucket: {error}") from error
        size = data.size()
        if not size == hint.segment_bytes == there_bytes:
            raise ObjectWrong(f"segment {name} has {size} bytes here and {there_bytes} in the bucket")
        for number, crc in enumerate(hint.pages):
            if crc32c(data.read(PAGE_BYTES, number * PAGE_BYTES)) != crc:
                raise ObjectWrong(f"segment {name}: page {number} differs from the one in the bucket")
        self._remote.add(name, hint.encode())
        self._files.unlink(segment_path(self._layout.segments, name.segment_id))
        self._files.sync_directory(self._layout.segments)
        logger.info("a segment is in the bucket only", segment=str(name), bytes=size)
        return size

    def fetch(self, name: SegmentName, spent: Spent = lambda count: None) -> int:
        """Makes a segment a file again; returns its bytes, 0 if it is one, or gone.

        Raises StoreUnreachable, CorruptRecord, StorageFull or StorageFailed.
        """
        path = segment_path(self._layout.segments, name.segment_id)
        if self._files.exists(path):
            self._remote.discard(name)
            return 0
        try:
            data = self._remote.open(name.segment_id, salt=name.salt)
        except SegmentGone:
            return 0
        part = f"{path}.part"
        self._files.unlink(part)
        fd = self._files.create(part)
        try:
            size = data.size()
            whole = 0
            for at in range(0, size, PAGE_BYTES):
                spent(min(PAGE_BYTES, size - at))
                page = data.read(PAGE_BYTES, at)
                whole = crc32c(page, whole)
                self._files.pwritev(fd, [page], at)
            if self._files.size(fd) != size or whole != data.segment_crc:
                raise CorruptRecord("the segment in the bucket is not what was published", name.segment_id, 0)
            self._files.fdatasync(fd)
        except BaseException:
            self._files.close(fd)
            self._files.unlink(part)
            raise
        self._files.close(fd)
        self._files.rename(part, path)
        self._files.sync_directory(self._layout.segments)
        self._remote.discard(name)
        return size

    def remote_names(self) -> list[SegmentName]:
        """The segments that are in the bucket only."""
        return self._remote.names()

    def local_bytes(self, segment_id: int) -> int:
        """Of the file of a segment; 0 if there is none."""
        try:
            return os.stat(segment_path(self._layout.segments, segment_id)).st_size
        except OSError:
            return 0
