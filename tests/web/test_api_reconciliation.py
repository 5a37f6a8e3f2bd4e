"""/api/reconciliation: what does not fit together, proposals, links made and undone by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.archive.archive import Archive
from engine.archive.hospital import open_orders
from engine.archive.order_links import OrderLinks
from engine.orders.entry_values import order_of
from engine.orders.linking import Named
from engine.orders.registry import NoRules
from engine.orders.values import Source
from tests.archive.filled import payload_of, store, uid
from tests.web.serving import ApiClient, serving

RIS = Source(name="RIS")
DAYS = "since=20260101&until=20260131"


def entry(accession: str, patient: str, day: str = "20260105", **more: str) -> dict[str, str]:
    return {
        "AccessionNumber": accession, "PatientID": patient, "PatientName": "Doe^Jane", "Modality": "CT",
        "ScheduledProcedureStepStartDate": day, "ScheduledStationAETitle": "CT1", **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    data = tmp_path_factory.mktemp("reconciliation") / "data"
    with Archive.open(data, role="keeper", create=True) as archive, open_orders(archive, NoRules()) as orders:
        values = {"StudyDate": "20260105", "Modality": "CT", "PatientName": "Doe^Jane"}
        store(
            archive,
            payload_of(1, 1, 1, patient_id="P1", AccessionNumber="", **values),
            payload_of(2, 1, 1, patient_id="P9", AccessionNumber="Q2", **values),
            payload_of(3, 1, 1, patient_id="P3", AccessionNumber="Q3", **{**values, "StudyDate": "20250101"}),
        )
        for accession, patient in (("Q1", "P1"), ("Q2", "P2")):
            orders.apply(order_of(entry(accession, patient)), RIS)
        orders.apply(order_of(entry("Q4", "P4", day="20250101")), RIS)
        orders.study_arrived(Named(study_instance_uid=uid(2), accession="Q2", patient_id="P9"), RIS)
        assert OrderLinks(archive).studies == 0
    with serving(data) as hosting:
        client = ApiClient(hosting.port)
        yield client
        client.close()


def listed(api: ApiClient) -> dict[str, Any]:
    facts: dict[str, Any] = api.get(f"/api/reconciliation?{DAYS}")
    return facts


def test_what_does_not_fit_is_listed_by_day(api: ApiClient) -> None:
    facts = listed(api)
    assert {each["StudyInstanceUID"] for each in facts["studies"]} == {uid(1), uid(2)}
    assert {each["AccessionNumber"] for each in facts["orders"]} == {"Q1", "Q2"}
    (conflict,) = facts["conflicts"]
    assert (conflict["study"]["StudyInstanceUID"], conflict["order"]["AccessionNumber"]) == (uid(2), "Q2")
    assert facts["more"] == {"studies": False, "orders": False, "conflicts": False}
    for wrong in ("since=x", "since=20261301", "until=2026-1-1", "other=1"):
        api.get(f"/api/reconciliation?{wrong}", 400)


def test_a_proposal_is_linked_supplies_the_study_and_is_undone(api: ApiClient) -> None:
    study = f"/api/reconciliation/studies/{uid(1)}"
    facts = api.get(study)
    assert facts["links"] == []
    (proposal, *_) = facts["proposals"]
    assert proposal["order"]["AccessionNumber"] == "Q1" and "same patient-id" in proposal["reasons"]
    body = {"study": uid(1), "order": proposal["order"]["order"], "reason": "seen by hand"}
    assert "link linked" in api.post("/api/reconciliation/link", body)["changes"]
    facts = api.get(study)
    assert facts["study"]["AccessionNumber"] == "Q1", "the study shows what it lacked"
    assert [(link["rule"], link["is_undone"]) for link in facts["links"]] == [("by-hand", False)]
    assert proposal["order"]["order"] not in [each["order"]["order"] for each in facts["proposals"]]
    assert uid(1) not in {each["StudyInstanceUID"] for each in listed(api)["studies"]}
    api.post("/api/reconciliation/unlink", body)
    facts = api.get(study)
    assert facts["study"]["AccessionNumber"] == "" and facts["links"][0]["is_undone"]
    api.post("/api/reconciliation/unlink", body, 409)
    assert uid(1) in {each["StudyInstanceUID"] for each in listed(api)["studies"]}


def test_a_conflict_ends_when_somebody_says_that_they_do_not_belong_together(api: ApiClient) -> None:
    (conflict,) = listed(api)["conflicts"]
    api.post("/api/reconciliation/unlink", {"study": uid(2), "order": conflict["order"]["order"], "reason": ""})
    assert listed(api)["conflicts"] == []


def test_what_is_not_there_is_not_found(api: ApiClient) -> None:
    api.get(f"/api/reconciliation/studies/{uid(77)}", 404)
    api.get(f"/api/reconciliation/studies/{'1' * 65}", 404)
    api.post("/api/reconciliation/link", {"study": uid(77), "order": 1, "reason": ""}, 404)
    api.post("/api/reconciliation/link", {"study": uid(1), "order": 999, "reason": ""}, 409)
    api.post("/api/reconciliation/link", {"study": uid(1), "order": -1, "reason": ""}, 404)
