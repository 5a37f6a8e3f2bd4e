"""/api/audit: search page by page, and verification; reading it is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import audit
from engine.archive.archive import Archive
from engine.audit.checkpoint import Notary
from tests.audit.recording import recording, rewrite, stored
from tests.web.serving import ApiClient, serving

COUNT = 25


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "data"


@pytest.fixture(scope="module")
def api(data: Path) -> Iterator[ApiClient]:
    Archive.open(data, role="keeper", create=True).close()
    recorders = [audit.Recorder(data) for _ in range(3)]
    for number in range(COUNT):
        recorders[number % 3].begin_now(stored(f"1.2.{number}", count=number + 1))
    for recorder in recorders:
        recorder.close()
    Notary(data).sign()
    with recording(data), serving(data) as hosting:
        client = ApiClient(hosting.port)
        yield client
        client.close()


def test_pages_have_every_event_once_the_newest_first(api: ApiClient) -> None:
    studies: list[str] = []
    path = "/api/audit?kind=received&limit=4"
    while True:
        page = api.get(path)
        studies += [event["study"] for event in page["events"]]
        if page["older"] is None:
            break
        path = f"/api/audit?kind=received&limit=4&before={page['older']}"
    assert studies == [f"1.2.{number}" for number in reversed(range(COUNT))]


def test_conditions_narrow_the_search(api: ApiClient) -> None:
    assert [event["study"] for event in api.get("/api/audit?study=1.2.7")["events"]] == ["1.2.7"]
    assert len(api.get("/api/audit?patient=P1&user=CT1&kind=received&limit=1000")["events"]) == COUNT
    for nothing in ("patient=P", "user=CT2", "outcome=failure", "since=2999", "until=1999", "text=no&kind=received"):
        assert api.get(f"/api/audit?{nothing}")["events"] == []
    for wrong in ("kind=what", "outcome=success", "since=x", "before=x", "other=1", "text=" + "x" * 201):
        api.get(f"/api/audit?{wrong}", 400)


def test_reading_is_recorded_once_a_search(api: ApiClient) -> None:
    api.get("/api/audit?patient=SECRET&limit=1")
    found = api.get("/api/audit?kind=audit-read&text=SECRET")["events"]
    assert [event["detail"] for event in found] == [
        "kind=audit-read, text=SECRET",
        "patient=SECRET",
    ]


def test_a_change_is_found_over_http(api: ApiClient, data: Path) -> None:
    facts = api.get("/api/audit/verify")
    assert facts["whole"] and facts["chains"] >= 3 and facts["events"] >= COUNT
    rewrite(data, "001", lambda lines: [lines[0].replace(b"CT1", b"CT9"), *lines[1:]])
    facts = api.get("/api/audit/verify")
    assert not facts["whole"]
    assert {problem["kind"] for problem in facts["problems"]} == {"changed"}
    assert facts["problems"][0]["place"] == "001/000000000001.events:1"
