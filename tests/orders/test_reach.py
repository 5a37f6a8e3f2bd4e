"""A role's `studies` decide which entries of a worklist somebody may see."""

from __future__ import annotations

from datetime import date, timedelta
from types import SimpleNamespace

import pytest

from engine.access.role_settings import Role, StudyRule
from engine.access.roles import roles_of
from engine.access.scope import FULL, NOTHING, OfPatients, OneOfStudies, Patient, Requirement, Scope, scope_of
from engine.orders import listing
from engine.orders.reach import reach_of
from engine.orders.registry import Orders
from engine.orders.settings import Station, Worklist
from engine.orders.stations import Stations
from engine.orders.values import (
    Identifier,
    Issuer,
    OrderAction,
    OrderUpdate,
    PatientUpdate,
    ProcedureUpdate,
    StepUpdate,
    VisitUpdate,
)
from tests.orders.conftest import HOSPITAL, RIS

OWN = (
    Station(aet="CT1", department="Radiology", institution="City"),
    Station(aet="MR1", department="Neurology"),
)
STATIONS = Stations(lambda: SimpleNamespace(worklist=Worklist(issuer="HOSP"), stations=OWN))


def day(days: int) -> str:
    return f"{date.today() + timedelta(days=days):%Y%m%d}"


def step(number: str, modality: str, *aes: str, on: str, location: str = "") -> StepUpdate:
    attributes = {"ScheduledProcedureStepLocation": location} if location else {}
    return StepUpdate(
        scheduled_procedure_step_id=number, modality=modality, station_aes=aes, start_date=on, attributes=attributes
    )


@pytest.fixture
def filled(orders: Orders) -> Orders:
    """Four entries: 1 and 2 of P1, who is in the Saint's house, 3 of P2 from elsewhere, 4 of P3 without a date."""
    others = Issuer("STATE")
    steps = [
        ("1", (Identifier("P1", HOSPITAL),), "Doe^John", step("1", "CT", "CT1", on=day(0))),
        ("2", (Identifier("P1", HOSPITAL),), "Roe^Jane", step("2", "MR", "MR1", "MR2", on=day(-9), location="Ward 3")),
        ("3", (Identifier("P2", others), Identifier("N2", HOSPITAL)), "Poe=山田^太郎", step("3", "US", on=day(30))),
        ("4", (Identifier("P3", HOSPITAL),), "", step("4", "CT", "CT2", on="")),
    ]
    for number, identifiers, referrer, one in steps:
        orders.apply(
            OrderUpdate(
                action=OrderAction.NEW,
                patient=PatientUpdate(identifiers=identifiers, attributes={"PatientName": f"Name^{number}"}),
                accession=Identifier(f"A{number}", HOSPITAL),
                visit=Identifier("V", HOSPITAL) if number in "12" else None,
                attributes={"ReferringPhysicianName": referrer} if referrer else {},
                procedures=(ProcedureUpdate(study_instance_uid=f"1.2.{number}", steps=(one,)),),
            ),
            RIS,
        )
    visit = VisitUpdate(
        patient=(Identifier("P1", HOSPITAL),),
        visit=Identifier("V", HOSPITAL),
        attributes={"InstitutionName": "Saint\\Annex"},
    )
    orders.apply(visit, RIS)
    return orders


def seen(orders: Orders, scope: Scope) -> str:
    rows = listing.entries(orders, (), Worklist(), all_states=True, limit=100, reach=reach_of(scope, STATIONS))
    return "".join(sorted(row["ScheduledProcedureStepID"] for row in rows))


def by(rule: StudyRule, **attributes: tuple[str, ...]) -> Scope:
    return roles_of((Role(name="r", studies=(rule,)),))["r"].scope(attributes)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (StudyRule(modality="ct"), "14"),
        (StudyRule(modality=("MR", "U?")), "23"),
        (StudyRule(sender="mr2"), "2"),
        (StudyRule(sender="CT*"), "14"),
        (StudyRule(department="radiology"), "1"),
        (StudyRule(department="ward *"), "2"),
        (StudyRule(department=("Neurology", "Radiology")), "12"),
        (StudyRule(institution="city"), "1"),
        (StudyRule(institution="annex"), "12"),
        (StudyRule(referrer="Doe^John"), "1"),
        (StudyRule(referrer="山田^太郎"), "3"),
        (StudyRule(age_days=5), "13"),
        (StudyRule(age_days=10), "123"),
        (StudyRule(deidentified=True), ""),
        (StudyRule(deidentified=False), "1234"),
        (StudyRule(modality="CT", department="Radiology"), "1"),
        (StudyRule(modality="MR", department="Radiology"), ""),
    ],
    ids=str,
)
def test_an_entry_is_judged_by_what_is_known_of_the_study_to_come(
    filled: Orders, rule: StudyRule, expected: str
) -> None:
    assert seen(filled, by(rule)) == expected


def test_me_is_the_own_attribute_and_nothing_without_one(filled: Orders) -> None:
    own = StudyRule(department="me")
    assert seen(filled, by(own, department=("Radiology",))) == "1"
    assert seen(filled, by(own)) == ""


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        (OneOfStudies(frozenset({"1.2.2", "1.2.9"})), "2"),
        (OfPatients(frozenset({Patient("P1", "HOSP")})), "12"),
        (OfPatients(frozenset({Patient("P1")})), "12"),
        (OfPatients(frozenset({Patient("P2")})), ""),
        (OfPatients(frozenset({Patient("P2", "STATE")})), "3"),
        (OfPatients(frozenset({Patient("N2", "HOSP")})), "3"),
        (OfPatients(frozenset({Patient("P1", "STATE")})), ""),
    ],
    ids=["study", "patient", "of the own issuer", "of another", "with issuer", "second identifier", "wrong issuer"],
)
def test_grants_of_studies_and_patients_show_their_entries(
    filled: Orders, requirement: Requirement, expected: str
) -> None:
    assert seen(filled, scope_of([frozenset({requirement})])) == expected


def test_who_sees_everything_pays_no_test_and_who_sees_nothing_has_an_empty_list(filled: Orders) -> None:
    assert reach_of(FULL, STATIONS) is None
    assert seen(filled, FULL) == "1234"
    assert seen(filled, NOTHING) == ""


def test_why_counts_what_the_role_hides(filled: Orders) -> None:
    facts = listing.why(filled, STATIONS, "CT1", by(StudyRule(modality="MR")))
    assert (facts["out_of_role"], facts["scheduled"], facts["matches_now"]) == (3, 1, 0)
    assert listing.why(filled, STATIONS, "CT1", FULL)["out_of_role"] == 0
