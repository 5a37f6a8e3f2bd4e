"""Times in the API: ISO 8601 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def text_of(seconds: float | None) -> str | None:
    """A time in seconds since 1970; None or 0: none."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None


def seconds_of(moment: datetime) -> float:
    """Seconds since 1970; a time without a zone is in UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
