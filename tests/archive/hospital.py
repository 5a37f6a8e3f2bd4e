"""Patients, orders and messages in an archive, for the tests of its copies."""

from __future__ import annotations

from typing import Any

from engine.archive.archive import Archive
from engine.archive.hospital import open_orders
from engine.archive.messages import history_of, open_journal
from engine.journal.entry import Outcome, Received, Result
from engine.journal.journal import Journal
from engine.orders.registry import NoRules, Orders
from engine.orders.values import Identifier, Issuer, PatientUpdate, Source

ADT = Source(name="ADT")


def admit(orders: Orders, number: int) -> None:
    patient = PatientUpdate(
        identifiers=(Identifier(f"P{number}", Issuer("HOSP")),), attributes={"PatientName": f"Doe^Jane{number}"}
    )
    assert orders.apply(patient, ADT).changes


def take(journal: Journal, number: int, *, is_applied: bool = True) -> None:
    received = Received(time=1000.0 + number, source="adt", host="10.0.0.1", control_id=str(number), patient_id="P")
    given = journal.append(received, b"MSH|message %d of Doe^Jane" % number)
    if is_applied:
        journal.append_outcome(Outcome(number=given, time=1001.0 + number, result=Result.APPLIED))
    journal.log.sync()


def fill(archive: Archive, *numbers: int) -> None:
    with open_orders(archive, NoRules()) as orders:
        for number in numbers:
            admit(orders, number)
    journal = open_journal(archive)
    for number in numbers:
        take(journal, number, is_applied=number % 3 != 0)
    journal.close()


def content(archive: Archive) -> tuple[dict[str, list[Any]], list[Any]]:
    """The rows of the registry, and the journal with the bytes of its messages."""
    with open_orders(archive, NoRules()) as orders, orders.read() as reading:
        rows = {table.name: list(reading.rows(table)) for table in reading.database.tables}
    history = history_of(archive)
    messages = [(row.number, row.received, row.outcome, history.read(row.position)) for row in history.rows()]
    history.close()
    return rows, messages
