"""Damage: stored bytes that are not as they were written, as rows of the index by SOP Instance UID.

    found by         noted by
    a reader         `note_damage`: the instance that it could not read, unless it lies elsewhere by now
    a scrub          `lifecycle.damage.SegmentDamage`: the faults of a whole segment

A row stays until a re-send has healed the instance, or a scrub finds the place whole or no longer needed. Each new row
is one log line with UID, segment and offset, and with nothing from the data set.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from engine import log
from engine.errors import CorruptRecord, EngineError, for_log
from engine.index.catalog import Catalog
from engine.index.format.types import Instance
from engine.storage.record import Position

logger = log.get("archive.damage")


@dataclass(frozen=True, slots=True)
class DamagedPlace:
    """One fault of a segment: bytes that are not as they were written."""

    sop_instance_uid: str
    """Empty: the fault lies in no record, or in an unknown one."""
    segment_id: int
    offset: int
    what: str

    def __str__(self) -> str:
        name = f" (SOP Instance UID {self.sop_instance_uid})" if self.sop_instance_uid else ""
        return f"segment {self.segment_id:016x} offset {self.offset}: {self.what}{name}"

    def log(self) -> None:
        """Logs the fault as an error, in one line."""
        logger.error(
            "stored bytes are damaged",
            sop_instance_uid=self.sop_instance_uid,
            segment=f"{self.segment_id:016x}",
            offset=self.offset,
            reason=self.what,
        )


def note_damage(index: Catalog, instance: Instance, error: CorruptRecord) -> None:
    """Notes and logs, once, that an instance could not be read, unless it lies elsewhere by now."""
    uid = instance.sop_instance_uid.encode()
    segment_id, offset = instance.position[:2]
    try:
        is_known = any((row.segment_id, row.offset) == (segment_id, offset) for row in index.damage())
        if is_known or not lies_at(index, uid, instance.position):
            return
        index.note_damage(segment_id, offset, uid, str(error), time.time_ns())
    except EngineError as failure:
        # The instance stays damaged, so its next reader notes it again.
        logger.error("damage could not be noted", reason=for_log(failure))
    DamagedPlace(instance.sop_instance_uid, segment_id, offset, str(error)).log()


def lies_at(index: Catalog, sop_instance_uid: bytes, position: Position) -> bool:
    """Whether the current instance of a UID, or one of its other versions, is the record at this position."""
    return any(version.position[:2] == position[:2] for version in index.versions(sop_instance_uid))
