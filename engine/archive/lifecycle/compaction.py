"""Compaction: copies the live records of a segment into a new one and removes the old file.

    sealed segments      those without live records; those with a share of dead bytes; many small ones, to be joined
    streamed segments    hold one record: removed when it is dead, copied only to encrypt it
    encryption           where asked, also segments with records that are not encrypted, or not by the newest data key

One step, and what a crash after each line leaves behind:

    copy live records, comparing checksums      a new segment that no row points to: its records are duplicates, dead
    sync and seal it                            the same
    relocate, some records a transaction        records that are still alive in the old segment: the next pass
    wait for a checkpoint that has this         an old segment without live records: the next pass removes it
    note the removal in DATA/sealed             the same
    remove the old file, sync the directory     a mark without a file or live records: the next pass forgets it
    forget it                                   nothing

A power cut restores an index that is older than the last transaction. The wait for a checkpoint makes sure that no such
index points into a removed file. A record's liveness is checked twice: before it is copied and, under `locks.ledger`,
before its old file is removed. Never drop a record that does not verify: its segment stays, and the damage is noted.
The newest sealed segment always stays, so that its number is never given to another file.

Runs under `locks.caretaker`, a step at a time, in any process that has the archive open. Ingest and readers do not wait
for it: the only lock that they share is the index's, for RELOCATE_MAX records at a time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from engine import log
from engine.archive import locks
from engine.archive.feed import state as feed_state
from engine.archive.feed.intake import COMPACTION
from engine.archive.ingest.writer import study_of
from engine.archive.lifecycle import reserve_file
from engine.errors import (
    ArchiveInUse,
    CorruptRecord,
    KeyDestroyed,
    StorageError,
    StorageFull,
    StoreUnreachable,
    for_log,
)
from engine.index.format.entry import Entry
from engine.index.format.types import SegmentMark
from engine.index.upkeep import rebuild
from engine.rate_limiter import RateLimiter
from engine.storage import hints, segment
from engine.storage.encryption import key_id_of
from engine.storage.keyring import KEYRING, DataKey
from engine.storage.record import ENCRYPTED, ENCRYPTED_META_MORE, SHREDDED, Kind, Position, Record, crc32c
from engine.storage.segment import list_segments, read_segment_header
from engine.storage.segment_bytes import SegmentBytes
from engine.storage.segment_ids import newest_of_slots
from engine.storage.segment_log import SegmentLog

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.feed.progress import Progress as FeedProgress
    from engine.config import Compaction

logger = log.get("archive.compaction")

RELOCATE_MAX = 256
"""Records in one index transaction: some milliseconds in which no other process can write."""

SMALL_SHARE = 16
"""A segment is small if its live bytes are less than this share (a sixteenth) of a full one."""

ALIVE_AT_ONCE = 2000
"""Records whose liveness is checked in one read transaction."""

CHECKPOINT_PATIENCE_S = 60.0
"""How long a step waits for the keeper's checkpoint; without one the old files stay until another pass."""

FEED_PATIENCE_S = 15.0
"""How long a run waits for the change feed: longer than `feed.writer.SAVE_S`, the interval of its saves."""

LONG_BYTES = 64 << 20
"""A record whose payload is longer is copied piece by piece."""
PIECE_BYTES = 1 << 20

_CHECKPOINT_POLL_S = 0.05
_IN_USE_POLL_S = 0.2

Progress = Callable[[str, int, int], None]


class Encrypts(Enum):
    """Which records are copied to encrypt them."""

    NOTHING = "off"
    PLAIN = "plain"
    """Those that are not encrypted."""
    OLD_KEYS = "old-keys"
    """Those too that are encrypted by another data key than the newest."""


class _LeftAlone(Exception):
    """A source cannot be compacted; the group goes on without it."""

    def __init__(self, segment_id: int) -> None:
        super().__init__(segment_id)
        self.segment_id = segment_id


class _Stopped(Exception):
    """The process is stopping: discard the unfinished copy."""


