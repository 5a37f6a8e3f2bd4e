"""What people link, unlink and unmerge is in the audit log before it is done, or is not done."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import audit
from engine.archive.archive import Archive
from engine.archive.hospital import open_orders
from engine.audit import recorder
from engine.errors import AuditUnavailable
from engine.orders.entry_values import order_of
from engine.orders.registry import NoRules
from engine.orders.values import Identifier, PatientMerge, PatientUpdate, Source
from tests.archive.filled import payload_of, store, uid
from tests.audit.recording import events, recording, wait_until
from tests.faulty_files import FaultyFiles
from tests.web.serving import ApiClient, serving

ORDER = {
    "AccessionNumber": "Q1", "PatientID": "P1", "PatientName": "Doe^Jane", "Modality": "CT",
    "ScheduledProcedureStepStartDate": "20260105", "ScheduledStationAETitle": "CT1",
}  # fmt: skip


@pytest.fixture(scope="module")
def files() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recorded") / "data"


@pytest.fixture(scope="module")
def api(data: Path, files: FaultyFiles) -> Iterator[ApiClient]:
    with Archive.open(data, role="keeper", create=True) as archive, open_orders(archive, NoRules()) as orders:
        store(archive, payload_of(1, 1, 1, patient_id="P1", AccessionNumber="", StudyDate="20260105", Modality="CT"))
        orders.apply(order_of(ORDER), Source(name="RIS"))
        survivor = PatientUpdate(identifiers=(Identifier("S2"),), attributes={"PatientName": "B"})
        merge = PatientMerge(survivor=survivor, prior=Identifier("P2"))
        orders.apply(merge, Source(name="unknown", sender="KIS ST", reference="hl7:1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "RETRY_S", 0.01)
        patch.setattr(recorder, "RETRY_S_MAX", 0.01)
        with recording(data, files=files), serving(data) as hosting:
            client = ApiClient(hosting.port)
            yield client
            client.close()


def can_be_written() -> bool:
    try:
        audit.check()
    except AuditUnavailable:
        return False
    return True


def details(data: Path) -> list[str]:
    return [
        event["detail"] for event in events(data) if event["kind"] == "corrected" and event["who"]["kind"] == "http"
    ]


def test_a_change_is_recorded_or_not_made(api: ApiClient, data: Path, files: FaultyFiles) -> None:
    study = f"/api/reconciliation/studies/{uid(1)}"
    order = api.get(study)["proposals"][0]["order"]["order"]
    (merge,) = api.get("/api/merges")["merges"]
    assert merge["by"] == "hl7:KIS ST", "no table names this sender: the message does"
    link: dict[str, Any] = {"study": uid(1), "order": order, "reason": "seen"}
    undo = f"/api/merges/{merge['number']}/undo"
    files.fail("pwritev", errno.ENOSPC, repeat=True)
    api.post("/api/reconciliation/link", link, 503)
    api.post(undo, {"reason": "two persons"}, 503)
    files.heal()
    wait_until(can_be_written)
    assert api.get(study)["links"] == [] and api.get("/api/merges")["merges"] == [merge]
    before = len(details(data))
    api.post("/api/reconciliation/link", link)
    api.post("/api/reconciliation/unlink", link)
    api.post(undo, {"reason": "two persons"})
    assert details(data)[before:] == [
        f"links it with order {order}", f"unlinks it from order {order}", f"undoes merge {merge['number']}",
    ]  # fmt: skip


def test_a_change_that_is_refused_is_followed_by_an_event_that_says_so(api: ApiClient, data: Path) -> None:
    api.post("/api/reconciliation/link", {"study": uid(1), "order": 999, "reason": "r"}, 409)
    wait_until(lambda: any("links it with order 999: it failed: " in each for each in details(data)))
    count = len(details(data))
    api.post("/api/reconciliation/link", {"study": uid(77), "order": 1, "reason": "r"}, 404)
    api.post("/api/merges/77/undo", {"reason": "r"}, 404)
    assert len(details(data)) == count, "what is not there is not begun"
