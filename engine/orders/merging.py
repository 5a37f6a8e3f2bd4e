"""Merges of patients as records: who became whom, what moved with it, and the messages that said so.

A message that said a merge which was undone (`unmerging`) does not make it again when it is replayed; a new one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from engine.orders.names import id_key, name_key
from engine.orders.rows import MergeRow, PatientRow
from engine.orders.transactions import Reading
from engine.orders.values import Identifier
from engine.orders.work import Work, is_same

REFERENCES_MAX = 20
"""Messages that said one merge, and are remembered with it."""


def listed(reading: Reading, before: int) -> Iterator[tuple[int, MergeRow]]:
    """The merges below a number, the latest first."""
    return reading.rows_before(reading.database.merges, before)


def described(number: int, row: MergeRow) -> dict[str, Any]:
    """A merge as plain data, for people and programs."""
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


def _patient(identifier: Identifier) -> dict[str, str]:
    return {"PatientID": identifier.value, "IssuerOfPatientID": issuer_of(identifier)}


def issuer_of(identifier: Identifier) -> str:
    """The name of its assigning authority, else its universal id."""
    return identifier.issuer.name or identifier.issuer.universal_id


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds") if seconds else ""


def of_prior(reading: Reading, prior: Identifier, survivor: Identifier) -> list[tuple[int, MergeRow]]:
    """The merges of one identifier into another."""
    table = reading.database.merges
    found = ((number, reading.get(table, id_key(number))) for number in reading.ids(name_key("x", prior.value)))
    return [
        (number, row)
        for number, row in found
        if row is not None and is_same(row.prior, prior) and is_same(row.survivor, survivor)
    ]


def is_undone(work: Work, prior: Identifier, survivor: Identifier) -> bool:
    """Whether this message said a merge that somebody has undone."""
    reference = work.source.reference
    return bool(reference) and any(
        row.undone_by and reference in row.references for _, row in of_prior(work.writing, prior, survivor)
    )


def note_again(work: Work, prior: Identifier, survivor: Identifier) -> None:
    """A further message says a merge that is in force."""
    reference = work.source.reference
    for number, row in of_prior(work.writing, prior, survivor):
        if not row.undone_by and reference and reference not in row.references:
            references = (*row.references, reference)[-REFERENCES_MAX:]
            work.writing.put(work.tables.merges, id_key(number), replace(row, references=references))


def note(
    work: Work,
    prior: Identifier,
    survivor: Identifier,
    *,
    into: int,
    gone: tuple[int, PatientRow] | None,
    orders: Sequence[int],
    visits: Sequence[bytes],
) -> None:
    """Keeps a merge. `into`, `gone`: the surviving patient, and the other one as it was, if it was known."""
    row = MergeRow(
        prior=prior,
        survivor=survivor,
        into=into,
        gone=gone[0] if gone else 0,
        identifiers=gone[1].identifiers if gone else (prior,),
        absorbed=gone[1].absorbed if gone else (),
        orders=tuple(orders),
        visits=tuple(visits),
        by=work.source.who,
        references=(work.source.reference,) if work.source.reference else (),
        time=work.now,
    )
    work.writing.put(work.tables.merges, id_key(work.writing.next_id()), row)
