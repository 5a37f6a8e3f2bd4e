"""The part of `backend` for storage commitment."""

from __future__ import annotations

from typing import Any

from engine.config import Config


def listed(config: Config) -> list[dict[str, Any]]:
    """The requests whose reports are not delivered yet, the oldest first. Reads no index."""
    from engine.archive.admin import commitments

    return commitments.listed(config.data)


def retry(config: Config, identifiers: list[str]) -> int:
    """Makes these reports, or all, due at once; returns their number. Raises CommitmentError."""
    from engine.archive.admin import commitments

    return commitments.retry(config.data, identifiers)


def drop(config: Config, identifier: str) -> None:
    """Removes one request; its peer gets no report. Raises CommitmentError."""
    from engine.archive.admin import commitments

    commitments.drop(config.data, identifier)
