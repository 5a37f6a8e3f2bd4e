"""The part of `backend` for merges of patients that messages have said."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from engine import audit
from engine.cli import backend, worklist
from engine.config import Config

if TYPE_CHECKING:
    from engine.orders.rows import MergeRow
    from engine.orders.values import Identifier


def listed(config: Config) -> list[dict[str, Any]]:
    """All merges, the latest first."""
    with worklist.opened(config) as orders:
        return [_facts(number, row) for number, row in orders.merges()]


def undo(config: Config, number: int, *, reason: str) -> dict[str, Any]:
    """Undoes a merge; returns it with what was changed. Raises UpdateRefused."""
    from engine.orders.values import Source

    with worklist.opened(config) as orders:
        row = dict(orders.merges()).get(number)
        if row is not None:
            issuer = row.prior.issuer.name or row.prior.issuer.universal_id
            backend.record_patient(audit.Patient(row.prior.value, issuer))
        applied = orders.unmerge(number, Source(name=backend.operator().actor), reason)
        changes = [f"{change.kind.value} {change.key} {change.action}" for change in applied.changes]
        return {**_facts(number, dict(orders.merges())[number]), "changes": changes, "warnings": list(applied.warnings)}


def _facts(number: int, row: MergeRow) -> dict[str, Any]:
    return {
        "number": number,
        "time": _time(row.time),
        "prior": _patient(row.prior),
        "survivor": _patient(row.survivor),
        "by": row.by,
        "messages": list(row.references),
        "undone_by": row.undone_by,
        "undone": _time(row.undone),
        "reason": row.reason,
    }


def _patient(identifier: Identifier) -> str:
    issuer = identifier.issuer.name or identifier.issuer.universal_id
    return f"{identifier.value}^^^{issuer}" if issuer else identifier.value


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds") if seconds else ""
