"""Workitems as Task resources: read, found by status, code, owner, patient and order, behind the scheduled steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.access import Action, Policy, Principal, Scope
from engine.access.question import ARCHIVE, Target
from engine.access.scope import NOTHING
from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.orders.values import (
    Identifier,
    OrderAction,
    OrderUpdate,
    PatientUpdate,
    ProcedureUpdate,
    Source,
    StepUpdate,
)
from engine.orders.workitems.store import Workitems
from tests.orders.workitem_sets import code, performed, scheduled
from tests.web.fhir_asking import found, get, next_of
from tests.web.hosting import Hosting
from tests.web.serving import serving

UIDS = [f"1.2.3.{number}" for number in range(5)]


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with serving(tmp_path_factory.mktemp("fhir") / "data") as hosting:
        orders = hosting.engine.orders()
        for number in (1, 2):
            step = StepUpdate(modality="CT", scheduled_procedure_step_id=f"S{number}")
            update = OrderUpdate(
                action=OrderAction.NEW,
                patient=PatientUpdate(identifiers=(Identifier(f"P{number}"),)),
                accession=Identifier(f"A{number}"),
                procedures=(ProcedureUpdate(study_instance_uid=f"1.2.5.{number}", steps=(step,)),),
            )
            orders.apply(update, Source(name="RIS"))
        workitems = Workitems(orders)
        for number, uid in enumerate(UIDS):
            values = scheduled(
                PatientID=b"P%d" % (number % 2 + 1),
                ScheduledProcedureStepStartDateTime=b"202612010%d00+0100" % number,
                ScheduledWorkitemCodeSequence=code(b"W%d" % (number % 3)),
                ScheduledStationNameCodeSequence=code(b"AI%d" % (number % 2)),
                ReferencedRequestSequence=[DataSet({tags.StudyInstanceUID: b"1.2.5.%d" % (number % 2 + 1)})],
            )
            workitems.create(uid, values, "RIS")
        workitems.request_cancel(UIDS[3], DataSet({tags.ReasonForCancellation: b"wrong patient"}), "ann")
        workitems.change_state(UIDS[4], "IN PROGRESS", "1.9", "AI")
        workitems.update(UIDS[4], performed("1.9"), "AI")
        workitems.change_state(UIDS[4], "COMPLETED", "1.9", "AI")
        yield hosting


@pytest.mark.parametrize("is_r5", [False, True], ids=["R4", "R5"])
def test_a_workitem_is_read_as_a_task(hosting: Hosting, is_r5: bool) -> None:
    first = get(hosting, f"Task/{UIDS[0]}", is_r5=is_r5)
    assert (first["status"], first["intent"], first["priority"]) == ("requested", "order", "routine")
    assert first["identifier"] == [{"system": "urn:dicom:uid", "value": f"urn:oid:{UIDS[0]}"}]
    assert first["code"] == {"coding": [{"code": "W0", "display": "x"}], "text": "Segment the liver"}
    assert first["owner"]["identifier"] == {"value": "AI0"}
    assert first["for"]["identifier"]["value"] == "P1"
    assert first["focus"] == {"reference": "ImagingStudy/1.2.5.1"}
    (order,) = first["basedOn"]
    assert get(hosting, order["reference"], is_r5=is_r5)["resourceType"] == "ServiceRequest"
    period = first["requestedPeriod"] if is_r5 else first["restriction"]["period"]
    assert period == {"start": "2026-12-01T00:00:00+01:00"}
    canceled = get(hosting, f"Task/{UIDS[3]}", is_r5=is_r5)
    reason = canceled["statusReason"]["concept"] if is_r5 else canceled["statusReason"]
    assert (canceled["status"], reason["text"]) == ("cancelled", "wrong patient")
    completed = get(hosting, f"Task/{UIDS[4]}", is_r5=is_r5)
    assert completed["output"][0]["valueReference"] == {"reference": "ImagingStudy/1.2.3"}
    assert "1.9" not in str(completed)
    get(hosting, "Task/1.2.3.404", status=404)


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("code=W1", [1, 4]),
        ("code=W1,W2", [1, 2, 4]),
        ("code=W*", []),
        ("owner:identifier=AI1", [1, 3]),
        ("owner.identifier=AI1&status=requested", [1]),
        ("status=completed", [4]),
        ("status=cancelled,completed", [3, 4]),
        ("status=ready", []),
        ("patient=P1&code=W0,W1,W2", [0, 2, 4]),
        ("patient.identifier=P2&code=W0", [3]),
        ("patient.identifier=urn:oid:1.2|P2&code=W0", []),
        ("identifier=urn:dicom:uid|urn:oid:1.2.3.2", [2]),
        ("_id=1.2.3.2,1.2.3.3", [2, 3]),
        ("_id=1.2.3.2&code=W0", []),
    ],
)
def test_workitems_are_found(hosting: Hosting, query: str, numbers: list[int]) -> None:
    assert found(get(hosting, f"Task?{query}")) == [UIDS[number] for number in numbers]
    assert get(hosting, f"Task?{query}&_summary=count")["total"] == len(numbers)


def test_pages_lead_through_steps_and_then_workitems(hosting: Hosting) -> None:
    whole = found(get(hosting, "Task"))
    assert whole[2:] == UIDS and len(whole) == 7
    for count in (1, 2, 3):
        seen, path = [], f"Task?_count={count}"
        while path:
            page = get(hosting, path)
            assert 0 < len(found(page)) <= count
            seen += found(page)
            path = next_of(page, hosting) or ""
        assert seen == whole
    seen, path = [], "Task?_count=1&_id=1.2.3.1,1.2.3.2"
    while path:
        page = get(hosting, path)
        seen += found(page)
        path = next_of(page, hosting) or ""
    assert seen == UIDS[1:3]
    assert get(hosting, "Task?_count=2&_total=accurate")["total"] == 7
    for cursor in ("u.*", "u.A", "x", "n.-1"):
        get(hosting, f"Task?_page={cursor}", status=400)


def test_tasks_of_an_order_are_its_steps_and_workitems_with_the_order(hosting: Hosting) -> None:
    (order,) = found(get(hosting, "ServiceRequest?identifier=A1"))
    tasks = get(hosting, f"Task?based-on=ServiceRequest/{order}&_include=Task:based-on")
    assert found(tasks)[1:] == [UIDS[0], UIDS[2], UIDS[4]]
    assert found(tasks, "include") == [order]


def test_workitems_are_tasks_only_for_who_may_see_workitems(hosting: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Policy.scope

    def scope(policy: Policy, principal: Principal, action: Action, target: Target = ARCHIVE) -> Scope:
        return NOTHING if action is Action.WORKITEM else whole(policy, principal, action, target)

    monkeypatch.setattr(Policy, "scope", scope)
    assert len(found(get(hosting, "Task"))) == 2
    get(hosting, f"Task/{UIDS[0]}", status=404)
