"""/api/messages: the journal of HL7 messages page by page, one message with its fields, and who may see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.archive import messages
from engine.archive.archive import Archive
from engine.audit.search import Condition, search
from engine.journal import Fault, Outcome, Received, Result
from tests.audit.recording import recording
from tests.hl7.samples import ADT_A08, OMI_O23
from tests.web.lone_server import Link
from tests.web.serving import ApiClient, serving

COUNT = 30


def received(number: int, **more: Any) -> Received:
    return Received(
        time=1000.0 + number, source="ris", host="10.0.0.1", kind="ADT^A08", patient_id=f"P{number}", **more
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("messages") / "data"


@pytest.fixture(scope="module")
def api(data: Path) -> Iterator[ApiClient]:
    with Archive.open(data, role="keeper", create=True) as archive:
        journal = messages.open_journal(archive)
        for number in range(1, COUNT + 1):
            journal.append(received(number), ADT_A08)
            outcome = Outcome(number=number, time=2000.0, result=Result.APPLIED, changes=("patient 1 changed",))
            journal.append_outcome(outcome)
        journal.append(received(98), OMI_O23)
        journal.append(received(99, fault=Fault(200, "unknown type")), b"MSH|no message")
        journal.append(received(100), ADT_A08 + b"OBX|1|TX|||" + b"x" * 400_000)
        journal.close()
    with recording(data), serving(data, link=Link) as hosting:
        client = ApiClient(hosting.port)
        yield client
        client.close()


def test_pages_have_every_message_once_the_newest_first(api: ApiClient) -> None:
    numbers: list[int] = []
    before = ""
    while True:
        page = api.get(f"/api/messages?limit=7{before}")
        numbers += [row["number"] for row in page["messages"]]
        if page["older"] is None:
            break
        before = f"&before={page['older']}"
    assert numbers == list(range(COUNT + 3, 0, -1))


def test_a_page_looks_at_some_messages_only_and_says_where_to_go_on(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.web.api.messages.SCANNED_MAX", 10)
    page = api.get("/api/messages?patient=P1")
    assert page["messages"] == [] and page["older"] is not None
    turns = 0
    while page["older"] is not None:
        found, turns = page["messages"], turns + 1
        page = api.get(f"/api/messages?patient=P1&before={page['older']}")
    assert found == [] and [row["patient_id"] for row in page["messages"]] == ["P1"] and turns == 3


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("patient=P3", 1), ("patient=P", 0), ("result=refused", 1), ("result=waiting", 2), ("kind=ADT", COUNT + 3),
        ("source=other", 0), ("since=1970-01-01T00:18:20%2B00:00", 1), ("until=1970-01-01T00:16:42%2B00:00", 1),
    ],
)  # fmt: skip
def test_filters_narrow_the_list(api: ApiClient, query: str, count: int) -> None:
    assert len(api.get(f"/api/messages?{query}")["messages"]) == count


@pytest.mark.parametrize(
    "query", ["result=what", "since=x", "before=-1", "other=1", "patient=" + "x" * 257, "since=9999999"]
)
def test_a_wrong_filter_is_refused(api: ApiClient, query: str) -> None:
    api.get(f"/api/messages?{query}", 400)


def test_a_message_is_shown_raw_decoded_with_names_as_mapped_and_with_what_it_did(api: ApiClient) -> None:
    facts = api.get("/api/messages/1")
    assert facts["text"].startswith("MSH|") and "\nPID|" in facts["text"]
    fields = {field["field"]: field for segment in facts["segments"] for field in segment["fields"]}
    assert (fields["MSH-1"]["value"], fields["PID-3"]["name"]) == ("|", "Patient Identifier List")
    assert fields["MSH-9"]["value"] == "ADT^A08^ADT_A01"
    assert facts["mapped"]["values"][0]["value"] == "PatientUpdate" and facts["changes"] == ["patient 1 changed"]
    order = api.get(f"/api/messages/{COUNT + 1}")
    assert order["result"] == "waiting"
    assert "accession" in str(order["mapped"]["values"]), "an order"


def test_what_cannot_be_read_or_is_long_is_shown_as_it_is(api: ApiClient) -> None:
    broken = api.get(f"/api/messages/{COUNT + 2}")
    assert broken["why_not"] and broken["text"] == "MSH|no message" and broken["reason"] == "200 unknown type"
    long = api.get(f"/api/messages/{COUNT + 3}")
    assert long["is_cut"] and long["bytes"] > 400_000 and len(long["text"]) <= 256 << 10 and long["segments"] == []
    for unknown in ("999", "0", "x", "1" * 40):
        api.get(f"/api/messages/{unknown}", 404)


def test_a_replay_goes_to_the_process_of_messages_and_a_refusal_is_told(api: ApiClient) -> None:
    done = api.post("/api/messages/1/replay", {"reason": "another profile"})
    assert (done["number"], done["result"]) == (1, "unchanged")
    problem = api.post("/api/messages/77/replay", {"reason": ""}, 409)
    assert problem["detail"] == "the journal has no message 77"


def test_each_view_is_in_the_audit_log_with_its_patient(api: ApiClient, data: Path) -> None:
    api.get("/api/messages?patient=SECRET")
    api.get("/api/messages/3")
    api.post("/api/messages/1/replay", {"reason": "because"})
    api.get("/api/session")
    found = search(data, Condition(), 1000, "").events
    assert any("patient=SECRET" in event.get("query", "") for event in found)
    assert any(event["kind"] == "viewed" and event["patient"]["id"] == "P3" for event in found)
    assert any(event.get("reason") == "because" for event in found)
