"""The log against the index, both ways: what `filmroom check` says, and what every crash test asks.

    log → index    every record of a segment, as far as the index says it has it, is known to the index
    index → log    every current instance's record is there, whole and the same; with `payloads` its bytes too

Repairs nothing. Runs beside a server: what is stored meanwhile may or may not be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import CorruptRecord, StorageError, TornTail
from engine.index import audit
from engine.index.types import SegmentMark
from engine.storage import hints, segment
from engine.storage.log import list_segments
from engine.storage.record import Record

if TYPE_CHECKING:
    from engine.archive.archive import Archive

Progress = Callable[[str, int, int], None]

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    segment_id: int
    offset: int
    what: str

    def __str__(self) -> str:
        return f"segment {self.segment_id:016x} offset {self.offset}: {self.what}"


@dataclass(slots=True)
class CheckReport:
    """What a check has looked at and found."""

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"segments": 0, "records": 0, "instances": 0})


def check(archive: Archive, *, payloads: bool, progress: Progress | None = None) -> CheckReport:
    """Compares; `payloads` reads every stored byte."""
    report = CheckReport()
    _check_log(archive, report, progress)
    _check_index(archive, report, payloads, progress)
    return report


def _check_log(archive: Archive, report: CheckReport, progress: Progress | None) -> None:
    marks = archive.index.segment_marks()
    present = list_segments(archive.layout.segments, archive.files)
    for segment_id in marks.keys() - set(present):
        if marks[segment_id].live_count:
            report.findings.append(Finding(segment_id, 0, "the segment file is gone"))
    for done, segment_id in enumerate(present):
        if progress is not None:
            progress("segments", done, len(present))
        mark = marks.get(segment_id)
        if mark is None:
            continue  # new: nothing of it has been committed when we looked
        report.counts["segments"] += 1
        try:
            _check_segment(archive, report, segment_id, mark)
        except (CorruptRecord, TornTail) as error:
            report.findings.append(Finding(error.segment_id, error.offset, str(error)))
        except (OSError, StorageError) as error:
            report.findings.append(Finding(segment_id, 0, str(error)))


def _check_segment(archive: Archive, report: CheckReport, segment_id: int, mark: SegmentMark) -> None:
    batch: list[Record] = []
    for record in _records(archive, segment_id, mark):
        report.counts["records"] += 1
        batch.append(record)
        if len(batch) == BATCH:
            _compare(archive, report, batch)
            batch = []
    _compare(archive, report, batch)


def _records(archive: Archive, segment_id: int, mark: SegmentMark) -> Iterator[Record]:
    fd = archive.files.open(segment.segment_path(archive.layout.segments, segment_id), os.O_RDONLY)
    try:
        sealed = hints.read_hints(archive.files, fd, segment_id)
        if sealed is not None:
            yield from sealed
        else:
            yield from segment.scan(archive.files, fd, segment_id, segment.FIRST_RECORD, end=mark.indexed_bytes)
    finally:
        archive.files.close(fd)


def _compare(archive: Archive, report: CheckReport, records: list[Record]) -> None:
    for record in audit.unknown_records(archive.index, records):
        position = record.position
        report.findings.append(Finding(position.segment_id, position.offset, "the index does not know this record"))


def _check_index(archive: Archive, report: CheckReport, payloads: bool, progress: Progress | None) -> None:
    total = archive.stats()["instances"]
    for done, instance in enumerate(audit.current_instances(archive.index)):
        if progress is not None and done % 100 == 0:
            progress("instances", done, total)
        report.counts["instances"] += 1
        try:
            if payloads:
                archive.reader.verify(instance.position)
            else:
                archive.reader.read_record(instance.position)
        except CorruptRecord as error:
            report.findings.append(
                Finding(error.segment_id, error.offset, f"{error} (SOP Instance UID {instance.sop_instance_uid})")
            )
    if progress is not None:
        progress("instances", total, total)
