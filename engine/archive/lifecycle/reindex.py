"""Re-indexing: extracts the attributes of stored instances again after the set of extra attributes has changed.

Goes through the segments, the newest first, by the heads in their footers. For each instance whose record has another
mark, reads the first bytes of the data set, extracts its attributes and updates the index (`index.apply.reextract`).

    the set has changed ─► every sealed segment lacks its digest ─► batch by batch, each noted ─► none lacks it
    a segment is sealed ─► it lacks the digest ─► its records have the mark already, so no payload is read
    a crash, a stop     ─► continues after the last noted batch
    the index is rebuilt, a segment compacted ─► the notes are gone, or the new segment has none: read again

A segment that is still written is read when it is sealed. An unreadable instance keeps its attributes, and is counted;
the scrub reports the damage. The log does not change: a record keeps its mark.

Runs under `locks.caretaker`, a batch at a time, in any process that has the archive open: in the caretaker, and in
`filmroom reindex`. Meanwhile queries by an extra attribute find the instances that are done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from engine import log
from engine.archive import completeness, extras, locks
from engine.dicom import elements, transfer_syntax
from engine.errors import ArchiveInUse, CorruptRecord, DataSetError, IndexError_, SegmentGone, StorageError, for_log
from engine.index.format.entry import Entry
from engine.rate_limiter import RateLimiter
from engine.storage import hints, segment
from engine.storage.record import Kind, Record, crc32c, unpack_head
from engine.storage.segment import Damage

if TYPE_CHECKING:
    from engine.archive.archive import Archive

logger = log.get("archive.reindex")

BATCH = 200
"""Instances in one index transaction: some milliseconds in which no other process can write."""

RECORDS_MAX = 5000
"""The most records in one step, whether read or not."""

LOG_EVERY_S = 60.0

IN_USE_PAUSE_S = 0.2

Progress = Callable[[str, int, int], None]


class _OpenSegment:
    """The segment that is being re-indexed."""

    def __init__(self, segment_id: int, records: Iterator[Record], end: int) -> None:
        self.segment_id = segment_id
        self.records = records
        self.end = end


class Reindexer:
    """Re-indexes one archive, a step at a time; one thread."""

    def __init__(self, archive: Archive, *, bytes_per_s: int, stopping: threading.Event | None = None) -> None:
        self._archive = archive
        self._parts = archive.parts
        self._stopping = stopping or threading.Event()
        self._segment: _OpenSegment | None = None
        self._left_alone: set[int] = set()
        """Unreadable segments."""
        self._has_begun = False
        self._logged_at_s = 0.0
        self.counters = dict.fromkeys(("segments", "records", "extracted", "changed", "unreadable", "bytes"), 0)
        """Counts of this process's work."""
        self.configure(bytes_per_s)

    def configure(self, bytes_per_s: int) -> None:
        """Sets the speed."""
        self._rate_limiter = RateLimiter(bytes_per_s, wait=self._stopping.wait)

    @property
    def is_concerned(self) -> bool:
        """Whether the archive has ever had extra attributes."""
        archive = self._archive
        return bool(archive.schema.extra_set.number) or extras.has_record(archive.parts.layout, archive.parts.files)

    def lacking(self) -> list[int]:
        """The sealed segments that still need re-indexing, in ascending order."""
        digest = self._archive.schema.extra_set.digest
        notes = self._parts.index.reextraction_progress()
        return sorted(
            segment_id
            for segment_id, mark in self._parts.index.segment_marks().items()
            if mark.sealed
            and segment_id not in self._left_alone
            and not _covers(notes.get(segment_id), digest, mark.indexed_bytes)
        )

    def step(self) -> bool:
        """Does a batch. Returns whether there may be more. Raises ArchiveInUse while another process has the lock."""
        if self._segment is None and (not self.is_concerned or not self.lacking()):
            return False
        read_before = self.counters["bytes"]
        with locks.caretaker(self._parts.layout, self._parts.files):
            if self._segment is None:
                self._enter()
            if self._segment is not None:
                self._amend(self._segment)
            is_over = self._segment is None and not self.lacking()
            if is_over:
                self._finish()
        self._rate_limiter.spent(self.counters["bytes"] - read_before)
        return not is_over

    def status(self) -> dict[str, object]:
        """The progress, for people and for statistics."""
        marks = self._parts.index.segment_marks()
        sealed = {segment_id: mark.indexed_bytes for segment_id, mark in marks.items() if mark.sealed}
        lacking = self.lacking() if self.is_concerned else []
        total_bytes = sum(sealed.values())
        left_bytes = sum(sealed.get(segment_id, 0) for segment_id in lacking)
        return {
            "attributes": len(self._archive.schema.extra_set.extras),
            "running": bool(lacking),
            "progress": round(1 - left_bytes / total_bytes, 4) if total_bytes else 1.0,
            "segments_left": len(lacking),
            "segments_unreadable": len(self._left_alone),
        }

    # -- inside ---------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Opens the newest segment that lacks the digest, since new instances are requested most."""
        while lacking := self.lacking():
            segment_id = lacking[-1]
            try:
                records, end = self._records_of(segment_id)
            except SegmentGone:
                self._left_alone.add(segment_id)  # compacted since the marks were read, or lost: the scrub reports it
            except (StorageError, OSError) as error:
                logger.warning("a segment cannot be re-indexed", segment=f"{segment_id:016x}", error=for_log(error))
                self._left_alone.add(segment_id)
            else:
                self._segment = _OpenSegment(segment_id, records, end)
                return

    def _records_of(self, segment_id: int) -> tuple[Iterator[Record], int]:
        """The records of a sealed segment, and their end."""
        archive = self._archive
        mark = archive.parts.index.segment_marks()[segment_id]
        note = archive.parts.index.reextraction_progress().get(segment_id)
        start = note[1] if note is not None and note[0] == self._archive.schema.extra_set.digest else 0
        data = archive.parts.segments.open(segment_id)
        try:
            heads = hints.read_heads(data, segment_id)
        except CorruptRecord:
            heads = None
        if heads is not None:
            return _from_heads(heads, start), mark.indexed_bytes
        walk = segment.Walk(data, segment.read_segment_header(data, segment_id), start, end=mark.indexed_bytes)
        return iter([record for record in walk if not isinstance(record, Damage)]), mark.indexed_bytes

    def _amend(self, open_segment: _OpenSegment) -> None:
        mark = self._archive.schema.mark
        entries: list[Entry] = []
        record_count = 0
        end = open_segment.end
        try:
            for record in open_segment.records:
                record_count += 1
                entry = self._entry(record)
                if entry is not None and entry.mark != mark:
                    new_entry = self._extracted(entry)
                    if new_entry is not None:
                        entries.append(new_entry)
                if len(entries) >= BATCH or record_count >= RECORDS_MAX or self._stopping.is_set():
                    end = record.position.offset + record.position.record_bytes
                    break
        except SegmentGone:
            # Compacted: its live records are in a segment that lacks the digest too.
            self._segment = None
            return
        counters = self.counters
        counters["records"] += record_count
        counters["extracted"] += len(entries)
        if entries:
            self._log_progress()
        digest = self._archive.schema.extra_set.digest
        counters["changed"] += self._parts.index.replace_attributes(entries, open_segment.segment_id, digest, end)
        if end == open_segment.end:
            counters["segments"] += 1
            self._segment = None

    def _entry(self, record: Record) -> Entry | None:
        if record.kind != Kind.INSTANCE:
            return None
        try:
            return Entry.unpack(record)
        except IndexError_:
            self.counters["unreadable"] += 1  # never applied either
            return None

    def _extracted(self, entry: Entry) -> Entry | None:
        """The entry with the attributes of the current set; None if the record is unreadable. Raises SegmentGone."""
        try:
            head = self._head(entry)
        except SegmentGone:
            raise
        except (StorageError, DataSetError) as error:
            self.counters["unreadable"] += 1
            segment_text = f"{entry.position.segment_id:016x}"
            logger.warning(
                "an instance cannot be re-indexed",
                segment=segment_text,
                offset=entry.position.offset,
                error=for_log(error),
            )
            return None
        return replace(
            entry,
            character_set=head.specific_character_set,
            patient=head.patient,
            study=head.study,
            series=head.series,
            instance=head.instance,
            mark=self._archive.schema.mark,
        )

    def _head(self, entry: Entry) -> elements.Head:
        position = entry.position
        syntax = transfer_syntax.of(entry.transfer_syntax_uid.decode("ascii", "replace"))

        def read(offset: int, count: int) -> memoryview:
            data = memoryview(bytearray(count))
            self._parts.reader.read_into(position, data, offset)
            self.counters["bytes"] += count
            if count == position.payload_length:
                self._parts.reader.check(position, crc32c(data))
            return data

        head = elements.scan_at(
            read,
            position.payload_length,
            syntax,
            limits=completeness.LIMITS,
            extractor=self._archive.schema.extractor,
            to_the_end=False,
        )
        if head.sop_instance_uid != entry.sop_instance_uid or not _has_same_owners(head, entry):
            raise CorruptRecord("its UIDs differ from those of its record", position.segment_id, position.offset)
        return head

    def _log_progress(self) -> None:
        now_s = time.monotonic()
        if self._has_begun and now_s - self._logged_at_s < LOG_EVERY_S:
            return
        event = "re-indexing" if self._has_begun else "re-indexing begins: the extra attributes have changed"
        self._has_begun = True
        self._logged_at_s = now_s
        logger.info(event, **self.status())

    def _finish(self) -> None:
        while self._parts.index.drop_unsearched(RECORDS_MAX):
            pass
        if self._has_begun:
            self._has_begun = False
            logger.info("re-indexing ended", **self.counters)


