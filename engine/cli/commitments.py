"""The part of `backend` for storage commitment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.archive.admin.times import time_text
from engine.config import Config
from engine.errors import CommitmentError

if TYPE_CHECKING:
    from engine.archive.commitment.transactions import Transactions


def listed(config: Config) -> list[dict[str, Any]]:
    """The requests whose reports are not delivered yet, the oldest first. Reads no index."""
    from engine.archive.commitment.transactions import Attempts

    transactions = _transactions(config)
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


def retry(config: Config, identifiers: list[str]) -> int:
    """Makes these reports, or all, due at once; returns their number. Raises CommitmentError."""
    transactions = _transactions(config)
    waiting = transactions.headings()
    if unknown := [identifier for identifier in identifiers if identifier not in waiting]:
        raise CommitmentError(f"there is no storage commitment {', '.join(map(repr, unknown))}; nothing was retried")
    chosen = identifiers or list(waiting)
    for identifier in chosen:
        transactions.ask_retry(identifier)
    return len(chosen)


def drop(config: Config, identifier: str) -> None:
    """Removes one request; its peer gets no report. Raises CommitmentError."""
    _transactions(config).drop(identifier)


def _transactions(config: Config) -> Transactions:
    from engine.archive.commitment.transactions import Transactions

    return Transactions.existing(config.data)
