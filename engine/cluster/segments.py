"""Segments: which sealed segments the archive has, for nodes that come later than the groups in the feed.

    (none) ──its node seals it──► sealed ──it is in the object store──► published ──compaction──► removed
                                    └─────────────────────────────────────────────────────────────────┘

A state only goes forward. A removed one stays: its id is never given again, and nodes that have a copy learn of it.
What is noted carries the epoch of the node that says so, and an old one is refused as in `chains`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Literal

from engine.cluster.database import Database
from engine.cluster.unsigned import signed, unsigned

SegmentState = Literal["sealed", "published", "removed"]
SEGMENTS_READ = 1000
"""Segments read at once."""


@dataclass(frozen=True, slots=True)
class NotedSegment:
    """A segment that does not grow any more."""

    segment_id: int
    salt: int
    size: int
    """Bytes."""
    record_count: int
    crc: int
    """crc32c of the whole file."""
    state: SegmentState

    @property
    def name(self) -> tuple[int, int]:
        """What tells it from all others, in order."""
        return self.segment_id, self.salt


class Segments:
    """The sealed segments of an archive. Thread-safe."""

    def __init__(self, database: Database, archive: uuid.UUID) -> None:
        self._database = database
        self._archive = archive

    def note(self, slot: int, epoch: int, segment: NotedSegment) -> SegmentState:
        """Notes a segment, by the node of a slot; returns its state, which may be further on. Raises Fenced;
        ClusterError if it was noted with other bytes; ClusterUnreachable; UnknownOutcome (note it again)."""
        rows = self._database.change(
            "select filmroom.segment_note(%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [self._archive, slot, epoch, signed(segment.segment_id), signed(segment.salt), segment.size,
             segment.record_count, segment.crc, segment.state],
        )  # fmt: skip
        state: SegmentState = rows[0][0]
        return state

    def after(self, slot: int, segment_id: int | None = None, limit: int = SEGMENTS_READ) -> list[NotedSegment]:
        """The next segments of a slot behind an id, ascending; None: from the first on. Raises ClusterUnreachable."""
        # Ids of one slot have the same sign as bigint, so that their order is that of the numbers.
        rows = self._database.ask(
            "select segment, salt, bytes, record_count, crc, state from filmroom.segments"
            " where archive = %s and slot = %s and (%s::bigint is null or segment > %s::bigint)"
            " order by segment, salt limit %s",
            [self._archive, slot, *[None if segment_id is None else signed(segment_id)] * 2, limit],
        )
        return [NotedSegment(unsigned(row[0]), unsigned(row[1]), *row[2:]) for row in rows]
