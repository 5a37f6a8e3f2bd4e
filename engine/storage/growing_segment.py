"""GrowingSegment: a segment that its log still writes, and how far it is written."""

from __future__ import annotations

from engine.storage.segment import FIRST_RECORD, SegmentHeader

HINT_BYTES_MAX = 64 << 20
"""Record heads that a writer keeps in memory for one footer; a segment of many small records rolls here."""


class GrowingSegment:
    """One open segment file. Only its log touches it."""

    __slots__ = (
        "closing",
        "fd",
        "header",
        "heads",
        "heads_bytes",
        "is_allocated",
        "is_prewriting",
        "limit",
        "path",
        "payload_bytes",
        "prewritten",
        "seed",
        "segment_id",
        "sequence",
        "synced",
        "users",
        "written",
    )

    def __init__(self, header: SegmentHeader, fd: int, path: str) -> None:
        self.header = header
        self.segment_id = header.segment_id
        self.seed = header.seed
        self.fd = fd
        self.path = path
        self.limit = 0
        """The limit for the end of records and footer."""
        self.prewritten = 0
        """Below this offset the blocks have been written once: syncing over them costs no journal commit."""
        self.is_prewriting = False
        """Whether zeros are being written after `prewritten`: write no record there until that is over."""
        self.is_allocated = False
        """Whether the disk has allocated everything up to the limit."""
        self.written = FIRST_RECORD
        """The end of the records."""
        self.synced = 0
        """The end of the records that are on stable storage."""
        self.sequence = 0
        """The sequence number of the next record."""
        self.heads: list[bytearray] = []
        """The heads of all records, for the footer."""
        self.heads_bytes = 0
        self.payload_bytes = 0
        self.users = 0
        """The number of syncs that are using the descriptor."""
        self.closing = False
        """Whether the last user closes the descriptor."""

    def has_room(self, record_bytes: int, head_bytes: int) -> bool:
        """Whether a record and the footer after it fit."""
        records_end = self.written + record_bytes
        if self.is_prewriting and records_end > self.prewritten:
            return False
        return records_end + self.heads_bytes + head_bytes <= self.limit and self.heads_bytes <= HINT_BYTES_MAX
