"""orders.proposals: which orders a study may fulfil, with points and reasons."""

from __future__ import annotations

import pytest

from engine.orders.proposals import StudyTraits, is_near, proposals
from engine.orders.registry import Orders
from engine.orders.values import OrderAction
from tests.orders.conftest import RIS, order, patient, step

ALL = StudyTraits(
    accession="ACC1001", patient_id="PAT1001", name="Meyer^Anna", birth_date="19700101", date="20261201",
    modalities=("CT",),
)  # fmt: skip


def traits(**changes: object) -> StudyTraits:
    values = {name: getattr(ALL, name) for name in StudyTraits.__slots__}
    return StudyTraits(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def filled(orders: Orders) -> Orders:
    who = patient("PAT1001", "Meyer^Anna", PatientBirthDate="19700101")
    orders.apply(order("ACC1001", who, step(date="20261201")), RIS)
    orders.apply(order("ACC2002", patient("PAT2002", "Huber^Otto"), step(date="20261201", modality="MR")), RIS)
    return orders


def found(orders: Orders, study: StudyTraits) -> list[tuple[str, int, tuple[str, ...]]]:
    with orders.read() as reading:
        return [
            (each.entry.order.accession.value if each.entry.order.accession else "", each.score, each.reasons)
            for each in proposals(reading, study)
        ]


def test_what_agrees_in_all_has_the_most_points_and_what_agrees_in_little_is_not_proposed(filled: Orders) -> None:
    ((accession, score, reasons),) = found(filled, ALL)
    assert (accession, score) == ("ACC1001", 100)
    assert set(reasons) == {
        f"same {each}" for each in ("accession", "patient-id", "name", "birth-date", "modality", "day")
    }


@pytest.mark.parametrize(
    ("changes", "score", "reason"),
    [
        ({"accession": "ACC1010"}, 100, "like accession"),
        ({"accession": "", "patient_id": "PAT100"}, 75, "like patient-id"),
        ({"accession": "", "name": "Maier^Anna"}, 80, "like name"),
        ({"accession": "", "modalities": ("MR",)}, 60, "other modality"),
        ({"accession": "", "patient_id": "", "date": "20261203"}, 53, "like day"),
    ],
)
def test_a_slip_costs_points(filled: Orders, changes: dict[str, object], score: int, reason: str) -> None:
    (accession, points, reasons), *_ = found(filled, traits(**changes))
    assert (accession, points) == ("ACC1001", score)
    assert reason in reasons


def test_a_canceled_order_and_a_study_that_says_nothing_have_no_proposals(filled: Orders) -> None:
    nothing = StudyTraits(accession="", patient_id="", name="", birth_date="", date="", modalities=())
    assert found(filled, nothing) == []
    filled.apply(order("ACC1001", patient("PAT1001"), action=OrderAction.CANCEL), RIS)
    assert [accession for accession, *_ in found(filled, ALL)] == []


@pytest.mark.parametrize(
    ("one", "other", "is_alike"),
    [
        ("12345", "12354", True), ("12345", "1234", True), ("12345", "123456", True), ("12345", "12745", True),
        ("12345", "12345", False), ("12345", "21354", False), ("123", "124", False), ("12345", "", False),
        ("1234", "123456", False), ("x1234", "1234", True),
    ],
)  # fmt: skip
def test_one_slip_is_told_from_two(one: str, other: str, is_alike: bool) -> None:
    assert is_near(one, other) is is_alike
