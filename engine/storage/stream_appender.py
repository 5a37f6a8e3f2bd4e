"""StreamAppender: writes one record larger than memory, in a segment of its own.

The payload is written where it will stay, and its write-back starts as it comes. The head is written last, when length
and checksum are known. A crash before that leaves a file whose first head is zeros, and recovery removes it.

    0                4096                                  + 64 + key + meta
    +----------------+-------------------------------------+-----------+--------+
    | segment header | record header, key, meta, unused    | payload … | footer |
    +----------------+-------------------------------------+-----------+--------+
                     written last                          as it comes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engine.errors import StorageError, StorageFailed, StorageFull
from engine.storage import hints
from engine.storage.encryption import Encryptor, StudyKeyring
from engine.storage.files import Files
from engine.storage.growing_segment import GrowingSegment
from engine.storage.log_health import LogHealth
from engine.storage.record import ENCRYPTED, ENCRYPTED_META_MORE, HEADER_BYTES, Position, encode_head
from engine.storage.segment import FIRST_RECORD
from engine.storage.segment_factory import SegmentFactory

if TYPE_CHECKING:
    from typing_extensions import Buffer

WRITE_BACK_BYTES = 8 << 20
"""Bytes of a streamed object that are written before their write-back is started."""

_PAGE_MASK = ~4095


class StreamAppender:
    """One streamed record. Use it on one thread at a time."""

    def __init__(
        self,
        files: Files,
        factory: SegmentFactory,
        health: LogHealth,
        kind: int,
        flags: int,
        stamp: int,
        key: bytes,
        meta_max: int,
        *,
        on_end: Callable[[StreamAppender], None],
        encryptor: Encryptor | None = None,
        study_keys: StudyKeyring | None = None,
    ) -> None:
        """`meta_max`: the longest meta block; `on_end` is called when the file is closed.

        `encryptor`: of this record, if it is to be encrypted; `study_keys`: its key is to be that of its study.
        """
        self._files = files
        self._factory = factory
        self._health = health
        self._on_end = on_end
        self._kind = kind
        self._flags = flags
        self._stamp = stamp
        self._key = key
        self._meta_max = meta_max
        self._segment: GrowingSegment | None = None
        self._encryptor = encryptor
        self._study_keys = study_keys
        area_max = meta_max if encryptor is None else meta_max + ENCRYPTED_META_MORE
        self._payload_offset = FIRST_RECORD + HEADER_BYTES + len(key) + area_max
        self._written_bytes = 0
        """Bytes of the payload on the disk."""
        self._write_back_offset = 0
        self._is_over = False
        self.payload_length = 0
        """Length of the payload so far."""

    def write(self, buffers: Sequence[Buffer], length: int) -> None:
        """Appends to the payload. Raises StorageFull or StorageFailed: then call `abort`. Blocks on a slow disk."""
        self._open_segment()
        self.payload_length += length
        if self._encryptor is None:
            self._write(buffers, length)
            return
        stored = self._encryptor.add(buffers)
        if stored:
            self._write([stored], len(stored))

    def _write(self, buffers: Sequence[Buffer], length: int) -> None:
        segment = self._open_segment()
        offset = self._payload_offset + self._written_bytes
        try:
            self._files.pwritev(segment.fd, buffers, offset, length)
        except StorageFailed as error:
            self._health.fail(error)
            raise
        self._written_bytes += length
        end = offset + length
        if end - self._write_back_offset >= WRITE_BACK_BYTES:
            self._factory.check_reserve()
            self._start_write_back(segment.fd, end)
            self._write_back_offset = end & _PAGE_MASK

    def finish(
        self,
        meta: bytes,
        payload_crc: int,
        *,
        kind: int | None = None,
        flags: int | None = None,
        stamp: int | None = None,
        key: bytes | None = None,
        study: bytes = b"",
    ) -> Position:
        """Writes the head and the footer; the record is on stable storage when this returns. Blocks on the disk.

        `kind`, `flags`, `stamp` and `key` replace those that it began with; key and meta together may be as long as
        announced. `study`: the record is unreadable once this study is shredded. Raises StorageError if it was
        shredded while the record came.
        """
        key = self._key if key is None else key
        meta_length = len(self._key) + self._meta_max - len(key)
        if len(meta) > meta_length:
            raise StorageError(f"a meta block of {len(meta)} bytes, the limit is {meta_length}")
        segment = self._open_segment()
        if self._encryptor is not None and (last := self._encryptor.finish()):
            self._write([last], len(last))
        meta_unused = meta_length - len(meta)
        kind = self._kind if kind is None else kind
        flags = self._flags if flags is None else flags
        stamp = self._stamp if stamp is None else stamp
        ends = self.payload_length, payload_crc, meta_unused
        if self._encryptor is None:
            area = meta + bytes(meta_unused)
            head = encode_head(segment.seed, FIRST_RECORD, kind, flags, stamp, 0, 0, key, area, *ends)
        else:
            place = segment.seed, segment.segment_id, FIRST_RECORD
            if self._study_keys is not None and study:
                self._study_keys.assign(self._encryptor.key, study)
                self._study_keys.sync()
            head = self._encryptor.head(*place, kind, flags, stamp, 0, 0, key, meta, *ends)
            meta_length = meta_length + ENCRYPTED_META_MORE | ENCRYPTED
        position = Position(segment.segment_id, FIRST_RECORD, len(key), meta_length, self.payload_length, payload_crc)
        try:
            end = self._payload_offset + self._written_bytes
            if position.end > end:
                self._files.pwritev(segment.fd, [bytes(position.end - end)], end)
            self._files.pwritev(segment.fd, [head], FIRST_RECORD)
            self._refuse_shredded(study)
            self._files.fdatasync(segment.fd)
            self._factory.sync_names()
        except StorageFailed as error:
            self._health.fail(error)
            raise
        self._is_over = True
        try:
            hints.seal(self._files, segment.fd, segment.header, position.end, [head], self.payload_length)
        except StorageFull:
            pass  # The record is safe without its footer; a later recovery writes it.
        except StorageFailed as error:
            self._health.fail(error)
            raise
        finally:
            self._end()
        return position

    def abort(self) -> None:
        """Removes the file; no error if it was finished or aborted before."""
        if self._is_over:
            return
        self._is_over = True
        segment = self._segment
        try:
            if segment is not None:
                self._files.unlink(segment.path)
        finally:
            self._end()

    def _refuse_shredded(self, study: bytes) -> None:
        keys, encryptor = self._study_keys, self._encryptor
        if study and keys is not None and encryptor is not None and not keys.is_current(study, encryptor.key):
            raise StorageError("the study was shredded while this instance of it came: send it again")

    def _open_segment(self) -> GrowingSegment:
        if self._is_over:
            raise StorageError("this stream has ended")
        self._health.check()
        if self._segment is None:
            self._segment = self._factory.create_stream_segment(self._payload_offset)
        return self._segment

    def _start_write_back(self, fd: int, end: int) -> None:
        try:
            self._files.write_back(fd, self._write_back_offset, end - self._write_back_offset)
        except StorageError as error:
            self._health.fail(error)
            raise

    def _end(self) -> None:
        if self._segment is not None:
            self._files.close(self._segment.fd)
        self._on_end(self)
