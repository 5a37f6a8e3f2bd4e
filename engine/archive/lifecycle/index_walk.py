"""The index against the log, as the scrub does it: after the bytes of a segment, what the index says of its records.

Every record of the segment must be known where it lies, and the row of a current instance say what the record says
(`Catalog.wrong_records`), up to the levels above it. A row that leads nowhere is found by `filmroom check`, which goes
over all rows; the record that it should lead to is found here. Findings are those of a scrub: named, logged, gone when
a later pass finds the index right. It takes its share of the scrub's speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from engine.errors import CorruptRecord, IndexDamaged
from engine.index.format.types import SegmentMark
from engine.storage import hints
from engine.storage.inspection import Fault, Part, Step
from engine.storage.record import HEADER_BYTES, Kind, Record
from engine.storage.segment import Damage, Walk, read_segment_header

if TYPE_CHECKING:
    from engine.archive.archive import Archive

RECORDS = 200
"""Compared in one step: some milliseconds."""

WORK_BYTES = 1024
"""What looking at a record counts for beside its head, for the speed of the scrub."""


def steps_of_segment(archive: Archive, segment_id: int, mark: SegmentMark) -> Iterator[Step]:
    """Compares the records that the index should know, some at a time."""
    records = _records(archive, segment_id, mark)
    while batch := list(islice(records, RECORDS)):
        head_bytes = sum(HEADER_BYTES + each.position.key_length + each.position.meta_length for each in batch)
        try:
            faults = tuple(_fault(record, what) for record, what in archive.parts.index.wrong_records(batch))
        except IndexDamaged as error:
            offset = batch[0].position.offset
            what = f"the index, of this record or one of the {RECORDS} after: {error}"
            faults = (Fault(Part.INDEX, offset, 0, what),)
        yield Step(mark.indexed_bytes, 0, faults, compared_bytes=head_bytes + WORK_BYTES * len(batch))


def _fault(record: Record, what: str) -> Fault:
    key = record.key if record.kind == Kind.INSTANCE else b""
    return Fault(Part.INDEX, record.position.offset, 0, what, record, key)


def _records(archive: Archive, segment_id: int, mark: SegmentMark) -> Iterator[Record]:
    """Whole records before the mark: from the footer, else by a walk; none of a segment that is gone or damaged."""
    try:
        data = archive.parts.segments.open(segment_id)
        sealed = hints.read_hints(data, segment_id)
        if sealed is not None:
            yield from (record for record in sealed if record.position.offset < mark.indexed_bytes)
            return
        for item in Walk(data, read_segment_header(data, segment_id), end=mark.indexed_bytes):
            if not isinstance(item, Damage):
                yield item
    except (CorruptRecord, OSError):
        return  # damage to the segment itself has been named by its inspection
