"""Storage commitment reports that peers have not taken yet, as plain data: list them, retry or drop them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.archive.admin.times import time_text
from engine.archive.commitment.transactions import Attempts, Transactions
from engine.errors import CommitmentError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.archive.archive import Archive


def list_all(archive: Archive) -> list[dict[str, Any]]:
    """The requests of an open archive whose reports wait."""
    return listed(archive.parts.layout.data)


def listed(data: Path) -> list[dict[str, Any]]:
    """The requests whose reports are not delivered yet, the oldest first. Reads no index."""
    transactions = Transactions.existing(data)
    attempts = transactions.load_attempts()
    rows: list[dict[str, Any]] = []
    for heading in transactions.headings().values():
        tried = attempts.get(heading.identifier) or Attempts()
        rows.append(
            {
                "id": heading.identifier,
                "calling_ae_title": heading.calling_ae_title,
                "transaction_uid": heading.transaction_uid,
                "instances": heading.instance_count,
                "received": time_text(heading.received_ns),
                "attempts": tried.count,
                "next_attempt": time_text(tried.due_ns) if tried.due_ns else None,
                "error": "its file is damaged: it can only be dropped" if heading.is_damaged else tried.error,
            }
        )
    return rows


def retry(data: Path, identifiers: Sequence[str]) -> int:
    """Makes these reports, or all, due at once; returns their number. Raises CommitmentError."""
    transactions = Transactions.existing(data)
    waiting = transactions.headings()
    if unknown := [identifier for identifier in identifiers if identifier not in waiting]:
        raise CommitmentError(f"there is no storage commitment {', '.join(map(repr, unknown))}; nothing was retried")
    chosen = list(identifiers) or list(waiting)
    for identifier in chosen:
        transactions.ask_retry(identifier)
    return len(chosen)


def drop(data: Path, identifier: str) -> None:
    """Removes one request; its peer gets no report. Raises CommitmentError."""
    Transactions.existing(data).drop(identifier)
