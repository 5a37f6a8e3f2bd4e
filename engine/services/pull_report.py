"""What came of a pull: counts, and what did not come. Counts nothing by itself (`pull`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

NAMED_MAX: Final = 10_000
"""Failed instances that are named; further ones are counted."""


@dataclass(slots=True)
class PullReport:
    """What came of it; true at any time, also when it was interrupted."""

    studies: int = 0
    """That matched and have been looked at."""
    studies_here: int = 0
    """Of these, those that were here already."""
    here: int = 0
    """Instances that were here already."""
    stored: int = 0
    duplicates: int = 0
    """That came though they were here, with the same bytes."""
    versions: int = 0
    """That came with other bytes than the one that is here, and stand aside."""
    unwanted: int = 0
    """That the peer sent without being asked."""
    bytes: int = 0
    failed_count: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID → reason, of up to NAMED_MAX."""
    not_found: list[str] = field(default_factory=list)
    """Studies that were named and that the peer has not got."""
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def arrived(self) -> int:
        """What came."""
        return self.stored + self.duplicates + self.versions

    def fail(self, sop_instance_uid: str, why: str) -> None:
        """One did not come."""
        self.failed_count += 1
        if len(self.failed) < NAMED_MAX:
            self.failed[sop_instance_uid] = why
