"""The archive API: what people who look after an archive see and do over HTTP. One server for all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from engine.archive.archive import Archive
from engine.archive.commitment.transactions import Transaction, Transactions
from engine.archive.feed.destinations import Standing
from engine.cli import copies
from engine.config import Config
from engine.kept_log import KeptLog
from engine.orders.entry_values import order_of
from engine.orders.rows import AskedRow
from engine.orders.values import Source
from engine.web.api import routes
from tests import samples
from tests.actors import actor
from tests.web.hosting import Hosting
from tests.web.serving import ApiClient, serving


def uid(study: int, series: int | None = None, number: int | None = None) -> str:
    return ".".join([samples.ROOT, *(str(part) for part in (study, series, number) if part is not None)])


def fill(data: Path) -> None:
    item = Dataset()
    item.CodeMeaning = "Lobe"
    first = samples.instance(1, 1, 1, AnatomicRegionSequence=[item], ImageComments="x" * 400)
    second = samples.instance(1, 1, 1, ImageComments="another text")
    with Archive.open(data, role="keeper", create=True) as archive:
        archive.store(samples.part10(first))
        archive.store(samples.part10(second))
        archive.store(samples.part10(samples.instance(2, 1, 1, patient_id="P2", patient_name="Roe^Rita")))


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    data = tmp_path_factory.mktemp("api") / "data"
    fill(data)
    with serving(data) as hosting:
        yield hosting


@pytest.fixture(scope="module")
def api(hosting: Hosting) -> Iterator[ApiClient]:
    asking = ApiClient(hosting.port)
    yield asking
    asking.close()


def test_the_tree_of_an_instance_has_names_sequences_and_short_values(api: ApiClient) -> None:
    tree = api.get(f"/api/instances/{uid(1, 1, 1)}/tags")
    assert (tree["study_instance_uid"], tree["truncated"]) == (uid(1), False)
    by_keyword: dict[str, Any] = {node["keyword"]: node for node in tree["elements"]}
    assert by_keyword["PatientName"]["value"] == "Doe^Jane" and by_keyword["PatientName"]["vr"] == "PN"
    assert by_keyword["AnatomicRegionSequence"]["items"][0][0]["value"] == "Lobe"
    comments = by_keyword["ImageComments"]
    assert comments["shortened"] and comments["value"] == "x" * 256
    assert "bulk" in by_keyword["PixelData"]
    assert api.get(f"/api/instances/{uid(9)}/tags", 404)["status"] == 404


def test_a_hold_is_set_and_released_and_the_actor_is_recorded(api: ApiClient) -> None:
    assert api.post("/api/holds", {"studies": [uid(9)]}, 404)["detail"].endswith("no hold was set")
    assert api.post("/api/holds", {"studies": [uid(1)], "reason": "court"}) == {"changed": [uid(1)]}
    (hold,) = api.get("/api/holds")["holds"]
    assert (hold["by"], hold["reason"], hold["instances"]) == ("http:127.0.0.1", "court", 1)
    assert api.post("/api/holds/release", {"studies": [uid(1)]}) == {"changed": [uid(1)]}
    assert api.get("/api/holds") == {"holds": []}


def test_the_worklist_is_listed_by_its_keys_and_explained(api: ApiClient, hosting: Hosting) -> None:
    values = {"PatientID": "W1", "PatientName": "Work^List", "Modality": "CT", "ScheduledStationAETitle": "CT1"}
    hosting.engine.orders().apply(order_of({**values, "AccessionNumber": "W1"}), Source(name="test"))
    (entry,) = api.get("/api/worklist?ScheduledStationAETitle=CT?&PatientName=work*")["entries"]
    assert (entry["PatientID"], entry["ScheduledProcedureStepStatus"]) == ("W1", "SCHEDULED")
    assert api.get("/api/worklist?Modality=MR") == {"entries": []}
    explained = api.get("/api/worklist/why?aet=CT2")
    assert explained["matches_now"] == 0 and explained["keys"][0]["others_have"] == ["CT1"]
    hosting.engine.orders().note_asked("CT1", AskedRow(keys=(), matches=0, time=1000.0, host="::1"))
    (station,) = api.get("/api/worklist/stations")["stations"]
    assert (station["aet"], station["host"], station["matches"]) == ("CT1", "::1", 0) and station["asked"]
    assert "neither a date" in api.get("/api/worklist?ScheduledProcedureStepStartDate=soon", 400)["detail"]
    assert api.get("/api/worklist/why", 400)["detail"].startswith("aet:")


def test_a_correction_is_made_listed_and_undone(api: ApiClient) -> None:
    body = {"operation": "correct_study", "study": uid(2), "sets": {"StudyDescription": "Knee"}, "reason": "typo"}
    number = api.post("/api/corrections", body, 201)["number"]
    (row,) = api.get("/api/corrections")["corrections"]
    assert (row["number"], row["sets"], row["by"]) == (number, ["StudyDescription"], "http:127.0.0.1")
    (shown,) = api.get("/api/corrections?values=true")["corrections"]
    assert shown["sets"] == {"StudyDescription": "Knee"}
    api.post(f"/api/corrections/{number}/undo", {}, 201)
    assert api.post(f"/api/corrections/{number}/undo", {}, 409)["status"] == 409
    assert len(api.get("/api/corrections?limit=1")["corrections"]) == 1
    assert api.get("/api/corrections?limit=1")["more"]
    assert api.get("/api/conflicts")["conflicts"] == []


def test_quarantine_is_compared_and_dropped(api: ApiClient) -> None:
    (kept,) = api.get("/api/quarantine")["quarantine"]
    found = api.get(f"/api/quarantine/{kept['id']}/differences")["differences"]
    assert "another text" in str(found)
    assert api.get("/api/quarantine/0123/differences", 404)["status"] == 404
    assert api.post(f"/api/quarantine/{kept['id']}/readmit", {})["outcome"] != "refused"
    (other,) = api.get("/api/quarantine")["quarantine"]
    assert api.post(f"/api/quarantine/{other['id']}/drop", {"reason": "old"})["id"] == other["id"]
    assert api.get("/api/quarantine")["quarantine"] == []


def test_a_deletion_is_taken_back_or_made_final(api: ApiClient, hosting: Hosting) -> None:
    archive = hosting.engine.archive
    study = samples.instance(31, 1, 1, patient_name="Späth^Eva")
    archive.store(samples.part10(study))
    path = f"/dicom-web/studies/{uid(31)}"
    api.delete(f"{path}?reason=wrong+patient", 204)
    api.get(f"{path}/metadata", 410)
    (entry,) = api.get("/api/trash")["trash"]
    assert (entry["study_instance_uid"], entry["reason"], entry["by"]) == (uid(31), "wrong patient", "http:127.0.0.1")
    assert "shown" not in entry and entry["until"] > entry["since"] and api.get("/api/trash")["days"] == 30.0
    (shown,) = api.get("/api/trash?values=true&limit=1")["trash"]
    assert shown["shown"]["PatientName"] == "Späth^Eva"
    number = entry["number"]
    assert api.post(f"/api/trash/{number}/restore", {"series": uid(31, 9)}, 404)["status"] == 404
    assert api.post(f"/api/trash/{number}/restore", {"reason": "needed"})["instances"] == 1
    assert api.post(f"/api/trash/{number}/restore", {}, 404)["detail"].startswith("the trash has no such entry")
    assert len(api.get(f"{path}/metadata")) == 1
    api.delete(path, 204)
    (entry,) = api.get("/api/trash")["trash"]
    for body in ({}, {"entries": [entry["number"]], "everything": True}):
        assert api.post("/api/trash/empty", body, 400)["status"] == 400
    assert api.post("/api/trash/empty", {"entries": ["12"]}, 404)["status"] == 404
    archive.set_holds([uid(31)], actor=actor(), reason="court")
    assert api.post("/api/trash/empty", {"entries": [entry["number"]]}, 409)["status"] == 409
    assert api.post("/api/trash/empty", {"everything": True})["held"] == 1
    archive.release_holds([uid(31)], actor=actor(), reason="")
    assert api.post("/api/trash/empty", {"everything": True})["instances"] == 1
    assert api.get("/api/trash")["trash"] == []


def test_upkeep_and_settings_are_listed(api: ApiClient) -> None:
    assert api.get("/api/retention") == {"rules": [], "due": [], "more": False}
    assert api.get("/api/retention?rule=none", 404)["status"] == 404
    assert api.get("/api/scrub")["damaged"] == 0
    assert api.get("/api/damage")["damage"] == []
    assert api.get("/api/stats")["archive"]["studies"] == 2
    settings = {row["key"]: row for row in api.get("/api/settings")["settings"]}
    assert settings["http.port"]["value"] == 8080 and settings["http.port"]["origin"] == "default"
    assert settings["data"]["origin"] == "unknown" and settings["http.port"]["about"]


def test_the_history_has_its_documented_columns(api: ApiClient, hosting: Hosting) -> None:
    hosting.engine.archive.stats_history().add(time.time(), {"instances": 7})
    for step in ("minute", "hour"):
        history = api.get(f"/api/stats/history?step={step}")
        (row,) = history["rows"]
        assert row[history["columns"].index("instances")] == 7 and row[0] % history["step_s"] == 0
    assert api.get("/api/stats/history?step=day", 400)["detail"].startswith("step:")


def test_a_waiting_commitment_report_is_listed_retried_and_dropped(api: ApiClient, hosting: Hosting) -> None:
    data = hosting.engine.config.data
    assert api.get("/api/commitments")["commitments"] == []
    transaction = Transaction.of("1.2.3", "CT1", 1, [("1.2.840.10008.5.1.4.1.1.2", uid(1, 1, 1))])
    Transactions(data, hosting.engine.archive.parts.files).add(transaction, count_max=9, reserve_bytes=0).close()
    (row,) = api.get("/api/commitments")["commitments"]
    assert (row["calling_ae_title"], row["instances"], row["attempts"]) == ("CT1", 1, 0)
    assert api.post("/api/commitments/retry", {}, 202) == {"count": 1}
    assert api.post("/api/commitments/retry", {"ids": [row["id"]]}, 202) == {"count": 1}
    assert api.post("/api/commitments/retry", {"ids": ["nothing"]}, 404)["status"] == 404
    assert api.post(f"/api/commitments/{row['id']}/drop", {}) == {"dropped": row["id"]}
    assert api.post(f"/api/commitments/{row['id']}/drop", {}, 404)["status"] == 404


def test_a_parked_webhook_is_resumed(api: ApiClient, hosting: Hosting) -> None:
    assert api.get("/api/webhooks") == {"webhooks": []}
    assert api.get("/api/outbox") == {"outbox": []}
    assert api.post("/api/webhooks/none/resume", {}, 404)["status"] == 404
    (hosting.engine.config.data / "feed").mkdir(exist_ok=True)  # in the test's process nobody writes the feed
    hosting.engine.archive.feed_destinations().save(Standing(name="ris", state="parked", error="503"))
    for _ in range(2):
        assert api.post("/api/webhooks/ris/resume", {}, 202)["name"] == "ris"


def test_the_log_is_searched_by_level_peer_and_text(api: ApiClient, hosting: Hosting) -> None:
    kept = KeptLog(hosting.engine.config.data, 1 << 20)
    for number, level in enumerate(("info", "warning", "error")):
        kept.append(
            f'{{"time":"2026-01-0{number + 1}T00:00:00.000Z","level":"{level}","event":"e{number}","peer":"P"}}'
        )
    answer = api.get("/api/log?limit=2")
    assert [event["event"] for event in answer["events"]] == ["e2", "e1"] and answer["is_kept"]
    assert [event["event"] for event in api.get(f"/api/log?before={answer['older']}")["events"]] == ["e0"]
    assert api.get(f"/api/log?after={answer['newest']}")["events"] == []
    assert [event["event"] for event in api.get("/api/log?level=warning&peer=P&until=2026-01-03")["events"]] == ["e1"]
    for wrong in ("level=loud", "since=yesterday", "before=x", "text=" + "x" * 201, "offset=1"):
        assert api.get(f"/api/log?{wrong}", 400)["status"] == 400


def test_backups_are_listed_with_age_and_verification(api: ApiClient, hosting: Hosting, tmp_path: Path) -> None:
    assert api.get("/api/backups") == {"backups": []}
    config = Config(data=hosting.engine.config.data)
    copies.backup(config, tmp_path / "b", None, 0, lambda *_: None, join=False)
    (backup,) = api.get("/api/backups")["backups"]
    assert (backup["destination"], backup["verified"]) == (str(tmp_path / "b"), None)
    assert copies.verify_backup(tmp_path / "b", None, None, 0, lambda *_: None)["findings"] == []
    (backup,) = api.get("/api/backups")["backups"]
    assert backup["is_newest_verified"] and backup["verified_age_s"] < 60
    copies.backup(config, tmp_path / "b", None, 0, lambda *_: None, join=False)
    assert copies.backup_states(tmp_path / "b"), "the note is no state"


@pytest.mark.parametrize(
    ("body", "status", "content_type"),
    [
        (b"{", 400, "application/json"),
        (b"[]", 400, "application/json"),
        (b'{"studies": ["1.2"], "study": "1.2"}', 400, "application/json"),
        (b'{"studies": []}', 400, "application/json"),
        (b'{"studies": ["1 2"]}', 400, "application/json"),
        (b'{"studies": ["1.2"], "reason": 5}', 400, "application/json"),
        (b'{"studies": ["1.2"]}', 415, "text/plain"),
    ],
)
def test_an_invalid_body_is_refused(api: ApiClient, body: bytes, status: int, content_type: str) -> None:
    problem = api.post("/api/holds", body, status, content_type)
    assert problem["status"] == status and api.headers["Content-Type"].startswith("application/problem+json")


def test_unknown_parameters_are_refused(api: ApiClient) -> None:
    assert "unknown parameter" in api.get("/api/holds?since=1", 400)["detail"]
    assert "limit" in api.get("/api/quarantine?limit=-1", 400)["detail"]


def test_every_route_checks_access() -> None:
    before_login = {
        "/api/session",
        "/api/session/passkey",
        "/api/session/passkey/options",
        "/api/welcome",
        "/api/share-session",
    }
    for route in routes.API_ROUTES:
        is_log_in = route.path in before_login or route.path.startswith("/api/oidc/")
        assert route.action is not None or route.needs_login or is_log_in, route.name
