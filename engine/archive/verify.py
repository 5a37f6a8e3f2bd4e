"""Compares the log with the index, in both directions: for `filmroom check` and for every crash test.

    log → index    the index knows every record of a segment, up to the segment's mark
    index → log    the record of every current instance, of every version kept aside and of everything in trash and
                   quarantine exists, whole and the same; with `payloads` its bytes too
    known damage   faults that a scrub or a reader has found and no re-send has healed
    data sets      by their element headers: current ones that end early are findings; native Pixel Data of another
                   length than its attributes describe is an oddity
    losses         records that the log has lost for good, until somebody acknowledges them (`archive.lifecycle.losses`)

Damage to a record that is no longer needed is no finding. Repairs nothing. May run beside a server; it may or may not
see instances that are stored meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.accounts import dump
from engine.archive import completeness
from engine.archive.lifecycle import trash
from engine.errors import CorruptRecord, DataSetError, SegmentGone, StorageError, StoreUnreachable
from engine.index.format.types import Instance, SegmentMark
from engine.storage import hints, segment
from engine.storage.record import Kind, Position, Record
from engine.storage.segment import Damage
from engine.storage.segment_bytes import Where

if TYPE_CHECKING:
    from engine.archive.archive import Archive

Progress = Callable[[str, int, int], None]

BATCH = 1000

COUNTED = (
    "segments",
    "records",
    "instances",
    "kept_aside",
    "trashed",
    "quarantined",
    "truncated",
    "pixel_data_length_differs",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault, and its place."""

    segment_id: int
    """Negative: the fault is in no segment."""
    offset: int
    what: str

    def __str__(self) -> str:
        if self.segment_id < 0:
            return self.what
        return f"segment {self.segment_id:016x} offset {self.offset}: {self.what}"


