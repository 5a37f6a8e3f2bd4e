"""The progress of a replication, as commands show it and as its status file keeps it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(slots=True)
class Status:
    """The progress of a replication."""

    destination: str
    state: str = "catching up"
    error: str = ""
    lag_bytes: int = 0
    """Bytes that the destination lacked at `updated`."""
    caught_up_s: float = 0.0
    """Unix time up to which the destination has everything; 0: not known."""
    shipped_bytes: int = 0
    """By this process, without the audit log: neither is it in `lag_bytes`, since each command adds to it."""
    audit_bytes: int = 0
    """Of the audit log, by this process."""
    segments: int = 0
    findings: list[str] = field(default_factory=list)
    """Segments that cannot be read at the source."""
    updated_s: float = 0.0

    def describe(self, now_s: float) -> dict[str, object]:
        """As it is shown and kept."""
        is_known = self.caught_up_s > 0
        return {
            "destination": self.destination,
            "state": self.state,
            "error": self.error,
            "lag_bytes": self.lag_bytes,
            "lag_s": round(max(0.0, now_s - self.caught_up_s), 1) if is_known else None,
            "caught_up": datetime.fromtimestamp(self.caught_up_s, UTC).isoformat() if is_known else None,
            "shipped_bytes": self.shipped_bytes,
            "audit_bytes": self.audit_bytes,
            "segments": self.segments,
            "findings": self.findings[:100],
            "updated": datetime.fromtimestamp(self.updated_s, UTC).isoformat(),
            "pid": os.getpid(),
        }
