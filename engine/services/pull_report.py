"""The results of a pull: counts, and the failed instances."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

NAMED_MAX: Final = 10_000
"""Failed instances that the report names; further ones are only counted."""


@dataclass(slots=True)
class PullReport:
    """The results of a pull; correct at any time, also after an interruption."""

    studies: int = 0
    """Matching studies that were planned."""
    studies_here: int = 0
    """Those of them that were here already."""
    here: int = 0
    """Instances that were here already."""
    stored: int = 0
    duplicates: int = 0
    """Instances that arrived though they were here, with the same bytes."""
    versions: int = 0
    """Instances that arrived with other bytes than the stored ones, and were kept aside."""
    unwanted: int = 0
    """Instances that the peer sent without a request."""
    bytes: int = 0
    failed_count: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID → reason, for up to NAMED_MAX instances."""
    not_found: list[str] = field(default_factory=list)
    """Requested studies that the peer does not have."""
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def arrived(self) -> int:
        """Instances that arrived."""
        return self.stored + self.duplicates + self.versions

    def fail(self, sop_instance_uid: str, why: str) -> None:
        """Counts an instance that did not arrive."""
        self.failed_count += 1
        if len(self.failed) < NAMED_MAX:
            self.failed[sop_instance_uid] = why
