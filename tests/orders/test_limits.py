"""What modalities say and ask costs others little, however much it is."""

from __future__ import annotations

import itertools

import pytest

from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.errors import QueryError, StepRefused
from engine.orders import performing, transactions, worklist
from engine.orders.registry import Orders
from engine.orders.rows import AskedRow
from engine.orders.settings import Worklist
from engine.orders.worklist import Search, question_of
from tests.orders.conftest import RIS, order, step

BEGUN = {
    tags.PerformedProcedureStepStatus: b"IN PROGRESS",
    tags.PerformedProcedureStepID: b"PPS1",
    tags.Modality: b"CT",
    tags.PerformedStationAETitle: b"CT1",
    tags.PerformedProcedureStepStartDate: b"20261130",
    tags.PerformedProcedureStepStartTime: b"0900",
    tags.PatientID: b"P1",
}


def begun(count: int = 1) -> DataSet:
    item = DataSet({tags.StudyInstanceUID: b"1.2.3", tags.AccessionNumber: b"A1"})
    return DataSet({**BEGUN, tags.ScheduledStepAttributesSequence: [item] * count})


@pytest.mark.parametrize("uid", ["", "1" * 65, "1" * 1000, "ü" * 40])
def test_a_performed_step_has_a_uid_that_may_be_one(orders: Orders, uid: str) -> None:
    for ask in (
        lambda: orders.create_performed(uid, begun(), RIS),
        lambda: orders.modify_performed(uid, DataSet({}), RIS),
        lambda: orders.performed(uid),
    ):
        with pytest.raises(StepRefused) as refusal:
            ask()
        assert refusal.value.fault == "uid"


def test_a_performed_step_performs_some_scheduled_steps_and_not_thousands(orders: Orders) -> None:
    orders.create_performed("1.2.9", begun(performing.SCHEDULED_MAX), RIS)
    with pytest.raises(StepRefused) as refusal:
        orders.create_performed("1.2.10", begun(performing.SCHEDULED_MAX + 1), RIS)
    assert refusal.value.fault == "resources"


def test_a_scheduled_step_counts_some_of_its_performed_steps_and_all_are_kept(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performing, "PERFORMED_MAX", 2)
    orders.apply(order("A1", None, step("S1"), uid="1.2.3"), RIS)
    warnings = [orders.create_performed(f"1.2.9.{number}", begun(), RIS)[0].warnings for number in range(3)]
    assert [bool(each) for each in warnings] == [False, False, True]
    assert all(orders.performed(f"1.2.9.{number}") for number in range(3))
    with orders.read() as reading:
        ((_, row),) = reading.rows(reading.database.steps)
    assert row.performed == ("1.2.9.0", "1.2.9.1")


def test_the_last_queries_of_so_many_titles_are_kept(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "ASKED_MAX", 3)
    for title, time in (("A", 1), ("B", 2), ("C", 3), ("A", 4), ("D", 5), ("E", 6)):
        orders.note_asked(title, AskedRow(keys=(), matches=0, time=time))
    with orders.read() as reading:
        assert [key for key, _ in reading.rows(reading.database.asked)] == [b"A", b"D", b"E"]


def test_a_search_that_takes_long_goes_on_in_the_next_call(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        orders.apply(order(f"A{number}", None, step(f"S{number}")), RIS)

    def calls() -> list[list[str]]:
        search = Search(question_of(DataSet({}), Worklist()))
        found = []
        with orders.read() as reading:
            while (entries := search.next(reading)) is not None:
                found.append([entry.step.scheduled_procedure_step_id for entry in entries])
        assert search.candidates == 5
        return found

    names = [f"S{number}" for number in range(5)]
    monkeypatch.setattr(worklist, "perf_counter", lambda: 0.0)
    assert [each for each in calls() if each] == [names]
    clock = itertools.count()
    monkeypatch.setattr(worklist, "perf_counter", lambda: float(next(clock)))
    assert [each for each in calls() if each] == [[name] for name in names]


def test_a_key_with_wild_cards_is_no_novel() -> None:
    for text in (b"a?" * 200, b"*" + b"?" * 300, b"\\".join([b"a*"] * 101)):
        with pytest.raises(QueryError, match="wild cards"):
            question_of(DataSet({tags.PatientID: text}), Worklist())
    question_of(DataSet({tags.PatientID: b"a" * 300, tags.PatientName: b"Doe^J*"}), Worklist())
