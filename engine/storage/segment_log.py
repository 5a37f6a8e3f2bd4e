"""SegmentLog: the only writer of segments. It appends, syncs, rolls and seals; `reader` reads.

A log belongs to one writer and writes only segments that it has created itself (`segment_factory`), under an advisory
lock that shows that it is alive. `recovery` repairs the segments of a dead writer. `stream_appender` writes streamed
records.

    append   ──► active segment ──full──► rolled segment ──seal_rolled──► sealed, closed
                      ▲
    prepare  ──► spare segment (created, allocated, synced ahead, so that rolling is a change of two references)
                      ▲
    prewrite ─────────┘ zeros ahead of its records, a step at a time while the log is idle

Threads. Call `append` and `begin_stream` on one thread at a time; `sync`, `seal_rolled`, `prepare` and `prewrite` on
any. There are three locks; take them in this order: sealing, syncing, state. `append` takes only `state`, and only to
roll; make no file call under it. The last user closes a descriptor, never under a running fdatasync.

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
from engine.storage import hints
from engine.storage.encryption import Encryptor, StudyKeyring, WriterKey
from engine.storage.files import Files
from engine.storage.growing_segment import GrowingSegment
from engine.storage.keyring import DataKey
from engine.storage.log_health import LogHealth
from engine.storage.record import (
    ENCRYPTED,
    ENCRYPTED_META_MORE,
    HEADER_BYTES,
    KEY_BYTES_MAX,
    META_BYTES_MAX,
    Position,
    encode_head,
    padded,
    stored_length,
)
from engine.storage.segment import FIRST_RECORD
from engine.storage.segment_factory import SegmentFactory
from engine.storage.segment_ids import ListedIds, SegmentIds
from engine.storage.segment_store import LocalSegments
from engine.storage.stream_appender import StreamAppender

if TYPE_CHECKING:
    from typing_extensions import Buffer

SEGMENT_BYTES = 1 << 30

_PAGE_BYTES = 4096
_PAGE_MASK = ~(_PAGE_BYTES - 1)
_ZEROS = bytes(_PAGE_BYTES + 8)
_CIPHERTEXT_BYTES_KEPT = 16 << 20
"""A buffer for encrypted payloads up to this length is kept: new memory costs as much as the encryption."""


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
        data_key: Callable[[], DataKey] | None = None,
        ids: SegmentIds | None = None,
        study_keys: StudyKeyring | None = None,
    ) -> None:
        """Creates nothing yet. `writer` is a label for people; `reserve_bytes` of the disk stay free.

        `ids` gives the numbers of new segments; None: the numbers after those in `directory`.

        `data_key` is asked with each new segment for the key that encrypts its records; None: they are not encrypted.
        `study_keys`: of records that name their study.

        `prewrite_bytes` of each spare segment are written with zeros: twice the bytes on the disk for twice the speed
        of durable bursts of that length.
        """
        self.files = files
        self._health = LogHealth()
        self._factory = SegmentFactory(
            directory,
            files,
            archive_id,
            self._health,
            writer=writer,
            segment_bytes=segment_bytes,
            reserve_bytes=reserve_bytes,
            prewrite_bytes=prewrite_bytes,
            allocates=allocate,
            ids=ids or ListedIds(LocalSegments(directory, files)),
            clock_ns=clock_ns,
            random_bytes=random_bytes,
        )
        self._key = None if data_key is None else WriterKey(data_key, random_bytes)
        self._study_keys = study_keys
        self._ciphertext = bytearray()
        self._sealing = threading.Lock()
        self._syncing = threading.Lock()
        self._state = threading.Lock()
        self._active: GrowingSegment | None = None
        self._spare: GrowingSegment | None = None
        self._rolled: list[GrowingSegment] = []
        self._streams: set[StreamAppender] = set()

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
        study: bytes = b"",
        data_key: DataKey | None = None,
    ) -> Position:
        """Writes one record to the page cache; `sync` makes it durable. Raises StorageFull or StorageFailed.

        `write_back`: a sync follows soon, so the disk may begin at once and leave little for the sync. `study`: it is
        encrypted by the key of this study, if studies have keys; `data_key`: by this key. Raises StorageError if the
        arguments contradict each other; nothing is added.
        """
        if self._health.is_over:
            self._health.refuse()
        key_length = len(key)
        meta_length = len(meta)
        if key_length > KEY_BYTES_MAX or meta_length > META_BYTES_MAX:
            raise StorageError(f"a key of {key_length} and a meta block of {meta_length} bytes are no valid record")
        if self._key is not None:
            arguments = kind, flags, stamp, key, meta, payload, payload_length, payload_crc, write_back
            keys = self._study_keys
            if data_key is not None or not study or keys is None or not keys.is_in_use:
                return self._append_encrypted(self._key.encryptor(data_key), *arguments)
            while True:
                data_key = keys.of(study)
                position = self._append_encrypted(self._key.encryptor(data_key), *arguments)
                if keys.is_current(study, data_key):
                    return position
        head_bytes = HEADER_BYTES + key_length + meta_length
        record_bytes = padded(head_bytes + payload_length)
        segment = self._segment_for(record_bytes, head_bytes)
        head = encode_head(
            segment.seed,
            segment.written,
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
        offset = self._write(segment, head, payload, payload_length, record_bytes, write_back)
        return Position(segment.segment_id, offset, key_length, meta_length, payload_length, payload_crc)

    def _append_encrypted(
        self,
        encryptor: Encryptor,
        kind: int,
        flags: int,
        stamp: int,
        key: bytes,
        meta: bytes,
        payload: Sequence[Buffer],
        payload_length: int,
        payload_crc: int,
        write_back: bool,
    ) -> Position:
        length = stored_length(payload_length)
        area_length = len(meta) + ENCRYPTED_META_MORE
        head_bytes = HEADER_BYTES + len(key) + area_length
        record_bytes = padded(head_bytes + length)
        segment = self._segment_for(record_bytes, head_bytes)
        stored = encryptor.all_at_once(payload, payload_length, self._room_for(length))
        if len(stored) != length:
            raise StorageError(f"a payload of another length than the {payload_length} bytes it shall have")
        head = encryptor.head(
            segment.seed,
            segment.segment_id,
            segment.written,
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
        offset = self._write(segment, head, [stored] if length else [], length, record_bytes, write_back)
        lengths = len(key), area_length | ENCRYPTED, payload_length
        return Position(segment.segment_id, offset, *lengths, payload_crc)

    def _room_for(self, length: int) -> memoryview:
        """Memory for the ciphertext of one record, until the next one is appended."""
        if length > len(self._ciphertext):
            fresh = bytearray(length)
            if length > _CIPHERTEXT_BYTES_KEPT:
                return memoryview(fresh)
            self._ciphertext = fresh
        return memoryview(self._ciphertext)

    def _segment_for(self, record_bytes: int, head_bytes: int) -> GrowingSegment:
        """The active segment, another one if the record does not fit. Raises StorageFull or StorageFailed."""
        segment = self._active
        if segment is None or not segment.has_room(record_bytes, head_bytes):
            segment = self._roll(record_bytes, head_bytes)
        if not segment.is_allocated and self._factory.reserve_bytes:
            self._factory.check_reserve(record_bytes)
        return segment

    def _write(
        self,
        segment: GrowingSegment,
        head: bytearray,
        payload: Sequence[Buffer],
        payload_length: int,
        record_bytes: int,
        write_back: bool,
    ) -> int:
        """Writes a record at the tail of a segment; returns its offset. Raises StorageFull or StorageFailed."""
        offset = segment.written
        head_bytes = len(head)
        padding = record_bytes - head_bytes - payload_length
        if offset + record_bytes <= segment.prewritten:
            # Write whole pages over written blocks: else the kernel must read the rest of the last one first.
            padding += -(offset + record_bytes) % _PAGE_BYTES
        buffers: list[Buffer] = [head, *payload]
        if padding:
            buffers.append(_ZEROS[:padding])
        try:
            self.files.pwritev(segment.fd, buffers, offset, head_bytes + payload_length + padding)
        except StorageFailed as error:
            self._health.fail(error)
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
        return offset

    def keep_free(self, reserve_bytes: int) -> None:
        """Sets how many bytes of the disk stay free."""
        self._factory.reserve_bytes = reserve_bytes

    def begin_stream(
        self, kind: int, flags: int, stamp: int, key: bytes, meta_max: int, *, data_key: DataKey | None = None
    ) -> StreamAppender:
        """Starts a record of unknown length in a segment of its own; its meta has at most `meta_max` bytes.

        `data_key` as for `append`; without one its study may get a key at the end (`StreamAppender.finish`). The only
        file call is a look at the free space: the first write creates the file.
        """
        self._health.check()
        if len(key) > KEY_BYTES_MAX or not 0 <= meta_max <= KEY_BYTES_MAX:
            raise StorageError(f"a key of {len(key)} and a meta block of {meta_max} bytes are no valid streamed record")
        self._factory.check_reserve()
        encryptor = None
        study_keys = None
        if self._key is not None:
            self._key.renew()
            if data_key is None and self._study_keys is not None and self._study_keys.is_in_use:
                study_keys = self._study_keys
                data_key = study_keys.fresh()
            encryptor = self._key.encryptor(data_key)
        appender = StreamAppender(
            self.files,
            self._factory,
            self._health,
            kind,
            flags,
            stamp,
            key,
            meta_max,
            on_end=self._end_stream,
            encryptor=encryptor,
            study_keys=study_keys,
        )
        with self._state:
            self._streams.add(appender)
        return appender

    # -- making durable -------------------------------------------------------------------------

    def sync(self) -> None:
        """Returns when everything appended before the call is on stable storage. Thread-safe. Raises StorageFailed."""
        with self._syncing:
            if self._health.failure is not None:
                self._health.refuse()
            self._sync_study_keys()
            with self._state:
                segments = [*self._rolled] if self._active is None else [*self._rolled, self._active]
                pending = [(segment, segment.written) for segment in segments if segment.written > segment.synced]
                for segment, _ in pending:
                    segment.users += 1
            try:
                for segment, end in pending:
                    self.files.fdatasync(segment.fd)
                    segment.synced = end
                self._factory.sync_names()
            except StorageFailed as error:
                self._health.fail(error)
                raise
            finally:
                for segment, _ in pending:
                    self._release(segment)

    def _sync_study_keys(self) -> None:
        """Makes durable of which studies the keys are that records may have been encrypted by."""
        if self._study_keys is not None and self._study_keys.has_unsynced:
            try:
                self._study_keys.sync()
            except StorageFailed as error:
                self._health.fail(error)
                raise

    def claim_sync(self) -> tuple[GrowingSegment, int] | None:
        """The one segment whose sync makes everything durable, and up to where: for `background_sync`, which then calls
        `release_sync`. Until then no other sync runs. None: call `sync`. Does not wait. Raises StorageFailed."""
        if not self._syncing.acquire(blocking=False):
            return None
        segment: GrowingSegment | None = None
        try:
            if self._health.failure is not None:
                self._health.refuse()
            with self._state:
                active = self._active
                has_others = self._study_keys is not None and self._study_keys.has_unsynced
                if active is not None and not (self._rolled or self._factory.has_unsynced_names or has_others):
                    segment = active
                    segment.users += 1
        finally:
            if segment is None:
                self._syncing.release()
        return None if segment is None else (segment, segment.written)

    def release_sync(self, segment: GrowingSegment, end: int, failure: StorageFailed | None) -> None:
        """Notes that a segment is durable up to `end`, or why that is not known."""
        if failure is None:
            segment.synced = end
        else:
            self._health.fail(failure)
        self._release(segment)
        self._syncing.release()

    def unsynced(self) -> bool:
        """Whether anything appended may not be on stable storage yet."""
        with self._state:
            segments = [*self._rolled] if self._active is None else [*self._rolled, self._active]
            new_names = bool(segments) and self._factory.has_unsynced_names
            return new_names or any(segment.written > segment.synced for segment in segments)

    def seal_rolled(self) -> list[tuple[int, int]]:
        """Syncs, seals and closes the full segments, then prepares the next. Thread-safe; blocks on the disk.

        Returns each one's id and the end of its records. On a full disk a segment stays unsealed until the next call.
        """
        sealed = self._seal_rolled()
        if sealed:
            try:
                self.prepare()
            except StorageFull:
                pass
        return sealed

    def prepare(self, patience_s: float = 60.0) -> None:
        """Creates, allocates and prewrites the spare segment, if there is none. Thread-safe; blocks.

        Prewriting stops after `patience_s`. Raises StorageFull or StorageFailed.
        """
        with self._sealing:
            if self._spare is not None or self._health.is_over:
                return
            segment = self._factory.create_log_segment()
            try:
                self._factory.prewrite(segment, patience_s)
                self.files.fdatasync(segment.fd)
                self._factory.sync_names()
            except StorageError as error:
                self.files.close(segment.fd)
                if isinstance(error, StorageFailed):
                    self._health.fail(error)
                raise
            segment.synced = segment.written
            with self._state:
                self._spare = segment

    @property
    def has_study_keys(self) -> bool:
        """Whether records that name their study may be encrypted by a key of it."""
        return self._study_keys is not None

    @property
    def is_prewritten(self) -> bool:
        """Whether `prewrite` has nothing to do."""
        spare = self._spare
        return spare is None or self._health.is_over or self._factory.is_prewritten(spare)

    def prewrite(self) -> None:
        """Prewrites one more step of the spare segment. Thread-safe; blocks. Raises StorageFull or StorageFailed.

        If the spare becomes active meanwhile, it takes records up to the new zeros; others go to another segment, so
        nobody waits.
        """
        with self._sealing:
            with self._state:
                segment = self._spare
                if segment is None or self._health.is_over or self._factory.is_prewritten(segment):
                    return
                segment.is_prewriting = True
            try:
                self._factory.prewrite_step(segment)
            except StorageFailed as error:
                self._health.fail(error)
                raise
            finally:
                segment.is_prewriting = False

    @property
    def tail(self) -> tuple[int, int]:
        """Segment and offset of the next record: they change with every append. (-1, 0) before the first."""
        segment = self._active
        return (-1, 0) if segment is None else (segment.segment_id, segment.written)

    def close(self) -> list[tuple[int, int]]:
        """Syncs and seals everything; returns as `seal_rolled` does. After a failure it only closes the files.

        No other call may be running on the appending thread. Aborts unfinished streams.
        """
        if self._health.is_closed:
            return []
        with self._state:
            streams = list(self._streams)
        for stream in streams:
            stream.abort()
        sealed: list[tuple[int, int]] = []
        try:
            if self._health.failure is None:
                self.sync()
                with self._state:
                    if self._active is not None:
                        self._rolled.append(self._active)
                        self._active = None
                sealed = self._seal_rolled()
        finally:
            self._health.close()
            with self._sealing, self._state:
                segments = [*self._rolled, *filter(None, (self._active,))]
                spare, self._spare = self._spare, None
                self._rolled = []
                self._active = None
            for segment in segments:
                self._let_go(segment)
            if spare is not None:
                self._factory.discard(spare)
        return sealed

    def abandon(self) -> None:
        """Closes the log and removes its unsealed segments. Use it only if none of their records was acknowledged.

        Removes the files while they are still locked, so that no recovery takes them for a dead writer's. A recovery
        handles those that cannot be removed. No other call may be running.
        """
        self._health.close()
        with self._sealing, self._state:
            segments = [*self._rolled, *filter(None, (self._active, self._spare))]
            self._rolled = []
            self._active = self._spare = None
        failure: StorageError | None = None
        for segment in segments:
            try:
                self.files.unlink(segment.path)
            except StorageError as error:
                failure = failure or error
            finally:
                self._let_go(segment)
        if failure is not None:
            raise failure

    # -- state ----------------------------------------------------------------------------------

    @property
    def active_segments(self) -> list[tuple[int, int]]:
        """Id and end of the records of each unsealed segment, for a replay of other writers' segments."""
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
        return self._health.failure

    def fail(self, error: StorageFailed) -> None:
        """Ends this log after a failure elsewhere: it appends and syncs no more."""
        self._health.fail(error)

    # -- inside: failing ------------------------------------------------------------------------

    def _roll_back(self, segment: GrowingSegment) -> None:
        """Removes the bytes that a refused append left after the tail, so that they never pass for a record."""
        try:
            self.files.truncate(segment.fd, segment.written)
        except StorageError as error:
            self._health.fail(error)
            raise StorageFailed(f"the remains of a refused append cannot be removed: {error}") from error
        segment.is_allocated = False

    def _start_write_back(self, fd: int, offset: int, end: int) -> None:
        try:
            self.files.write_back(fd, offset, end - offset)
        except StorageError as error:
            self._health.fail(error)
            raise

    # -- inside: segments -----------------------------------------------------------------------

    def _roll(self, record_bytes: int, head_bytes: int) -> GrowingSegment:
        """Makes another segment the active one: the spare if the record fits, else a new one."""
        if self._key is not None:
            self._key.renew()
        with self._state:
            fresh = self._spare
            if fresh is not None and fresh.is_prewriting and not fresh.has_room(record_bytes, head_bytes):
                fresh = None  # it stays the spare
            else:
                self._spare = None
        if fresh is not None and not fresh.has_room(record_bytes, head_bytes):
            self._factory.discard(fresh)
            fresh = None
        if fresh is None:
            fresh = self._factory.create_log_segment(FIRST_RECORD + record_bytes + head_bytes)
        with self._state:
            if self._active is not None:
                self._rolled.append(self._active)
            self._active = fresh
        return fresh

    def _seal_rolled(self) -> list[tuple[int, int]]:
        sealed: list[tuple[int, int]] = []
        with self._sealing:
            while self._health.failure is None:
                with self._state:
                    segment = self._rolled[0] if self._rolled else None
                if segment is None:
                    break
                try:
                    self._seal(segment)
                except StorageFull:
                    break
                except StorageError as error:
                    self._health.fail(error)
                    raise
                with self._state:
                    self._rolled.remove(segment)
                self._let_go(segment)
                if segment.heads:
                    sealed.append((segment.segment_id, segment.written))
        return sealed

    def _seal(self, segment: GrowingSegment) -> None:
        """Seals a segment that is no longer appended to; removes it if it has no records."""
        if not segment.heads:
            self.files.unlink(segment.path)
            return
        end = segment.written
        if segment.synced < end:
            self.files.fdatasync(segment.fd)
            segment.synced = end
        self._factory.sync_names()
        hints.seal(self.files, segment.fd, segment.header, end, segment.heads, segment.payload_bytes)

    def _release(self, segment: GrowingSegment) -> None:
        with self._state:
            segment.users -= 1
            last = segment.closing and segment.users == 0
        if last:
            self.files.close(segment.fd)

    def _let_go(self, segment: GrowingSegment) -> None:
        """Closes a segment's descriptor, or leaves that to a sync that is using it."""
        with self._state:
            segment.closing = True
            unused = segment.users == 0
        if unused:
            self.files.close(segment.fd)

    def _end_stream(self, appender: StreamAppender) -> None:
        with self._state:
            self._streams.discard(appender)