@dataclass(slots=True)
class Totals:
    """Counts of a compactor's work."""

    segments_removed: int = 0
    segments_written: int = 0
    records_copied: int = 0
    bytes_copied: int = 0
    bytes_reclaimed: int = 0
    """File bytes removed minus file bytes written."""
    left_alone: int = 0
    """Segments with a damaged record."""

    def as_dict(self) -> dict[str, int]:
        """For statistics."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class _Source:
    """One segment to be replaced."""

    segment_id: int
    records: Sequence[Record]
    alive: Sequence[Record]
    file_bytes: int


@dataclass(slots=True)
class Plan:
    """The segments to remove, join and copy, in the order in which to do it."""

    dead: list[int] = field(default_factory=list)
    """Segments without live records, according to their marks."""
    groups: list[list[int]] = field(default_factory=list)
    """Groups of segments to copy together into one new segment."""
    bytes: int = 0
    """Segments to copy, each into a new one."""
    is_ahead_of_feed: bool = False
    """Whether there will be more to do when the change feed has read some segments."""

    def __bool__(self) -> bool:
        return bool(self.dead or self.groups)


class Compactor:
    """Compacts one archive step by step, and remembers the segments that it could not compact."""

    def __init__(
        self,
        archive: Archive,
        options: Compaction,
        *,
        segment_bytes: int,
        stopping: threading.Event | None = None,
        everything: bool = False,
        encrypts: Encrypts = Encrypts.NOTHING,
    ) -> None:
        """`segment_bytes`: of a full segment. `everything`: every segment with a dead byte, without a rate limit.
        `encrypts`: which records are copied to encrypt them, in an archive that encrypts new ones.

        Raises ArchiveReadOnly.
        """
        archive.parts.refuse_writing()
        self._archive = archive
        self._parts = archive.parts
        self._segment_bytes = segment_bytes
        self._stopping = stopping or threading.Event()
        self._everything = everything
        self._encrypted: dict[int, bytes] = {}
        """Segments without records to encrypt, and the newest data key at that time."""
        self._left_alone: dict[int, SegmentMark] = {}
        """Segments without gain, or with damage, each with its mark at that time."""
        self._streams: set[int] = set()
        self._layouts_known: set[int] = set()
        self.totals = Totals()
        self.is_ahead_of_feed = False
        """Whether the last step left work to the next, since the change feed has not read it yet."""
        self.configure(options, encrypts)

    def configure(self, options: Compaction, encrypts: Encrypts) -> None:
        """Sets new options."""
        self._options = options
        self._encrypts = encrypts
        self._encrypted.clear()
        self._rate_limiter = RateLimiter(0 if self._everything else options.bytes_per_s, wait=self._stopping.wait)

    def run(self, progress: Progress | None = None) -> Totals:
        """Takes steps until nothing is left to do, alternating with other processes. Raises as `step` does."""
        total = self.plan().bytes
        while (self._step_in_turn() or self._wait_for_feed()) and not self._stopping.is_set():
            if progress is not None:
                progress("compacted", self.totals.bytes_copied, max(total, self.totals.bytes_copied))
        reserve_file.make(self._parts.layout, self._parts.files)
        return self.totals

    def _wait_for_feed(self) -> bool:
        """Waits until the server's change feed has read the segments to remove. Returns whether it has."""
        # Without a server there is no feed.
        if self._parts.keeper is not None or not self.plan().is_ahead_of_feed:
            return False
        give_up_at = time.monotonic() + FEED_PATIENCE_S
        while time.monotonic() < give_up_at and not self._stopping.wait(_IN_USE_POLL_S):
            if not self.plan().is_ahead_of_feed:
                return True
        return False

    def _step_in_turn(self) -> bool:
        while True:
            try:
                return self.step()
            except ArchiveInUse:
                if self._stopping.wait(_IN_USE_POLL_S):
                    return False

    def step(self) -> bool:
        """Rewrites one group, or removes all dead segments. Returns whether there was anything to do.

        Raises ArchiveInUse when another process compacts, StorageFull, StorageFailed or IndexError_.
        """
        parts = self._parts
        with locks.caretaker(parts.layout, parts.files):
            self._tidy()
            plan = self.plan()
            self.is_ahead_of_feed = plan.is_ahead_of_feed
            marks = parts.index.segment_marks()
            if plan.dead:
                sources = [source for segment_id in plan.dead if (source := self._source(segment_id)) is not None]
                if self._remove([source for source in sources if not source.alive]):
                    return True
                # They have no live records, but dead ones that must stay.
                copyable = [source for source in sources if source.alive and self._wins(source, marks, is_joined=False)]
                if copyable:
                    return self._rewrite(copyable[:1])
            if not plan.groups:
                return False
            return self._rewrite(self._winning(plan.groups[0], marks))

    def plan(self) -> Plan:
        """The plan that the next steps would carry out."""
        marks = self._parts.index.segment_marks()
        segment_ids = list_segments(self._parts.layout.segments, self._parts.files)
        own = filter(self._parts.layout.writes, segment_ids)  # the others are compacted by the nodes that wrote them
        sealed = [segment_id for segment_id in own if segment_id in marks and marks[segment_id].sealed]
        # Wait for the change feed: it would miss records that it has not read, or report their copies again.
        progress = feed_state.progress_of(self._parts.layout, self._parts.files)
        newest = newest_of_slots(sealed).values()
        plan = Plan()
        small: list[int] = []
        rewrite: list[int] = []
        for segment_id in sealed:
            mark = marks[segment_id]
            if self._left_alone.get(segment_id) == mark:
                continue
            to_encrypt = mark.live_bytes > 0 and self._is_to_encrypt(segment_id)
            # A copy gets a higher number, so the newest one may go when it has been copied.
            if not to_encrypt and (segment_id in newest or (mark.live_bytes and segment_id in self._streams)):
                continue
            is_worth_it = not mark.live_bytes or to_encrypt or self._is_worth_it(mark.live_bytes, mark.dead_bytes)
            if progress is not None and not self._has_read(progress, segment_id, mark):
                plan.is_ahead_of_feed |= is_worth_it
            elif not mark.live_bytes:
                plan.dead.append(segment_id)
            elif is_worth_it:
                rewrite.append(segment_id)
            elif self._is_small(mark.live_bytes) and self._is_copyable(segment_id):
                small.append(segment_id)
        if len(small) >= (2 if self._everything else self._options.small_segments_min):
            rewrite += small
        plan.groups = self._grouped(sorted(rewrite), marks)
        plan.bytes = sum(marks[segment_id].live_bytes for group in plan.groups for segment_id in group)
        return plan

    def _has_read(self, progress: FeedProgress, segment_id: int, mark: SegmentMark) -> bool:
        """Whether the change feed has read a sealed segment to its end."""
        place = progress.of(segment_id)
        if place is None or place[1] < mark.indexed_bytes:
            return progress.is_done(segment_id)
        try:
            return read_segment_header(self._open(segment_id), segment_id).salt == place[0]
        except CorruptRecord:
            return False

    def _is_worth_it(self, live_bytes: int, dead_bytes: int) -> bool:
        if self._everything:
            return dead_bytes > 0
        return dead_bytes >= self._options.dead_share_min * (live_bytes + dead_bytes)

    def _is_to_encrypt(self, segment_id: int) -> bool:
        """Whether a segment has records that are to be copied so that they are encrypted."""
        data_key = self._parts.layout.data_key
        if self._encrypts == Encrypts.NOTHING or data_key is None:
            return False
        newest = data_key().key_id
        if self._encrypted.get(segment_id) == newest:
            return False
        try:
            summary = hints.read_summary(self._open(segment_id), segment_id, opens=False)
        except CorruptRecord:
            return False  # copied for another reason, or found by a scrub
        if summary is None:
            return False
        key_ids = {key_id_of(record) for record in summary.records}
        study_keys = self._parts.layout.study_keys
        if study_keys is not None:
            # Those of studies are never old. What else there is of instances gets one where studies get keys.
            has_shared = any(
                record.kind == Kind.INSTANCE and not study_keys.is_mine(key_id_of(record)) for record in summary.records
            )
            if has_shared and study_keys.is_in_use and self._encrypts == Encrypts.OLD_KEYS:
                return True
            key_ids = {key_id for key_id in key_ids if not study_keys.is_mine(key_id)}
        if b"" in key_ids or (self._encrypts == Encrypts.OLD_KEYS and key_ids - {newest}):
            return True
        self._encrypted[segment_id] = newest
        return False

    def _is_small(self, live_bytes: int) -> bool:
        return live_bytes < self._segment_bytes // SMALL_SHARE

    def _grouped(self, segment_ids: Iterable[int], marks: dict[int, SegmentMark]) -> list[list[int]]:
        """Groups of sources, in their order, that fill one segment each."""
        groups: list[list[int]] = []
        filled = 0
        for segment_id in segment_ids:
            live_bytes = marks[segment_id].live_bytes
            if not groups or filled + live_bytes > self._segment_bytes:
                groups.append([])
                filled = 0
            groups[-1].append(segment_id)
            filled += live_bytes
        return groups

    # -- sources --------------------------------------------------------------------------------

    def _is_copyable(self, segment_id: int) -> bool:
        """Whether a segment may be joined with others: it is no stream, and its trailer can be read. If not, it is left
        alone and the others are compacted."""
        if segment_id not in self._layouts_known:
            try:
                trailer = hints.read_trailer(self._open(segment_id), segment_id)
            except CorruptRecord as error:
                self._leave_alone(segment_id, error.offset, b"", str(error))
                return False
            self._layouts_known.add(segment_id)
            if trailer is not None and trailer.layout == segment.LAYOUT_STREAM:
                self._streams.add(segment_id)
        return segment_id not in self._streams

    def _open(self, segment_id: int) -> SegmentBytes:
        """A segment's bytes.

        Raises CorruptRecord when it cannot be opened, StorageFull or StoreUnreachable when a retry may help.
        """
        try:
            return self._parts.segments.open(segment_id)
        except (CorruptRecord, StorageFull, StoreUnreachable):
            raise
        except StorageError as error:
            raise CorruptRecord(str(error), segment_id, 0) from error

    def _source(self, segment_id: int) -> _Source | None:
        """The records of a segment; None if it must be left alone."""
        try:
            data = self._open(segment_id)
            summary = hints.read_summary(data, segment_id)
            file_bytes = data.size()
        except CorruptRecord as error:
            self._leave_alone(segment_id, error.offset, b"", str(error))
            return None
        if summary is None:
            self._leave_alone(segment_id, 0, b"", "the footer of a sealed segment is missing")
            return None
        lost_damage = next((damage for damage in summary.damage if damage.was_synced), None)
        if lost_damage is not None:
            self._leave_alone(segment_id, lost_damage.offset, b"", lost_damage.reason)
            return None
        live = self._alive(segment_id, summary.records)
        if summary.trailer.layout == segment.LAYOUT_STREAM:
            self._streams.add(segment_id)
            self._layouts_known.add(segment_id)
        return _Source(segment_id, summary.records, live, file_bytes)

    def _alive(self, segment_id: int, records: Sequence[Record]) -> list[Record]:
        live: list[Record] = []
        for at in range(0, len(records), ALIVE_AT_ONCE):
            batch = records[at : at + ALIVE_AT_ONCE]
            flags = self._parts.index.alive(segment_id, batch)
            live += [record for record, flag in zip(batch, flags, strict=True) if flag]
        return live

    def _leave_alone(self, segment_id: int, offset: int, key: bytes, reason: str) -> None:
        """Notes damage, and leaves the segment alone until one of its records dies."""
        self._parts.index.note_damage(segment_id, offset, key, reason, time.time_ns())
        self._left_alone[segment_id] = self._parts.index.segment_marks()[segment_id]
        self.totals.left_alone += 1
        logger.error("segment cannot be compacted", segment=f"{segment_id:016x}", offset=offset, damage=reason)

    # -- one group ------------------------------------------------------------------------------

    def _wins(self, source: _Source, marks: dict[int, SegmentMark], *, is_joined: bool) -> bool:
        """Whether copying a segment frees enough bytes, or joins several small segments.

        Some dead records must stay (see `index.upkeep.liveness`), but the marks count them as dead, at each of their
        places. Do not decide by the marks alone: such records would be copied forever.
        """
        if not source.alive or self._is_to_encrypt(source.segment_id):
            return True
        if source.segment_id in self._streams:
            return False
        kept_bytes = sum(record.position.record_bytes for record in source.alive)
        total_bytes = sum(record.position.record_bytes for record in source.records)
        if (is_joined and self._is_small(kept_bytes)) or self._is_worth_it(kept_bytes, total_bytes - kept_bytes):
            return True
        self._left_alone[source.segment_id] = marks[source.segment_id]
        return False

    def _winning(self, segment_ids: Sequence[int], marks: dict[int, SegmentMark]) -> list[_Source]:
        """The sources of a group that are worth copying; the others are left alone until one of their records dies."""
        sources = [source for segment_id in segment_ids if (source := self._source(segment_id)) is not None]
        joined = [source for source in sources if self._wins(source, marks, is_joined=True)]
        if len(joined) > 1:
            return joined
        return [source for source in joined if self._wins(source, marks, is_joined=False)]

    def _rewrite(self, sources: Sequence[_Source]) -> bool:
        """Copies the live records and removes the files. Returns whether there may be more to do."""
        if not sources:
            return True
        try:
            self._copy(sources)
        except _LeftAlone:
            return True
        except _Stopped:
            return False
        return self._remove(sources)

    def _copy(self, sources: Sequence[_Source]) -> None:
        """Copies the live records, makes the copies durable, and relocates them in the index."""
        live = [record for source in sources for record in source.alive]
        if not live:
            return
        parts = self._parts
        is_encrypted = parts.layout.data_key is not None
        copied_bytes = sum(_copied_bytes(record, is_encrypted) for record in live)
        copy = parts.layout.segment_log(
            parts.files,
            f"{COMPACTION}{os.getpid()}",
            segment_bytes=segment.FIRST_RECORD + copied_bytes + hints.FOOTER_BYTES_MIN,
        )
        moves: list[tuple[Record, Position]] = []
        streamed: list[tuple[int, int]] = []
        try:
            for record in live:
                moves.append((record, self._copy_record(copy, record)))
                if _is_long(record):
                    streamed.append((moves[-1][1].segment_id, moves[-1][1].end))
        except BaseException:
            self._abandon(copy)
            raise
        sealed = [*copy.close(), *(place for place in streamed if self._is_sealed(place[0]))]
        if {position.segment_id for _, position in moves} != {segment_id for segment_id, _ in sealed}:
            raise StorageFull("no room for the footer of the new segment")
        for at in range(0, len(moves), RELOCATE_MAX):
            parts.index.relocate(moves[at : at + RELOCATE_MAX])
        parts.index.apply(
            [],
            marks={segment_id: SegmentMark(end, True) for segment_id, end in sealed},
            covered=dict(sealed),
        )
        self.totals.segments_written += len(sealed)
        self.totals.records_copied += len(moves)
        self.totals.bytes_reclaimed -= sum(self._file_bytes(segment_id) for segment_id, _ in sealed)

    def _copy_record(self, copy: SegmentLog, record: Record) -> Position:
        if self._stopping.is_set():
            raise _Stopped
        position = record.position
        try:
            copy_of = self._copy_long if _is_long(record) else self._copy_whole
            moved = copy_of(copy, record, *self._key_of(record))
        except KeyDestroyed as error:
            raise _LeftAlone(position.segment_id) from error  # it has died meanwhile
        except CorruptRecord as error:
            self._leave_alone(position.segment_id, position.offset, record.key, str(error))
            raise _LeftAlone(position.segment_id) from error
        self.totals.bytes_copied += position.record_bytes
        self._rate_limiter.spent(position.record_bytes)
        return moved

    def _key_of(self, record: Record) -> tuple[DataKey | None, bytes]:
        """The key of a copy, or the study whose key it gets: a copy has the same key as its record if that is of a
        study, so that all copies of a study become unreadable together."""
        keys = self._parts.layout.study_keys
        if keys is None or record.kind != Kind.INSTANCE:
            return None, b""
        key_id = self._parts.reader.key_id(record.position)
        if key_id and keys.is_mine(key_id):
            return KEYRING.get(key_id), b""
        return None, study_of(Entry.unpack(record))

    def _copy_whole(self, copy: SegmentLog, record: Record, data_key: DataKey | None, study: bytes) -> Position:
        position = record.position
        payload = self._parts.reader.read(position, verify=True)
        return copy.append(
            record.kind,
            record.flags,
            record.stamp,
            record.key,
            record.meta,
            [payload],
            position.payload_length,
            position.payload_crc,
            write_back=True,
            data_key=data_key,
            study=study,
        )

    def _copy_long(self, copy: SegmentLog, record: Record, data_key: DataKey | None, study: bytes) -> Position:
        """Copies a record piece by piece, into a segment of its own."""
        position, reader = record.position, self._parts.reader
        stream = copy.begin_stream(
            record.kind, record.flags, record.stamp, record.key, len(record.meta), data_key=data_key
        )
        buffer = memoryview(bytearray(PIECE_BYTES))
        at = crc = 0
        try:
            while at < position.payload_length:
                if self._stopping.is_set():
                    raise _Stopped
                piece = buffer[: position.payload_length - at]
                reader.read_into(position, piece, at)
                crc = crc32c(piece, crc)
                stream.write([piece], len(piece))
                at += len(piece)
            reader.check(position, crc)
            return stream.finish(record.meta, crc, study=study)
        except BaseException:
            stream.abort()
            raise

    def _is_sealed(self, segment_id: int) -> bool:
        return hints.read_trailer(self._open(segment_id), segment_id) is not None

    def _abandon(self, copy: SegmentLog) -> None:
        """Removes an unfinished copy. If that fails, recovery takes its records for duplicates."""
        try:
            copy.abandon()
        except StorageError as error:
            logger.warning("an unfinished segment cannot be removed", error=for_log(error))

    def _file_bytes(self, segment_id: int) -> int:
        return self._open(segment_id).size()

    # -- removing -------------------------------------------------------------------------------

    def _remove(self, sources: Sequence[_Source]) -> bool:
        """Removes the files of dead segments, once no index that a power cut can restore points into them."""
        if not sources:
            return False
        parts = self._parts
        if not self._checkpointed(parts.index.last_commit()):
            return False
        with parts.ledger.locked():
            removable = [source for source in sources if not self._alive(source.segment_id, source.records)]
            if removable:
                parts.register.note_removed(source.segment_id for source in removable)
            for source in removable:
                parts.files.unlink(segment.segment_path(parts.layout.segments, source.segment_id))
                parts.reader.drop(source.segment_id)
            parts.files.sync_directory(parts.layout.segments)
            for source in removable:
                # The rows of a record that cannot be read are found only by a look at all rows.
                is_shredded = any(record.kind == SHREDDED for record in source.records)
                parts.index.forget_segment(source.segment_id, [] if is_shredded else source.records)
            marks = parts.index.segment_marks()
            # Do not copy a segment that must stay again before one of its records dies.
            self._left_alone |= {
                source.segment_id: marks[source.segment_id] for source in sources if source not in removable
            }
        for source in removable:
            self.totals.segments_removed += 1
            self.totals.bytes_reclaimed += source.file_bytes
            self._streams.discard(source.segment_id)
            self._layouts_known.discard(source.segment_id)
            self._left_alone.pop(source.segment_id, None)
        logger.info("segments removed", count=len(removable), bytes=sum(source.file_bytes for source in removable))
        return bool(removable)

    def _checkpointed(self, commit: int) -> bool:
        """Waits for a checkpoint that includes this commit; False if that takes too long."""
        parts = self._parts
        if parts.keeper is not None:
            parts.keeper.checkpoint()
        give_up_at = time.monotonic() + CHECKPOINT_PATIENCE_S
        while True:
            if parts.index.is_durable(commit):
                return True
            if time.monotonic() > give_up_at or self._stopping.wait(_CHECKPOINT_POLL_S):
                logger.warning("no checkpoint in time: the old files stay for now", commit=commit)
                return False

    def _tidy(self) -> None:
        """Finishes an interrupted pass, of this or another process."""
        parts = self._parts
        marks = parts.index.segment_marks()
        segment_ids = list_segments(parts.layout.segments, parts.files)
        new_ids = set(filter(parts.layout.writes, segment_ids)) - marks.keys()
        if new_ids:
            # These may be copies without relocation, or segments that a living writer is about to use. Leave those
            # alone.
            report = rebuild.replay(parts.index, parts.layout.segments, parts.files, only=new_ids)
            for finding in report.findings:
                logger.warning("damage in an unfinished segment", finding=str(finding))
        for segment_id in marks.keys() - set(parts.segments.segment_ids()):
            is_unneeded = marks[segment_id].sealed and not marks[segment_id].live_count
            if is_unneeded and parts.layout.writes(segment_id):
                parts.index.forget_segment(segment_id, [])


def _is_long(record: Record) -> bool:
    return record.position.payload_length > LONG_BYTES


def _copied_bytes(record: Record, is_encrypted: bool) -> int:
    """The bytes of a record and of its head in the footer, in a new segment."""
    area_length = len(record.meta) + ENCRYPTED_META_MORE | ENCRYPTED if is_encrypted else len(record.meta)
    position = Position(0, 0, len(record.key), area_length, record.position.payload_length, 0)
    return position.record_bytes + position.head_bytes
