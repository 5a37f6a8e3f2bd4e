"""Compares the index with the records of one segment. The scrub does this after it has verified the segment's bytes.

The index must know every record at its place. The row of a current instance, and the levels above it, must agree with
its record (`Catalog.wrong_records`). This module finds records without a row; `filmroom check`, which goes over all
rows, finds rows without a record. Findings are those of a scrub: they are logged, and cleared when a later pass finds
the index right. The work counts against the speed of the scrub.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from engine.errors import CorruptRecord, IndexDamaged
from engine.index.format.types import SegmentMark
from engine.storage import hints
from engine.storage.inspection import Fault, Part, Step
from engine.storage.record import Kind, Record
from engine.storage.segment import Damage, Walk, read_segment_header

if TYPE_CHECKING:
    from engine.archive.archive import Archive

RECORDS = 200
"""Records compared in one step: some milliseconds."""

WORK_BYTES = 1024
"""Bytes that comparing a record counts for, in addition to its head, for the speed of the scrub."""


def steps_of_segment(archive: Archive, segment_id: int, mark: SegmentMark) -> Iterator[Step]:
    """Compares the records that the index should know, a batch a step."""
    records = _records(archive, segment_id, mark)
    while batch := list(islice(records, RECORDS)):
        head_bytes = sum(each.position.head_bytes for each in batch)
        try:
            faults = tuple(_fault(record, reason) for record, reason in archive.parts.index.wrong_records(batch))
        except IndexDamaged as error:
            offset = batch[0].position.offset
            reason = f"the index, for this record or one of the next {RECORDS}: {error}"
            faults = (Fault(Part.INDEX, offset, 0, reason),)
        yield Step(mark.indexed_bytes, 0, faults, compared_bytes=head_bytes + WORK_BYTES * len(batch))


def _fault(record: Record, reason: str) -> Fault:
    key = record.key if record.kind == Kind.INSTANCE else b""
    return Fault(Part.INDEX, record.position.offset, 0, reason, record, key)


def _records(archive: Archive, segment_id: int, mark: SegmentMark) -> Iterator[Record]:
    """Whole records before the mark, from the footer or by a walk; none if the segment is gone or damaged."""
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
        return  # the inspection has reported damage to the segment itself
