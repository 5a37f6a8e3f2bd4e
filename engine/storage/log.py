"""SegmentLog, the only writer of segments: append, sync, roll, seal; and streamed objects. Reading is `reader`'s.

What a process imports from storage comes through here. A log belongs to one writer and writes only segments that it
created itself, under an advisory lock that shows it to be alive; what it leaves behind `recovery` looks after.

    append   ──► active segment ──full──► rolled segment ──seal_rolled──► sealed, closed
                      ▲
    prepare  ──► spare segment (created, allocated, synced ahead, so that rolling is a change of two references)

Threads. `append` and `begin_stream` on one thread at a time; `sync`, `seal_rolled` and `prepare` on any. Three locks,
taken in this order: sealing, syncing, state. `append` takes none but `state`, and that only to roll; no file call is
made under it. A descriptor is closed by its last user, never under a running fdatasync.

Errors. StorageFull from `append`: nothing was added, later appends may succeed. StorageFailed is final for the log: the
segment is suspect, is neither sealed nor written again; recovery judges it after a restart. No sync is repeated.

Budget of `append` beside the system call: some 5 microseconds.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engine.errors import StorageError, StorageFailed, StorageFull
from engine.sizes import bytes_text
from engine.storage import hints
from engine.storage.files import Files, raise_write_error
from engine.storage.reader import LogReader as LogReader
from engine.storage.record import HEADER_BYTES, KEY_BYTES_MAX, META_BYTES_MAX, Position, encode_head, padded
from engine.storage.recovery import Recovery as Recovery
from engine.storage.recovery import is_owned as is_owned
from engine.storage.recovery import recover_segment as recover_segment
from engine.storage.segment import FIRST_RECORD, LAYOUT_LOG, LAYOUT_STREAM, SegmentHeader, segment_path
from engine.storage.segment import list_segments as list_segments

if TYPE_CHECKING:
    from typing_extensions import Buffer

SEGMENT_BYTES = 1 << 30
HINT_BYTES_MAX = 64 << 20
"""Record heads that a writer keeps in memory for one footer; a segment of many small records rolls here."""
STREAM_WRITE_BACK_BYTES = 8 << 20
"""How much of a streamed object gathers before its write-back is started."""
FREE_SHARE = 4
"""A new segment takes at most this part (a quarter) of what is free, so that on a small disk every writer gets one."""

PREWRITE_STEP_BYTES = 16 << 20
"""How much is written between two looks at the clock."""

_PAGE_BYTES = 4096
_PAGE_MASK = ~(_PAGE_BYTES - 1)
_ZEROS = bytes(_PAGE_BYTES + 8)


class _Segment:
    """One open segment file and how far it has come. Only its log touches it."""

    __slots__ = (
        "allocated",
        "closing",
        "fd",
        "header",
        "heads",
        "heads_bytes",
        "limit",
        "path",
        "payload_bytes",
        "prewritten",
        "seed",
        "segment_id",
        "sequence",
        "synced",
        "users",
        "written",
    )

    def __init__(self, header: SegmentHeader, fd: int, path: str) -> None:
        self.header = header
        self.segment_id = header.segment_id
        self.seed = header.seed
        self.fd = fd
        self.path = path
        self.limit = 0
        self.prewritten = 0
        """Below this offset the blocks have been written once: syncing over them costs no journal commit."""
        self.allocated = False
        self.written = FIRST_RECORD
        self.synced = 0
        self.sequence = 0
        self.heads: list[bytearray] = []
        self.heads_bytes = 0
        self.payload_bytes = 0
        self.users = 0
        self.closing = False

    def has_room(self, record_bytes: int, head_bytes: int) -> bool:
        """Whether a record and the footer after it fit."""
        end = self.written + record_bytes + self.heads_bytes + head_bytes
        return end <= self.limit and self.heads_bytes <= HINT_BYTES_MAX


class SegmentLog:
    """One writer's end of the log."""

    def __init__(
        self,
        directory: str,
        files: Files,
        archive_id: bytes,
        *,
        writer: str,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = 0,
        prewrite_bytes: int = 0,
        allocate: bool = True,
        clock_ns: Callable[[], int] = time.time_ns,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Creates nothing yet. `writer` is a label for people; `reserve_bytes` of the disk stay free.

        `prewrite_bytes` of each segment that is prepared ahead are written with zeros: twice the bytes on the disk for
        twice the speed of durable bursts of that length.
        """
        if len(archive_id) != 16:
            raise StorageError(f"an archive id has 16 bytes, this one {len(archive_id)}")
        self._directory = directory
        self._files = files
        self._archive_id = archive_id
        self._writer = writer
        self._segment_bytes = segment_bytes
        self._reserve_bytes = reserve_bytes
        self._prewrite_bytes = prewrite_bytes
        self._allocate = allocate
        self._clock_ns = clock_ns
        self._random_bytes = random_bytes
        self._sealing = threading.Lock()
        self._syncing = threading.Lock()
        self._state = threading.Lock()
        self._active: _Segment | None = None
        self._spare: _Segment | None = None
        self._rolled: list[_Segment] = []
        self._streams: set[StreamAppender] = set()
        self._highest_id = -1
        self._created_count = 0
        self._created_synced_count = 0
        self._failed: StorageFailed | None = None
        self._closed = False

    # -- appending ------------------------------------------------------------------------------

    def append(
        self,
        kind: int,
        flags: int,
        stamp: int,
        key: bytes,
        meta: bytes,
        payload: Sequence[Buffer],
        payload_length: int,
        payload_crc: int,
        *,
        write_back: bool = False,
    ) -> Position:
        """Writes one record to the page cache; `sync` makes it durable. Raises StorageFull or StorageFailed.

        `write_back`: a sync follows soon, so the disk may begin at once and the sync will find little left to do.

        StorageError when the arguments contradict each other: nothing is added.
        """
        if self._failed is not None or self._closed:
            self._refuse()
        key_length = len(key)
        meta_length = len(meta)
        if key_length > KEY_BYTES_MAX or meta_length > META_BYTES_MAX:
            raise StorageError(f"a key of {key_length} and a meta block of {meta_length} bytes make no record")
        head_bytes = HEADER_BYTES + key_length + meta_length
        record_bytes = padded(head_bytes + payload_length)
        segment = self._active
        if segment is None or not segment.has_room(record_bytes, head_bytes):
            segment = self._roll(record_bytes, head_bytes)
        if self._reserve_bytes and not segment.allocated:
            self._check_reserve(record_bytes)
        offset = segment.written
        head = encode_head(
            segment.seed,
            offset,
            kind,
            flags,
            stamp,
            segment.sequence,
            segment.synced,
            key,
            meta,
            payload_length,
            payload_crc,
        )
        padding = record_bytes - head_bytes - payload_length
        if offset + record_bytes <= segment.prewritten:
            # Whole pages over written blocks: else the kernel would have to read the rest of the last one first.
            padding += -(offset + record_bytes) % _PAGE_BYTES
        buffers: list[Buffer] = [head, *payload]
        if padding:
            buffers.append(_ZEROS[:padding])
        try:
            self._files.pwritev(segment.fd, buffers, offset, head_bytes + payload_length + padding)
        except StorageFailed as error:
            self._fail(error)
            raise
        except StorageError:
            self._roll_back(segment)
            raise
        segment.heads.append(head)
        segment.heads_bytes += head_bytes
        segment.payload_bytes += payload_length
        segment.sequence += 1
        segment.written = offset + record_bytes
        if write_back:
            self._start_write_back(segment.fd, offset & _PAGE_MASK, offset + record_bytes)
        return Position(segment.segment_id, offset, key_length, meta_length, payload_length, payload_crc)

    def keep_free(self, reserve_bytes: int) -> None:
        """From now on so many bytes of the disk stay free."""
        self._reserve_bytes = reserve_bytes

    def begin_stream(self, kind: int, flags: int, stamp: int, key: bytes, meta_max: int) -> StreamAppender:
        """Starts a record of unknown length in a segment of its own; its meta has at most `meta_max` bytes.

        Makes no file call but a look at the free space: the file is created by the first write.
        """
        if self._failed is not None or self._closed:
            self._refuse()
        if len(key) > KEY_BYTES_MAX or not 0 <= meta_max <= KEY_BYTES_MAX:
            raise StorageError(f"a key of {len(key)} and a meta block of {meta_max} bytes make no streamed record")
        self._check_reserve(0)
        appender = StreamAppender(self, self._files, kind, flags, stamp, key, meta_max)
        with self._state:
            self._streams.add(appender)
        return appender

    # -- making durable -------------------------------------------------------------------------

    def sync(self) -> None:
        """Returns when everything appended before the call is on stable storage. Thread-safe. Raises StorageFailed."""
        with self._syncing:
            if self._failed is not None:
                self._refuse()
            with self._state:
                segments = [*self._rolled] if self._active is None else [*self._rolled, self._active]
                pending = [(segment, segment.written) for segment in segments if segment.written > segment.synced]
                for segment, _ in pending:
                    segment.users += 1
            try:
                for segment, written in pending:
                    self._files.fdatasync(segment.fd)
                    segment.synced = written
                self._sync_names()
            except StorageFailed as error:
                self._fail(error)
                raise
            finally:
                for segment, _ in pending:
                    self._release(segment)

    def unsynced(self) -> bool:
        """Whether anything appended may not be on stable storage yet."""
        with self._state:
            segments = [*self._rolled] if self._active is None else [*self._rolled, self._active]
            new_names = bool(segments) and self._created_count > self._created_synced_count
            return new_names or any(segment.written > segment.synced for segment in segments)

    def seal_rolled(self) -> list[tuple[int, int]]:
        """Syncs, ends and closes the segments that are full, then prepares the next. Thread-safe; blocks on the disk.

        Returns each one's id and where its records end. On a full disk a segment stays unsealed until the next call.
        """
        sealed = self._seal_rolled()
        if sealed:
            try:
                self.prepare()
            except StorageFull:
                pass
        return sealed

    def prepare(self, patience_s: float = 60.0) -> None:
        """Creates, allocates and prewrites the next segment ahead, if there is none yet. Thread-safe; blocks.

        Prewriting stops after `patience_s`. Raises StorageFull or StorageFailed.
        """
        with self._sealing:
            if self._spare is not None or self._failed is not None or self._closed:
                return
            segment = self._create(FIRST_RECORD, LAYOUT_LOG)
            try:
                self._prewrite(segment, patience_s)
                self._files.fdatasync(segment.fd)
                self._sync_names()
            except StorageError as error:
                self._files.close(segment.fd)
                if isinstance(error, StorageFailed):
                    self._fail(error)
                raise
            segment.synced = segment.written
            with self._state:
                self._spare = segment

    def _prewrite(self, segment: _Segment, patience_s: float) -> None:
        """Writes zeros where records will lie, so that a burst of them finds blocks that need no allocation."""
        end = min(self._prewrite_bytes, segment.limit) & _PAGE_MASK if segment.allocated else 0
        give_up_ns = self._clock_ns() + int(patience_s * 1e9)
        at = FIRST_RECORD
        while at < end and self._clock_ns() < give_up_ns:
            step = min(PREWRITE_STEP_BYTES, end - at)
            self._files.write_zeros(segment.path, at, step)
            at += step
            segment.prewritten = at

    def close(self) -> list[tuple[int, int]]:
        """Syncs and seals everything; returns as `seal_rolled` does. After a failure it only lets the files go.

        No other call may be running on the appending thread. Unfinished streams are given up.
        """
        if self._closed:
            return []
        with self._state:
            streams = list(self._streams)
        for stream in streams:
            stream.abort()
        sealed: list[tuple[int, int]] = []
        try:
            if self._failed is None:
                self.sync()
                with self._state:
                    if self._active is not None:
                        self._rolled.append(self._active)
                        self._active = None
                sealed = self._seal_rolled()
        finally:
            self._closed = True
            with self._sealing, self._state:
                left = [*self._rolled, *filter(None, (self._active,))]
                spare, self._spare = self._spare, None
                self._rolled = []
                self._active = None
            for segment in left:
                self._let_go(segment)
            if spare is not None:
                self._discard(spare)
        return sealed

    def abandon(self) -> None:
        """Removes what this log has written and not sealed, and closes it: nobody was told of any of it.

        The files go while they are still locked, so that no recovery takes them for a dead writer's. What cannot be
        removed is left to one. No other call may be running.
        """
        self._closed = True
        with self._sealing, self._state:
            left = [*self._rolled, *filter(None, (self._active, self._spare))]
            self._rolled = []
            self._active = self._spare = None
        failure: StorageError | None = None
        for segment in left:
            try:
                self._files.unlink(segment.path)
            except StorageError as error:
                failure = failure or error
            finally:
                self._let_go(segment)
        if failure is not None:
            raise failure

    # -- looking --------------------------------------------------------------------------------

    @property
    def active_segments(self) -> list[tuple[int, int]]:
        """Id and end of the records of each segment that is not sealed yet: for replaying other writers' segments."""
        with self._state:
            segments = [*self._rolled] if self._active is None else [*self._rolled, self._active]
            return [(segment.segment_id, segment.written) for segment in segments]

    @property
    def rolled(self) -> bool:
        """Whether `seal_rolled` has something to do."""
        return bool(self._rolled)

    @property
    def failed(self) -> StorageFailed | None:
        """The I/O error that ended this log."""
        return self._failed

    def fail(self, error: StorageFailed) -> None:
        """Ends this log because of a failure that its owner has met elsewhere: no append and no sync any more."""
        self._fail(error)

    # -- inside: failing ------------------------------------------------------------------------

    def _refuse(self) -> None:
        if self._failed is not None:
            raise StorageFailed(f"this log has failed before: {self._failed}") from self._failed
        raise StorageError("this log is closed")

    def _fail(self, error: StorageError) -> None:
        with self._state:
            if self._failed is None:
                self._failed = error if isinstance(error, StorageFailed) else StorageFailed(str(error))

    def _roll_back(self, segment: _Segment) -> None:
        """Removes what a refused append left behind the tail, so that it is never taken for a record or a torn one."""
        try:
            self._files.truncate(segment.fd, segment.written)
        except StorageError as error:
            self._fail(error)
            raise StorageFailed(f"the remains of a refused append cannot be removed: {error}") from error
        segment.allocated = False

    def _start_write_back(self, fd: int, offset: int, end: int) -> None:
        try:
            self._files.write_back(fd, offset, end - offset)
        except StorageError as error:
            self._fail(error)
            raise

    def _check_reserve(self, wanted_bytes: int) -> None:
        free = self._free_bytes() - wanted_bytes
        if free < 0:
            left = free + self._reserve_bytes
            raise StorageFull(f"only {left} bytes would be free and {self._reserve_bytes} shall stay free")

    def _free_bytes(self) -> int:
        """What is free beside the reserve."""
        try:
            return self._files.free_bytes(self._directory) - self._reserve_bytes
        except OSError as error:
            raise_write_error(error, f"statvfs {self._directory}")

    # -- inside: segments -----------------------------------------------------------------------

    def _roll(self, record_bytes: int, head_bytes: int) -> _Segment:
        """Makes another segment the active one: the spare if the record fits, else a new one."""
        with self._state:
            fresh, self._spare = self._spare, None
        if fresh is not None and not fresh.has_room(record_bytes, head_bytes):
            self._discard(fresh)
            fresh = None
        if fresh is None:
            fresh = self._create(FIRST_RECORD + record_bytes + head_bytes, LAYOUT_LOG)
        with self._state:
            if self._active is not None:
                self._rolled.append(self._active)
            self._active = fresh
        return fresh

    def _discard(self, segment: _Segment) -> None:
        """Removes a segment that holds nothing."""
        try:
            self._files.unlink(segment.path)
        except StorageFailed as error:
            self._fail(error)
            raise
        finally:
            self._files.close(segment.fd)

    def _create(self, least_bytes: int, layout: int) -> _Segment:
        """A new segment with its header written and, for many records, its space allocated."""
        try:
            segment = self._create_sized(least_bytes, layout)
        except StorageFailed as error:
            self._fail(error)
            raise
        with self._state:
            self._created_count += 1
        return segment

    def _create_sized(self, least_bytes: int, layout: int) -> _Segment:
        least_bytes += hints.FOOTER_BYTES_MIN
        free = self._free_bytes()
        if free < least_bytes:
            raise StorageFull(
                f"the disk is full: {bytes_text(max(free, 0))} are free beside the reserve of"
                f" {bytes_text(self._reserve_bytes)} (limits.disk_reserve_bytes), {bytes_text(least_bytes)} are needed;"
                " delete studies, compact, or give it a larger disk"
            )
        segment = self._create_file(layout)
        try:
            self._files.pwritev(segment.fd, [segment.header.encode()], 0, FIRST_RECORD)
            if layout == LAYOUT_LOG:
                self._size(segment, least_bytes, max(least_bytes, min(self._segment_bytes, free // FREE_SHARE)))
        except StorageFull:
            self._files.unlink(segment.path)
            self._files.close(segment.fd)
            raise
        except StorageFailed:
            self._files.close(segment.fd)
            raise
        return segment

    def _size(self, segment: _Segment, least_bytes: int, wanted_bytes: int) -> None:
        """Sets the limit of a segment and allocates that much; less when the disk has not got it."""
        while self._allocate:
            try:
                self._files.allocate(segment.fd, 0, wanted_bytes)
            except StorageFull:
                if wanted_bytes == least_bytes:
                    raise
                wanted_bytes = max(least_bytes, wanted_bytes // 2)
                continue
            segment.allocated = True
            break
        segment.limit = wanted_bytes - hints.FOOTER_BYTES_MIN

    def _create_file(self, layout: int) -> _Segment:
        """A file under the next free id, locked by us. Several processes do this at once."""
        present = list_segments(self._directory, self._files)
        segment_id = max(self._highest_id, present[-1] if present else -1) + 1
        while True:
            path = segment_path(self._directory, segment_id)
            try:
                fd = self._files.create(path)
            except FileExistsError:
                segment_id += 1
                continue
            # Between create and lock a recovery may have seen an empty file that nobody owns, and removed it.
            if self._files.lock(fd) and self._files.is_linked(fd):
                break
            self._files.close(fd)
            segment_id += 1
        with self._state:
            self._highest_id = max(self._highest_id, segment_id)
        salt = int.from_bytes(self._random_bytes(8), "little")
        header = SegmentHeader(segment_id, self._archive_id, salt, self._clock_ns(), self._writer, layout)
        return _Segment(header, fd, path)

    def _sync_names(self) -> None:
        """Makes the directory entries of all segments created before the call durable."""
        with self._state:
            created_count = self._created_count
        if created_count > self._created_synced_count:
            self._files.sync_directory(self._directory)
            self._created_synced_count = created_count

    def _seal_rolled(self) -> list[tuple[int, int]]:
        sealed: list[tuple[int, int]] = []
        with self._sealing:
            while self._failed is None:
                with self._state:
                    segment = self._rolled[0] if self._rolled else None
                if segment is None:
                    break
                try:
                    self._seal(segment)
                except StorageFull:
                    break
                except StorageError as error:
                    self._fail(error)
                    raise
                with self._state:
                    self._rolled.remove(segment)
                self._let_go(segment)
                if segment.heads:
                    sealed.append((segment.segment_id, segment.written))
        return sealed

    def _seal(self, segment: _Segment) -> None:
        """Ends one segment that nobody appends to any more; one without records is removed."""
        if not segment.heads:
            self._files.unlink(segment.path)
            return
        written = segment.written
        if segment.synced < written:
            self._files.fdatasync(segment.fd)
            segment.synced = written
        self._sync_names()
        hints.seal(self._files, segment.fd, segment.header, written, segment.heads, segment.payload_bytes)

    def _release(self, segment: _Segment) -> None:
        with self._state:
            segment.users -= 1
            last = segment.closing and segment.users == 0
        if last:
            self._files.close(segment.fd)

    def _let_go(self, segment: _Segment) -> None:
        """Closes a segment's descriptor, or leaves that to the sync that is using it."""
        with self._state:
            segment.closing = True
            unused = segment.users == 0
        if unused:
            self._files.close(segment.fd)


class StreamAppender:
    """One record larger than memory, in a segment of its own; used by one thread at a time.

    The payload is written where it will stay, its write-back started as it comes; the head is written last. A crash
    before that leaves a file whose first head is zeros, and recovery removes it.
    """

    def __init__(
        self, log: SegmentLog, files: Files, kind: int, flags: int, stamp: int, key: bytes, meta_max: int
    ) -> None:
        self._log = log
        self._files = files
        self._kind = kind
        self._flags = flags
        self._stamp = stamp
        self._key = key
        self._meta_max = meta_max
        self._segment: _Segment | None = None
        self._payload_offset = FIRST_RECORD + HEADER_BYTES + len(key) + meta_max
        self._write_back_offset = 0
        self._done = False
        self.payload_length = 0
        """Bytes written so far."""

    def write(self, buffers: Sequence[Buffer], length: int) -> None:
        """Appends to the payload. Raises StorageFull or StorageFailed: abort then. Blocks on a slow disk."""
        segment = self._open_segment()
        offset = self._payload_offset + self.payload_length
        try:
            self._files.pwritev(segment.fd, buffers, offset, length)
        except StorageFailed as error:
            self._log._fail(error)
            raise
        self.payload_length += length
        end = offset + length
        if end - self._write_back_offset >= STREAM_WRITE_BACK_BYTES:
            self._log._check_reserve(0)
            self._log._start_write_back(segment.fd, self._write_back_offset, end)
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
    ) -> Position:
        """Writes the head and the footer; the record is on stable storage when this returns. Blocks on the disk.

        `kind`, `flags`, `stamp` and `key` are in place of those that it began with; key and meta together may be as
        long as was announced.
        """
        key = self._key if key is None else key
        meta_length = len(self._key) + self._meta_max - len(key)
        if len(meta) > meta_length:
            raise StorageError(f"{len(meta)} bytes of meta, there is room for {meta_length}")
        segment = self._open_segment()
        meta_unused = meta_length - len(meta)
        head = encode_head(
            segment.seed,
            FIRST_RECORD,
            self._kind if kind is None else kind,
            self._flags if flags is None else flags,
            self._stamp if stamp is None else stamp,
            0,
            0,
            key,
            meta + bytes(meta_unused),
            self.payload_length,
            payload_crc,
            meta_unused,
        )
        position = Position(segment.segment_id, FIRST_RECORD, len(key), meta_length, self.payload_length, payload_crc)
        try:
            end = self._payload_offset + self.payload_length
            if position.end > end:
                self._files.pwritev(segment.fd, [_ZEROS[: position.end - end]], end)
            self._files.pwritev(segment.fd, [head], FIRST_RECORD)
            self._files.fdatasync(segment.fd)
            self._log._sync_names()
        except StorageFailed as error:
            self._log._fail(error)
            raise
        self._done = True
        try:
            hints.seal(self._files, segment.fd, segment.header, position.end, [head], self.payload_length)
        except StorageFull:
            pass  # The record is safe without its footer; a later recovery writes it.
        except StorageFailed as error:
            self._log._fail(error)
            raise
        finally:
            self._end()
        return position

    def abort(self) -> None:
        """Gives up and removes the file; no error if it was finished or aborted before."""
        if self._done:
            return
        self._done = True
        segment = self._segment
        try:
            if segment is not None:
                self._files.unlink(segment.path)
        finally:
            self._end()

    def _open_segment(self) -> _Segment:
        log = self._log
        if self._done:
            raise StorageError("this stream has ended")
        if log._failed is not None or log._closed:
            log._refuse()
        if self._segment is None:
            self._segment = log._create(self._payload_offset, LAYOUT_STREAM)
        return self._segment

    def _end(self) -> None:
        if self._segment is not None:
            self._files.close(self._segment.fd)
        with self._log._state:
            self._log._streams.discard(self)
