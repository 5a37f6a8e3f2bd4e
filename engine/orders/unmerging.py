"""Undoes a merge of patients.

The prior patient is back, with its identifiers, and with the orders and visits that moved and are still the survivor's.
What came after the merge under the surviving identifier stays there: nothing says whose it is. An undo that has not
reached the archive, since the process ended or the disk was full, does so when it is said again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from engine.orders import patients
from engine.orders.names import id_key
from engine.orders.values import ChangeKind, RefusalReason
from engine.orders.work import is_same, refuse

if TYPE_CHECKING:
    from engine.orders.rows import MergeRow
    from engine.orders.work import Work

STAY: Final = "studies and orders that came after the merge under the surviving identifier stay there"


def undo(work: Work, number: int, reason: str) -> str:
    """Undoes a merge. Raises UpdateRefused.

    Returns who has undone it before; then only the archive may lack it.
    """
    writing, tables = work.writing, work.tables
    row = writing.get(tables.merges, id_key(number)) if 0 < number < 1 << 63 else None
    if row is None:
        raise refuse(f"there is no merge {number}", RefusalReason.UNKNOWN_KEY)
    if row.undone_by:
        _tell_again(work, row)
        return row.undone_by
    found = patients.current(writing, row.into)
    if found is None:
        raise refuse("the surviving patient is not known any more", RefusalReason.UNKNOWN_KEY)
    into, survivor = found
    back = [each for each in row.identifiers if any(is_same(each, own) for own in survivor.identifiers)]
    rest = tuple(each for each in survivor.identifiers if not any(is_same(each, own) for own in back))
    if not back or not rest:
        raise refuse("the surviving patient has none of these identifiers, or no other", RefusalReason.CONFLICT)
    absorbed = tuple(each for each in survivor.absorbed if not any(is_same(each, own) for own in back))
    writing.put(tables.patients, id_key(into), replace(survivor, identifiers=rest, absorbed=absorbed))
    gone = writing.get(tables.patients, id_key(row.gone)) if row.gone else None
    if gone is not None:
        gone = replace(gone, identifiers=tuple(back), absorbed=row.absorbed, merged_into=0)
        writing.put(tables.patients, id_key(row.gone), gone)
        _give_back(work, row, into)
    undone = replace(row, undone_by=work.source.name, undone=work.now, reason=reason)
    writing.put(tables.merges, id_key(number), undone)
    work.changed(ChangeKind.PATIENT, row.gone or into, "unmerged")
    work.unmerges += [(each, (row.survivor, *rest)) for each in back]
    if gone is not None:
        patients.let_agree(work, back[0])
    work.warn(STAY)
    return ""


def _tell_again(work: Work, row: MergeRow) -> None:
    """Repeats what an undo tells the archive, of identifiers that no later merge has made the survivor's again."""
    found = patients.current(work.writing, row.into)
    survivors = (row.survivor, *(found[1].identifiers if found is not None else ()))
    for each in row.identifiers:
        if not any(is_same(each, other) for other in survivors):
            work.unmerges.append((each, survivors))


def _give_back(work: Work, row: MergeRow, into: int) -> None:
    writing, tables = work.writing, work.tables
    for order in row.orders:
        known = writing.get(tables.orders, id_key(order))
        if known is not None and known.patient == into:
            patients.move_order(work, order, row.gone)
    for key in row.visits:
        visit = writing.get(tables.visits, key)
        if visit is not None and visit.patient == into:
            writing.put(tables.visits, key, replace(visit, patient=row.gone))