@dataclass(slots=True)
class CheckReport:
    """The counts and findings of a check."""

    findings: list[Finding] = field(default_factory=list)
    oddities: list[Finding] = field(default_factory=list)
    """Oddities of data sets that are stored as they came: no damage."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    _places: set[tuple[int, int]] = field(default_factory=set)

    def add(self, finding: Finding) -> None:
        """Adds a finding, unless there is one for the same place."""
        place = (finding.segment_id, finding.offset)
        if place not in self._places:
            self._places.add(place)
            self.findings.append(finding)


def check(archive: Archive, *, payloads: bool, progress: Progress | None = None) -> CheckReport:
    """Checks an archive; with `payloads` it reads every stored byte."""
    report = CheckReport()
    _check_index(archive, report, payloads, progress)
    for row in archive.parts.index.damage():
        uid = row.sop_instance_uid.decode("utf-8", "replace")
        report.add(Finding(row.segment_id, row.offset, _with_uid(row.what, uid)))
    _name_losses(archive, report)
    _check_log(archive, report, progress)
    for number, problem in enumerate(dump.check(archive.parts.layout.data)):
        report.add(Finding(-1, number, problem))
    return report


def _name_losses(archive: Archive, report: CheckReport) -> None:
    """Adds losses as findings. Those with a known instance come first, since each place is reported once."""
    losses = archive.losses()
    for loss in sorted(losses, key=lambda loss: not loss.sop_instance_uid):
        text = f"lost, not acknowledged yet: {loss.what}"
        report.add(Finding(loss.segment_id, loss.offset, _with_uid(text, loss.sop_instance_uid)))


def _check_log(archive: Archive, report: CheckReport, progress: Progress | None) -> None:
    marks = archive.parts.index.segment_marks()
    segment_ids = archive.parts.segments.segment_ids()
    for segment_id in marks.keys() - set(segment_ids):
        if marks[segment_id].live_count:
            report.add(Finding(segment_id, 0, "the segment file is missing"))
    for number, segment_id in enumerate(segment_ids):
        if progress is not None:
            progress("segments", number, len(segment_ids))
        mark = marks.get(segment_id)
        if mark is None:
            continue  # a new segment: it had no committed record when the marks were read
        report.counts["segments"] += 1
        try:
            _check_segment(archive, report, segment_id, mark)
        except CorruptRecord as error:
            report.add(Finding(error.segment_id, error.offset, str(error)))
        except StoreUnreachable:
            raise
        except (OSError, StorageError) as error:
            report.add(Finding(segment_id, 0, str(error)))


def _check_segment(archive: Archive, report: CheckReport, segment_id: int, mark: SegmentMark) -> None:
    batch: list[Record] = []
    gaps: list[Damage] = []
    for item in _records(archive, segment_id, mark):
        if isinstance(item, Damage):
            gaps.append(item)
            continue
        report.counts["records"] += 1
        batch.append(item)
        if len(batch) == BATCH:
            _compare(archive, report, batch)
            batch = []
    _compare(archive, report, batch)
    versions_by_offset = archive.parts.index.tables_by_offset(segment_id) if gaps else {}
    for gap in gaps:
        if versions_by_offset.get(gap.offset) != "history":
            report.add(Finding(segment_id, gap.offset, gap.reason))


def _records(archive: Archive, segment_id: int, mark: SegmentMark) -> Iterator[Record | Damage]:
    """The records that the index should know, and, in a segment without a footer, the gaps between them."""
    data = archive.parts.segments.open(segment_id)
    sealed = hints.read_hints(data, segment_id)
    if sealed is not None:
        # A writer may have failed to apply a record. It did not acknowledge it, and the next start replays it.
        yield from (record for record in sealed if record.position.offset < mark.indexed_bytes)
        return
    walk = segment.Walk(data, segment.read_segment_header(data, segment_id), end=mark.indexed_bytes)
    yield from walk
    if walk.tail < mark.indexed_bytes:
        reason = walk.torn or "records are missing"
        yield Damage(segment_id, walk.tail, mark.indexed_bytes - walk.tail, reason)


def _compare(archive: Archive, report: CheckReport, records: list[Record]) -> None:
    for record, fault in archive.parts.index.wrong_records(records):
        position = record.position
        uid = record.key.decode("utf-8", "replace") if record.kind == Kind.INSTANCE else ""
        report.add(Finding(position.segment_id, position.offset, _with_uid(fault, uid)))


def _check_index(archive: Archive, report: CheckReport, payloads: bool, progress: Progress | None) -> None:
    total = archive.stats()["instances"]
    for number, instance in enumerate(archive.parts.index.current_instances()):
        if progress is not None and number % 100 == 0:
            progress("instances", number, total)
        report.counts["instances"] += 1
        _check_instance(archive, report, instance, payloads, is_current=True)
    for rows in archive.parts.index.unreferenced_rows():
        for instance, fault in rows:
            report.add(Finding(*instance.position[:2], _with_uid(fault, instance.sop_instance_uid)))
    for version in archive.parts.index.kept_versions():
        report.counts["kept_aside"] += 1
        _check_instance(archive, report, version, payloads, is_current=False)
    _check_trash(archive, report, payloads)
    for item in archive.parts.index.quarantined():
        report.counts["quarantined"] += 1
        try:
            _read(archive, item.position, payloads)
        except SegmentGone:
            continue  # dropped or moved since it was listed; a missing segment is another finding
        except CorruptRecord as error:
            uid = item.sop_instance_uid.decode("utf-8", "replace")
            report.add(Finding(error.segment_id, error.offset, _with_uid(str(error), uid)))
    if progress is not None:
        progress("instances", total, total)


def _check_trash(archive: Archive, report: CheckReport, payloads: bool) -> None:
    index = archive.parts.index
    for entry in trash.entries(archive.parts):
        for instance in index.in_trash(entry):
            report.counts["trashed"] += 1
            try:
                _read(archive, instance.position, payloads)
            except CorruptRecord as error:
                # It may have been moved, restored or deleted since it was listed.
                listed = index.trash_entry(entry.stamp)
                if listed is not None and any(instance.position == one.position for one in index.in_trash(listed)):
                    report.add(
                        Finding(error.segment_id, error.offset, _with_uid(str(error), instance.sop_instance_uid))
                    )


def _check_instance(
    archive: Archive, report: CheckReport, instance: Instance, payloads: bool, *, is_current: bool
) -> None:
    try:
        archive.retrieval.following(instance, lambda position: _read(archive, position, payloads))
        # What is elsewhere is paid for by the byte: only whoever asks for payloads reads it.
        if is_current and (payloads or archive.parts.reader.where(instance.position) is Where.LOCAL):
            _check_data_set(archive, report, instance)
    except CorruptRecord as error:
        versions = archive.parts.index.versions(instance.sop_instance_uid.encode())
        if any(version.position[:2] == instance.position[:2] for version in versions):
            report.add(Finding(error.segment_id, error.offset, _with_uid(str(error), instance.sop_instance_uid)))


def _check_data_set(archive: Archive, report: CheckReport, instance: Instance) -> None:
    """Raises CorruptRecord."""
    try:
        head = completeness.head_of(archive.parts.reader, instance)
    except DataSetError:
        return  # stored by an earlier version, which checked less
    position, uid = instance.position, instance.sop_instance_uid
    if head.cut:
        report.counts["truncated"] += 1
        report.add(Finding(position.segment_id, position.offset, _with_uid(f"the data set {head.cut}", uid)))
        return
    difference = completeness.pixel_difference(head)
    if difference:
        report.counts["pixel_data_length_differs"] += 1
        report.oddities.append(Finding(position.segment_id, position.offset, _with_uid(difference, uid)))


def _read(archive: Archive, position: Position, payloads: bool) -> None:
    """Raises CorruptRecord."""
    if payloads:
        archive.parts.reader.verify(position)
    else:
        archive.parts.reader.read_record(position)


def _with_uid(text: str, sop_instance_uid: str) -> str:
    return f"{text} (SOP Instance UID {sop_instance_uid})" if sop_instance_uid else text
