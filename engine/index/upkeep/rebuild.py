"""Replays the log into the index: the tail after a stop, or everything for a new index.

Reads records through `storage.recovery`, which also cuts torn tails and seals the segments of dead writers, and applies
them with `Catalog.apply`, so the result is the same as after live writing. May be interrupted and started again.

    segment                               treatment
    its mark is sealed                    not opened: the cost of a start depends on unsealed segments only
    its mark is not sealed, or missing    recovered from `indexed_bytes` on and applied: by its hints if it is sealed
    a living writer has it                left to that writer
    its file is gone, with live records   reported; the index keeps their positions
    no mark, no file, known as sealed     reported: the index was lost, and so were these records
    its file is elsewhere                 as a sealed one, from the store that has it
    another node writes it                left to who follows that node's log

With `follow` the log belongs to another machine (on a replica), or cannot be written. It is then only read, by
`recovery.read_segment`, again and again. Records that a compaction has moved there move here too: the last copy counts.

A record that cannot be decoded (another version, or damage that its checksum does not show) is reported, and the replay
continues. Never skip a record silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from engine.dicom.schema import STANDARD, Schema
from engine.errors import (
    CorruptRecord,
    EngineError,
    IndexError_,
    StorageError,
    StorageFailed,
    StorageFull,
    StoreUnreachable,
)
from engine.index.catalog import Catalog
from engine.index.format.entry import Item, unpack_record
from engine.index.format.types import SegmentMark
from engine.storage.files import Files
from engine.storage.hints import read_header_or_trailer, read_heads
from engine.storage.record import SHREDDED, Record
from engine.storage.recovery import (
    NONE_SEALED,
    SealedSegments,
    has_sealed_later,
    is_owned,
    read_segment,
    recover_segment,
    restore_names,
)
from engine.storage.segment import FIRST_RECORD, Damage, list_segments
from engine.storage.segment_ids import slot_of
from engine.storage.segment_store import LocalSegments, SegmentStore

BATCH = 2000
"""Records in one transaction: some 20 ms in which no other process can write."""

Progress = Callable[[str, int, int], None]
"""(name of the step, done, total)."""

Replay = Callable[[], "Report"]
"""Applies one segment; may be run again after it has failed."""


@dataclass(slots=True)
class Report:
    """The counts and findings of a replay."""

    segments: int = 0
    """Opened."""
    records: int = 0
    """Applied, those applied before included."""
    torn: int = 0
    """Segments whose tail was cut."""
    owned: int = 0
    """Segments left to a living writer."""
    findings: list[Damage] = field(default_factory=list)
    """Damage, and records that cannot be read."""
    lost: list[Damage] = field(default_factory=list)
    """The findings of records that were durable once and are lost."""
    renamed: list[tuple[int, int]] = field(default_factory=list)
    """Segments whose files had the name of another one, and the number that they have now."""

    def add(self, other: Report) -> None:
        """Adds what a part of the replay counted and found."""
        self.segments += other.segments
        self.records += other.records
        self.torn += other.torn
        self.owned += other.owned
        self.findings += other.findings
        self.lost += other.lost
        self.renamed += other.renamed

    def add_lost(self, *lost: Damage) -> None:
        """Adds records that are lost."""
        self.findings += lost
        self.lost += lost

    def summary(self) -> dict[str, int]:
        """The counts for a log."""
        return {
            "segments": self.segments,
            "records": self.records,
            "torn": self.torn,
            "owned": self.owned,
            "findings": len(self.findings),
        }


def replay(
    index: Catalog,
    log_directory: str,
    files: Files,
    *,
    progress: Progress | None = None,
    only: Iterable[int] | None = None,
    seal: bool = True,
    follow: bool = False,
    archive_id: bytes = b"",
    elsewhere: SegmentStore | None = None,
    own_slot: int | None = None,
    sealed_segments: SealedSegments = NONE_SEALED,
    attempt: Callable[[Replay], Report] = lambda work: work(),
) -> Report:
    """Applies the records of the log after the marks; with `only`, of these segments.

    With an `archive_id`, a segment of another archive is reported and not changed. `elsewhere`: has segments that are
    not in the directory. `own_slot`: of a node, which misses no segment of the other nodes; None: all segments are
    missed. `sealed_segments`: sealed segments by another source than the index. `attempt` runs the
    work on a segment that a dead process left, and may run it again on a full disk. Raises IndexError_, StorageFailed,
    StorageFull or StoreUnreachable; damage in the log is reported, not raised.
    """
    marks = index.segment_marks()
    store = LocalSegments(log_directory, files)
    present = list_segments(log_directory, files)
    report = Report()
    if not follow:
        is_sealed = {segment_id for segment_id, mark in marks.items() if mark.sealed}
        report.renamed = restore_names(files, log_directory, [number for number in present if number not in is_sealed])
        present = list_segments(log_directory, files)
    segment_ids = set(present) if only is None else set(only)
    shipped = set() if elsewhere is None else set(elsewhere.segment_ids()) - set(present)
    for segment_id in sorted(marks.keys() & segment_ids if only is not None else marks.keys()):
        if own_slot is not None and slot_of(segment_id) != own_slot:
            continue
        if segment_id not in present and segment_id not in shipped and marks[segment_id].live_count:
            report.add_lost(Damage(segment_id, 0, marks[segment_id].indexed_bytes, "the segment file is missing"))
    missing = sealed_segments.by_id.keys() - marks.keys() - set(present) - shipped
    for segment_id in sorted(missing if only is None else ()):
        # Check again: the file may have been removed or renamed a moment ago.
        recovery = recover_segment(files, log_directory, segment_id, FIRST_RECORD, sealed_segments=sealed_segments)
        report.add_lost(*recovery.damage)
    unsealed = [
        segment_id
        for segment_id in present
        if segment_id in segment_ids and not (segment_id in marks and marks[segment_id].sealed)
    ]
    for count, segment_id in enumerate(unsealed):
        if progress is not None:
            progress("segments", count, len(unsealed))
        mark = marks.get(segment_id)
        if archive_id and mark is None and _is_foreign(store, segment_id, archive_id):
            report.findings.append(Damage(segment_id, 0, 0, "the segment belongs to another archive"))
            continue
        if follow:
            _follow_segment(index, log_directory, files, segment_id, mark, report)
            continue
        has_grown = partial(has_sealed_later, files, log_directory, segment_id, present)
        work = partial(
            _replay_segment, index, log_directory, files, store, segment_id, mark, seal, sealed_segments, has_grown
        )
        report.add(attempt(work))
    if progress is not None:
        progress("segments", len(unsealed), len(unsealed))
    if elsewhere is not None:
        _replay_shipped(index, elsewhere, shipped if only is None else shipped & segment_ids, marks, report)
    return report


def _replay_shipped(
    index: Catalog,
    store: SegmentStore,
    segment_ids: Iterable[int],
    marks: Mapping[int, SegmentMark],
    report: Report,
) -> None:
    """Applies segments that are not on this machine, as far as their marks say that they are not applied yet."""
    for segment_id in sorted(segment_ids):
        mark = marks.get(segment_id)
        if mark is not None and mark.sealed:
            continue
        start = mark.indexed_bytes if mark is not None else FIRST_RECORD
        report.segments += 1
        if not load_sealed(index, store, segment_id, start, report):
            report.findings.append(Damage(segment_id, start, 0, "the segment cannot be read where it is stored"))


def _is_foreign(store: SegmentStore, segment_id: int, archive_id: bytes) -> bool:
    """Whether a segment belongs to another archive. False if its header cannot be read: recovery handles that."""
    try:
        return read_header_or_trailer(store.open(segment_id), segment_id).archive_id != archive_id
    except StorageError:
        return False


def _replay_segment(
    index: Catalog,
    log_directory: str,
    files: Files,
    store: SegmentStore,
    segment_id: int,
    mark: SegmentMark | None,
    seal: bool,
    sealed_segments: SealedSegments,
    has_grown: Callable[[], bool],
) -> Report:
    report = Report()
    start = mark.indexed_bytes if mark is not None else FIRST_RECORD
    try:
        if is_owned(files, log_directory, segment_id):
            report.owned += 1
            return report
        if load_sealed(index, store, segment_id, start, report, sealed_segments):
            report.segments += 1
            return report
        recovered = recover_segment(
            files,
            log_directory,
            segment_id,
            start,
            seal=seal,
            sealed_segments=sealed_segments,
            has_sealed_later=has_grown,
        )
    except (StorageFailed, StorageFull, StoreUnreachable, IndexError_):
        raise
    except EngineError as error:
        report.findings.append(Damage(segment_id, start, 0, str(error)))
        return report
    report.segments += 1
    report.torn += bool(recovered.torn)
    report.findings.extend(recovered.damage)
    if recovered.is_final:
        report.lost += [damage for damage in recovered.damage if damage.was_synced]
    is_large = recovered.sealed and len(recovered.records) > BATCH
    if is_large and load_sealed(index, store, segment_id, start, report, sealed_segments):
        return report
    for at in range(0, len(recovered.records), BATCH):
        _apply(index, recovered.records[at : at + BATCH], report)
    if recovered.written_bytes:
        marks = {segment_id: SegmentMark(recovered.written_bytes, True)} if recovered.sealed else {}
        index.apply([], marks=marks, covered={segment_id: recovered.written_bytes})
    return report


def load_sealed(
    index: Catalog,
    store: SegmentStore,
    segment_id: int,
    start: int,
    report: Report,
    sealed_segments: SealedSegments = NONE_SEALED,
) -> bool:
    """Applies a segment that is sealed and undamaged, in any store. False: use `recover_segment`.

    Raises StoreUnreachable when its store cannot be reached.
    """
    sealed = sealed_segments.by_id.get(segment_id)
    try:
        data = store.open(segment_id)
    except StoreUnreachable:
        raise
    except StorageError:
        return False
    try:
        data.forget(0, data.size())
        heads = read_heads(data, segment_id)
        if heads is None or heads.trailer.damage_count:
            return False
        if sealed is not None and (sealed.salt not in (-1, heads.trailer.salt) or sealed.tail != heads.trailer.tail):
            return False
        loaded = index.load(heads, start)
    except CorruptRecord:
        return False
    report.records += loaded.records
    report.findings += loaded.findings
    return True


def _follow_segment(
    index: Catalog, log_directory: str, files: Files, segment_id: int, mark: SegmentMark | None, report: Report
) -> None:
    start = mark.indexed_bytes if mark is not None else FIRST_RECORD
    try:
        content = read_segment(files, log_directory, segment_id, start)
    except EngineError as error:
        report.findings.append(Damage(segment_id, start, 0, str(error)))
        return
    report.segments += 1
    report.findings.extend(content.damage)
    if not content.sealed and content.written_bytes <= start:
        return
    for at in range(0, len(content.records), BATCH):
        _apply(index, content.records[at : at + BATCH], report)
    marks = {segment_id: SegmentMark(content.written_bytes, True)} if content.sealed else {}
    index.apply([], marks=marks, covered={segment_id: content.written_bytes})


def _apply(index: Catalog, records: list[Record], report: Report) -> None:
    items: list[Item] = []
    for record in records:
        if record.kind == SHREDDED:
            continue
        try:
            items.append(unpack_record(record))
        except IndexError_ as error:
            position = record.position
            report.findings.append(Damage(position.segment_id, position.offset, position.record_bytes, str(error)))
    report.records += len(items)
    index.apply(items)


def rebuild(
    directory: str,
    log_directory: str,
    files: Files,
    *,
    progress: Progress | None = None,
    follow: bool = False,
    archive_id: bytes = b"",
    elsewhere: SegmentStore | None = None,
    own_slot: int | None = None,
    sealed_segments: SealedSegments = NONE_SEALED,
    schema: Schema = STANDARD,
) -> tuple[Catalog, Report]:
    """Deletes the index and makes it again from the log, which `follow` does not change. Returns it open.

    Raises IndexError_ when it is in use, StorageFailed or StorageFull.
    """
    Catalog.discard(directory, files)
    index = Catalog.open(directory, files=files, schema=schema)
    try:
        report = replay(
            index,
            log_directory,
            files,
            progress=progress,
            follow=follow,
            archive_id=archive_id,
            elsewhere=elsewhere,
            own_slot=own_slot,
            sealed_segments=sealed_segments,
        )
    except BaseException:
        index.close()
        raise
    return index, report