def _covers(note: tuple[bytes, int] | None, digest: bytes, end: int) -> bool:
    return note is not None and note[0] == digest and note[1] >= end


def _from_heads(heads: hints.Heads, start_offset: int) -> Iterator[Record]:
    at = heads.start
    for _ in range(heads.trailer.record_count):
        record = unpack_head(heads.data, at, heads.trailer.segment_id)
        at += record.position.head_bytes
        if record.position.offset >= start_offset:
            yield record


def _has_same_owners(head: elements.Head, entry: Entry) -> bool:
    stored_items = elements.blob_items(entry.study) | elements.blob_items(entry.series)
    items = elements.blob_items(head.study) | elements.blob_items(head.series)
    return all(stored_items.get(tag) == items.get(tag) for tag in elements.OWNERS)


def run(archive: Archive, progress: Progress) -> dict[str, int]:
    """Re-indexes everything now. Returns the counts."""
    reindexer = Reindexer(archive, bytes_per_s=0)
    total = len(reindexer.lacking()) if reindexer.is_concerned else 0
    pause = threading.Event()
    while True:
        try:
            is_over = not reindexer.step()
        except ArchiveInUse:
            pause.wait(IN_USE_PAUSE_S)
            continue
        progress("segments", min(reindexer.counters["segments"], total), total)
        if is_over:
            return reindexer.counters
