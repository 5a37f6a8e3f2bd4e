"""Requests: orders with all their steps, as those see them who ask for orders and not for a worklist. Reads only.

    a number, a patient, an id     leads to orders at once (`database`, names)
    none of them                   all orders, the latest first

A request exists for somebody if one of its entries does (`reach`), and has only those; one without steps exists for
those who see everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.orders.entry import Entry, entry_of
from engine.orders.names import id_key, name_key
from engine.orders.ordering import steps_of
from engine.orders.patients import current
from engine.orders.transactions import Reading
from engine.orders.values import Identifier

if TYPE_CHECKING:
    from engine.orders.reach import Reach
    from engine.orders.rows import OrderRow, PatientRow

LAST: Final = (1 << 63) - 1
"""Behind every id."""


@dataclass(frozen=True, slots=True)
class Request:
    """An order, its patient, and its steps."""

    number: int
    order: OrderRow
    patient: PatientRow
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a request must meet: all that is not None, any of the values of each."""

    orders: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None
    numbers: tuple[tuple[str, str], ...] | None = None
    """Placer, filler and accession numbers (p, f, a) and scheduled step ids (t): letter and value."""
    patients: tuple[tuple[str, str], ...] | None = None
    """Identifiers with their issuers; "": any."""


def search(
    reading: Reading, condition: Condition, before: int, reach: Reach | None
) -> Iterator[tuple[int, Request | None]]:
    """The orders before an id, the latest first, each with its request; None: it does not meet the condition."""
    numbers = _candidates(reading, condition)
    table = reading.database.orders
    rows: Iterable[tuple[int, OrderRow | None]]
    if numbers is None:
        rows = iter(reading.rows_before(table, before))
    else:
        ordered = sorted((each for each in numbers if each < before), reverse=True)
        rows = ((each, reading.get(table, id_key(each))) for each in ordered)
    for number, row in rows:
        yield number, None if row is None else _request(reading, number, row, condition, reach)


def _request(reading: Reading, number: int, row: OrderRow, condition: Condition, reach: Reach | None) -> Request | None:
    found = current(reading, row.patient)
    if found is None or not _is_of_patients(found[1].identifiers, condition):
        return None
    entries = (entry_of(reading, step) for step, _ in steps_of(reading, number))
    seen = tuple(each for each in entries if each is not None and (reach is None or reach(each)))
    if not seen and reach is not None:
        return None
    return Request(number, row, found[1], seen)


def _is_of_patients(identifiers: Iterable[Identifier], condition: Condition) -> bool:
    return condition.patients is None or any(
        each.value == value and (not issuer or issuer in (each.issuer.name, each.issuer.universal_id))
        for each in identifiers
        for value, issuer in condition.patients
    )


def _candidates(reading: Reading, condition: Condition) -> set[int] | None:
    """The orders to which the values lead; None: they do not narrow."""
    found: set[int] | None = None
    for values, orders_of in _LEADS:
        chosen = values(condition)
        if chosen is not None:
            own = {order for value in chosen for order in orders_of(reading, value)}
            found = own if found is None else found & own
    return found


def _of_step(reading: Reading, step: int) -> list[int]:
    row = reading.get(reading.database.steps, id_key(step))
    return [row.order] if row is not None else []


def _of_number(reading: Reading, number: tuple[str, str]) -> list[int]:
    ids = reading.ids(name_key(*number))
    return [order for step in ids for order in _of_step(reading, step)] if number[0] == "t" else ids


def _of_patient(reading: Reading, patient: tuple[str, str]) -> list[int]:
    patients = reading.ids(name_key("i", patient[0]))
    return [order for each in patients for order in reading.ids(b"o" + id_key(each))]


_LEADS: Final[tuple[tuple[Callable[[Condition], Iterable[object] | None], Callable[..., list[int]]], ...]] = (
    (lambda condition: condition.orders, lambda reading, order: [order]),
    (lambda condition: condition.steps, _of_step),
    (lambda condition: condition.numbers, _of_number),
    (lambda condition: condition.patients, _of_patient),
)
