"""/api/workitems: pages with counts, one with its history, and the steps of the same request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from engine.access import Action, Policy, Principal, Scope
from engine.access.question import ARCHIVE, Target
from engine.access.scope import NOTHING, OneOfStudies
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
from engine.orders.workitems.store import Subscriber, Workitems
from tests.orders.workitem_sets import scheduled
from tests.web.hosting import Hosting
from tests.web.serving import serving


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with serving(tmp_path_factory.mktemp("data")) as served:
        workitems = Workitems(served.engine.orders())
        for number in range(7):
            request = [DataSet({tags.AccessionNumber: b"A%d" % number, tags.StudyInstanceUID: b"1.2.5.%d" % number})]
            values = scheduled(
                WorklistLabel=(b"AI", b"Reading")[number % 2],
                ScheduledProcedureStepStartDateTime=b"2026120%d" % (7 - number),
                ReferencedRequestSequence=request,
            )
            workitems.create(f"1.2.3.{number}", values, "RIS")
        yield served


def get(hosting: Hosting, path: str, status: int = 200) -> Any:
    answer = requests.get(f"{hosting.url}/api/{path}", timeout=60)
    assert answer.status_code == status, answer.text
    return answer.json()


def uids(page: dict[str, Any]) -> list[str]:
    return [each["SOPInstanceUID"] for each in page["workitems"]]


def test_a_list_comes_by_start_in_pages_with_counts_and_worklists(hosting: Hosting) -> None:
    first = get(hosting, "workitems?limit=5&state=SCHEDULED")
    assert uids(first) == [f"1.2.3.{number}" for number in (6, 5, 4, 3, 2)]
    assert first["counts"] == {"SCHEDULED": 7, "IN PROGRESS": 0, "COMPLETED": 0, "CANCELED": 0}
    assert first["worklists"] == ["AI", "Reading"]
    last = get(hosting, f"workitems?limit=5&state=SCHEDULED&after={first['next']}")
    assert (uids(last), last["next"]) == (["1.2.3.1", "1.2.3.0"], "")
    of_ai = get(hosting, "workitems?worklist=AI")
    assert len(of_ai["workitems"]) == of_ai["counts"]["SCHEDULED"] == 4
    assert get(hosting, "workitems?worklist=A*")["counts"] is None
    assert len(get(hosting, "workitems?ScheduledProcedureStepStartDateTime=20261203-20261205")["workitems"]) == 3
    assert len(get(hosting, "workitems?text=LIVER%20doe&limit=3")["workitems"]) == 3
    assert uids(get(hosting, "workitems?text=1.2.3.5")) == ["1.2.3.5"]
    assert get(hosting, "workitems?PatientID=NOBODY") == {**of_ai, "workitems": [], "counts": first["counts"]}


@pytest.mark.parametrize("query", ["after=*", "after=%C3%A4", "limit=x", "state=SOON", "what=1", "after=" + "A" * 400])
def test_a_wrong_query_is_refused(hosting: Hosting, query: str) -> None:
    assert get(hosting, f"workitems?{query}", 400)["detail"]


def test_one_has_its_history_and_no_transaction_uid(hosting: Hosting) -> None:
    workitems = Workitems(hosting.engine.orders())
    uid = "1.2.3.99"
    workitems.create(uid, scheduled(ScheduledProcedureStepStartDateTime=b"20301201"), "RIS")
    workitems.change_state(uid, "IN PROGRESS", "1.2.77", "AI1")
    for text in (b"10", b"50"):
        progress = [DataSet({tags.ProcedureStepProgress: text})]
        changes = {tags.ProcedureStepProgressInformationSequence: progress, tags.TransactionUID: b"1.2.77"}
        workitems.update(uid, DataSet(changes), "AI1")
    workitems.subscribe(uid, Subscriber("AI1"), has_lock=False)
    workitems.request_cancel(uid, DataSet({tags.ReasonForCancellation: b"wrong patient"}), "ann")
    workitems.change_state(uid, "CANCELED", "1.2.77", "AI1")
    found = get(hosting, f"workitems/{uid}")
    assert [(each["action"], each["by"], each["reason"]) for each in found["history"]] == [
        ("created", "RIS", ""),
        ("IN PROGRESS", "AI1", ""),
        ("set", "AI1", ""),
        ("canceling", "ann", "wrong patient"),
        ("CANCELED", "AI1", ""),
    ]
    assert (found["state"], found["creator"]) == ("CANCELED", "RIS")
    assert "TransactionUID" not in found["attributes"]
    assert "1.2.77" not in str(found)
    assert get(hosting, "workitems/1.2.3.404", 404)
    assert get(hosting, "workitems/uid", 400)


def test_a_step_its_mpps_and_a_workitem_of_one_request_show_each_other(hosting: Hosting) -> None:
    orders = hosting.engine.orders()
    step = StepUpdate(modality="CT", station_aes=("CT1",), start_date="20261201", scheduled_procedure_step_id="S7")
    procedure = ProcedureUpdate(study_instance_uid="1.2.5.0", requested_procedure_id="R7", steps=(step,))
    update = OrderUpdate(
        action=OrderAction.NEW,
        patient=PatientUpdate(identifiers=(Identifier("P1"),)),
        accession=Identifier("A1"),
        procedures=(procedure,),
    )
    orders.apply(update, Source(name="RIS"))
    names = DataSet(
        {
            tags.StudyInstanceUID: b"1.2.5.0",
            tags.RequestedProcedureID: b"R7",
            tags.ScheduledProcedureStepID: b"S7",
            tags.AccessionNumber: b"A1",
        }
    )
    mpps: dict[int, bytes | list[DataSet]] = {
        tags.PerformedProcedureStepStatus: b"IN PROGRESS",
        tags.ScheduledStepAttributesSequence: [names],
        tags.PatientID: b"P1",
        tags.PerformedProcedureStepID: b"1",
        tags.PerformedStationAETitle: b"CT1",
        tags.PerformedProcedureStepStartDate: b"20261201",
        tags.PerformedProcedureStepStartTime: b"0900",
        tags.Modality: b"CT",
    }
    orders.create_performed("1.2.6.1", DataSet(mpps), Source(name="CT1"))
    by_study = get(hosting, "workitems/1.2.3.0")["related"]
    by_accession = get(hosting, "workitems/1.2.3.1")["related"]
    assert by_study == by_accession
    assert [each["ScheduledProcedureStepID"] for each in by_study["steps"]] == ["S7"]
    assert [each["SOPInstanceUID"] for each in by_study["performed"]] == ["1.2.6.1"]
    assert get(hosting, "workitems/1.2.3.2")["related"] == {"steps": [], "performed": []}
    number = by_study["steps"][0]["step"]
    shown = get(hosting, f"worklist/steps/{number}")
    assert {each["SOPInstanceUID"] for each in shown["workitems"]} == {"1.2.3.0", "1.2.3.1"}
    assert [each["SOPInstanceUID"] for each in shown["performed"]] == ["1.2.6.1"]
    listed = get(hosting, "worklist?all=true")["entries"]
    assert [entry["step"] for entry in listed] == [number]
    assert get(hosting, "worklist/steps/0", 404) and get(hosting, "worklist/steps/x", 404)


def test_who_is_confined_sees_its_studies_and_no_counts(hosting: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, number = Policy.scope, get(hosting, "workitems/1.2.3.0")["related"]["steps"][0]["step"]
    chosen: dict[Action, Scope] = {Action.WORKITEM: OneOfStudies(frozenset({"1.2.5.4"}))}

    def scope(policy: Policy, principal: Principal, action: Action, target: Target = ARCHIVE) -> Scope:
        return chosen.get(action) or whole(policy, principal, action, target)

    monkeypatch.setattr(Policy, "scope", scope)
    listed = get(hosting, "workitems")
    assert (uids(listed), listed["counts"], listed["worklists"]) == (["1.2.3.4"], None, [])
    assert get(hosting, "workitems/1.2.3.4")["uid"] == "1.2.3.4"
    get(hosting, "workitems/1.2.3.0", 404)
    assert get(hosting, f"worklist/steps/{number}")["workitems"] == []
    chosen[Action.WORKLIST] = NOTHING
    get(hosting, f"worklist/steps/{number}", 404)
    assert get(hosting, "workitems/1.2.3.4")["related"] is None
