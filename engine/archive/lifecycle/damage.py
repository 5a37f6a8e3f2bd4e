"""Turns the faults that a scrub finds in one segment into rows of damage in the index, by SOP Instance UID.

It reports every fault, except those in records that nobody needs and those that `storage.repair` repairs: headers,
footers, and heads of records without a payload. `archive.damage` is for a single record that a reader could not read.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from engine import log
from engine.archive.damage import DamagedPlace, lies_at
from engine.storage import repair
from engine.storage.inspection import Fault, Part
from engine.storage.record import Kind, Position, Record

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.index.format.types import DamageRow

logger = log.get("archive.damage")

_UID = re.compile(rb"[0-9]+(\.[0-9]+)*")


class SegmentDamage:
    """The damage of one segment, collected from the faults of a scrub."""

    def __init__(self, archive: Archive, segment_id: int, *, start_offset: int, clock_ns: Callable[[], int]) -> None:
        self.new: list[DamagedPlace] = []
        """New damage. The caller reports it and empties the list."""
        self.damaged = 0
        """Number of damaged places that are needed, including those known before."""
        self.dead = 0
        """Number of damaged records that nobody needs: duplicates, and replaced, healed or deleted ones."""
        self.repaired = 0
        """Number of damaged parts that were restored from another place in the segment."""
        self._index = archive.parts.index
        self._files = archive.parts.files
        self._directory = archive.parts.layout.segments
        self._segment_id = segment_id
        self._start_offset = start_offset
        self._clock_ns = clock_ns
        self._rows: dict[int, DamageRow] = {
            row.offset: row for row in archive.parts.index.damage() if row.segment_id == segment_id
        }
        self._offsets: set[int] = set()
        self._gaps: list[Fault] = []

    def take(self, fault: Fault) -> None:
        """Handles one fault; `name_gaps` handles gaps."""
        if fault.part is Part.PADDING:
            logger.warning("stored padding is not zero", segment=f"{self._segment_id:016x}", offset=fault.offset)
        elif fault.part is Part.GAP:
            self._gaps.append(fault)
        elif fault.part is Part.INDEX:
            self._note(fault.offset, fault.key, fault.what)
        elif self._is_repaired(fault):
            self.repaired += 1
            logger.warning(
                "segment repaired",
                segment=f"{self._segment_id:016x}",
                offset=fault.offset,
                part=fault.part.value,
                reason=fault.what,
            )
        elif fault.record is None:
            self._note(fault.offset, b"", fault.what)
        elif self._is_needed(fault.record):
            self._note(fault.offset, fault.record.key, fault.what)
        else:
            self.dead += 1

    def _is_repaired(self, fault: Fault) -> bool:
        """Repairs everything but instances and quarantined records, which a re-send heals."""
        files, directory = self._files, self._directory
        if fault.part is Part.HEADER:
            return repair.repair_header(files, directory, self._segment_id)
        if fault.part is Part.FOOTER:
            return repair.repair_footer(files, directory, self._segment_id, fault.offset)
        is_bare = fault.record is not None and fault.record.kind not in (Kind.INSTANCE, Kind.QUARANTINED)
        return is_bare and fault.record is not None and repair.repair_head(files, directory, fault.record)

    def name_gaps(self) -> None:
        """Reports the records that lay in unreadable gaps: walks the whole index once to find them."""
        gaps, self._gaps = self._gaps, []
        if not gaps:
            return
        reported_offsets: set[int] = set()
        for key, position in self._placed():
            if position.segment_id != self._segment_id:
                continue
            for gap in gaps:
                if gap.offset <= position.offset < gap.offset + gap.length_bytes:
                    reported_offsets.add(gap.offset)
                    self._note(position.offset, key, gap.what)
        unreported = [gap for gap in gaps if gap.offset not in reported_offsets]
        versions_by_offset = self._index.tables_by_offset(self._segment_id) if unreported else {}
        for gap in unreported:
            table = versions_by_offset.get(gap.offset, "")
            if table == "history" or (not table and self._is_healed(gap)):
                self.dead += 1
                continue
            key = gap.key if gap.record is not None or _UID.fullmatch(gap.key) else b""
            self._note(gap.offset, key, f"{gap.what} ({table})" if table else gap.what)

    def finish(self) -> None:
        """Ends the segment: clears damage of records that are whole again or no longer needed."""
        self.name_gaps()
        for offset, row in self._rows.items():
            if offset >= self._start_offset and offset not in self._offsets:
                self._index.clear_damage(self._segment_id, offset)
                logger.info(
                    "damage cleared",
                    sop_instance_uid=row.sop_instance_uid.decode("ascii", "replace"),
                    segment=f"{self._segment_id:016x}",
                    offset=offset,
                )

    def _note(self, offset: int, key: bytes, reason: str) -> None:
        self._offsets.add(offset)
        self.damaged += 1
        version = self._rows.get(offset)
        if version is not None and version.sop_instance_uid == key:
            return
        self._index.note_damage(self._segment_id, offset, key, reason, self._clock_ns())
        damaged = DamagedPlace(key.decode("ascii", "replace"), self._segment_id, offset, reason)
        damaged.log()
        self.new.append(damaged)

    def _is_needed(self, record: Record) -> bool:
        if record.kind == Kind.INSTANCE:
            return lies_at(self._index, record.key, record.position)
        return self._index.alive(record.position.segment_id, [record])[0]

    def _placed(self) -> Iterator[tuple[bytes, Position]]:
        """Key and position of every record that is needed."""
        index = self._index
        return itertools.chain(
            ((instance.sop_instance_uid.encode(), instance.position) for instance in index.current_instances()),
            ((instance.sop_instance_uid.encode(), instance.position) for instance in index.kept_versions()),
            ((instance.sop_instance_uid, instance.position) for instance in index.quarantined()),
        )

    def _is_healed(self, gap: Fault) -> bool:
        """Whether to ignore a gap that the index does not know, since its instance lies elsewhere."""
        is_instance = gap.record is None or gap.record.kind == Kind.INSTANCE
        return is_instance and bool(gap.key) and self._index.locate(gap.key) is not None
