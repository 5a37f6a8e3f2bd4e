"""The part of `backend` for merges of patients that messages have said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine import audit
from engine.cli import backend, worklist
from engine.config import Config

if TYPE_CHECKING:
    from engine.orders.rows import MergeRow


def listed(config: Config) -> list[dict[str, Any]]:
    """All merges, the latest first."""
    with worklist.opened(config) as orders:
        return [_facts(number, row) for number, row in orders.merges()]


def undo(config: Config, number: int, *, reason: str) -> dict[str, Any]:
    """Undoes a merge; returns it with what was changed. Raises UpdateRefused."""
    from engine.orders.merging import issuer_of
    from engine.orders.values import Source

    with worklist.opened(config) as orders:
        row = dict(orders.merges()).get(number)
        if row is not None:
            backend.record_patient(audit.Patient(row.prior.value, issuer_of(row.prior)))
        applied = orders.unmerge(number, Source(name=backend.operator().actor), reason)
        changes = [f"{change.kind.value} {change.key} {change.action}" for change in applied.changes]
        return {**_facts(number, dict(orders.merges())[number]), "changes": changes, "warnings": list(applied.warnings)}


def _facts(number: int, row: MergeRow) -> dict[str, Any]:
    """As everywhere, but with patients as the command line writes them."""
    from engine.orders.merging import described

    facts = described(number, row)
    return facts | {name: _written(facts[name]) for name in ("prior", "survivor")}


def _written(patient: dict[str, str]) -> str:
    issuer = patient["IssuerOfPatientID"]
    return f"{patient['PatientID']}^^^{issuer}" if issuer else patient["PatientID"]
