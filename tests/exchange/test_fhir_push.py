"""exchange.fhir_push: a FHIR server has one ImagingStudy for each study, whatever happens on the way."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fhir.resources import get_fhir_model_class as r5_class
from fhir.resources.R4B import get_fhir_model_class as r4_class

from engine.archive.admin import corrections
from engine.archive.archive import Archive
from engine.archive.feed.writer import FeedWriter
from engine.archive.questions import Level, Query
from engine.dicom import tags
from engine.errors import PushFailed
from engine.exchange import fhir_push
from engine.exchange.fhir_push import FAILED_MAX, TRIES, Pushed, Server, push
from engine.fhir.release import Release
from tests import samples
from tests.actors import actor
from tests.archive.feed.followed import writer_of
from tests.cli import commands

STUDIES = 7


class Records:
    """A FHIR server as the standard has it: conditional update and delete by identifier."""

    def __init__(self) -> None:
        self.resources: dict[int, dict[str, Any]] = {}
        self.statuses: list[int] = []
        """Of the next answers, before it does anything."""
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        self.lock = threading.Lock()
        self._next = 1

    def matching(self, identifier: str) -> list[int]:
        system, _, value = identifier.partition("|")
        return [
            number
            for number, resource in self.resources.items()
            if any(each.get("system") == system and each["value"] == value for each in resource["identifier"])
        ]

    def update(self, identifier: str, resource: dict[str, Any]) -> int:
        found = self.matching(identifier)
        if len(found) > 1:
            return 412
        number = found[0] if found else self._next
        self._next += not found
        self.resources[number] = resource
        return 200 if found else 201

    def delete(self, identifier: str) -> int:
        found = self.matching(identifier)
        for number in found:
            del self.resources[number]
        return 204 if found else 404

    def studies(self) -> list[int]:
        """The numbers of the studies that it has, each as often as it has it."""
        return sorted(int(each["identifier"][0]["value"].rpartition(".")[2]) for each in self.resources.values())


class _Handler(BaseHTTPRequestHandler):
    records: Records

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        (identifier,) = parse_qs(address.query)["identifier"]
        records = self.records
        with records.lock:
            records.requests.append((self.command, identifier))
            records.tokens.add(self.headers.get("Authorization"))
            if records.statuses:
                status = records.statuses.pop(0)
            elif address.path != "/fhir/ImagingStudy":
                status = 404
            elif self.command == "PUT":
                status = records.update(identifier, json.loads(body))
            else:
                status = records.delete(identifier)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def records() -> Iterator[tuple[Records, str]]:
    records = Records()
    handler = type("Handler", (_Handler,), {"records": records})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield records, f"http://127.0.0.1:{server.server_address[1]}/fhir"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive.open(tmp_path / "data", role="keeper", create=True) as archive:
        for study in range(1, STUDIES + 1):
            store(archive, study)
        yield archive


@pytest.fixture
def feed(archive: Archive) -> Iterator[FeedWriter]:
    writer = writer_of(archive)
    writer.follow()
    yield writer
    writer.close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fhir_push, "PAUSE_S", 0.0)


def store(archive: Archive, study: int, instance: int = 1, patient: str = "") -> None:
    data_set = samples.instance(study, 1, instance, patient_id=patient or f"P{study}")
    archive.store(samples.part10(data_set))


def run(archive: Archive, url: str, *, is_whole: bool = False, **more: Any) -> tuple[Pushed, list[str]]:
    """What a run did, and the studies that were recorded before they left."""
    recorded: list[str] = []

    def record(uids: Sequence[str]) -> None:
        recorded.extend(uids)

    return push(archive, Server(url=url, timeout_s=300, **more), record, is_whole=is_whole), recorded


def uids(*numbers: int) -> list[str]:
    return sorted(f"{samples.ROOT}.{number}" for number in numbers)


def test_the_first_run_pushes_every_study_and_a_repetition_writes_none_twice(
    archive: Archive, feed: FeedWriter, records: tuple[Records, str]
) -> None:
    server, url = records
    pushed, recorded = run(archive, url)
    assert (pushed.written, pushed.deleted, pushed.failed, pushed.is_whole) == (STUDIES, 0, {}, True)
    assert sorted(recorded) == uids(*range(1, STUDIES + 1))
    run(archive, url, is_whole=True)
    assert server.studies() == list(range(1, STUDIES + 1))
    assert run(archive, url)[1] == [] and server.tokens == {None}


def test_later_runs_push_what_has_changed(archive: Archive, feed: FeedWriter, records: tuple[Records, str]) -> None:
    server, url = records
    run(archive, url)
    store(archive, 3, instance=2)
    store(archive, 8, patient="P4")
    archive.delete(
        Query(Level.STUDY, {tags.StudyInstanceUID: f"{samples.ROOT}.5".encode()}), actor=actor(), reason="test"
    )
    sets = {tags.StudyDescription: "Head"}
    corrections.correct(archive, sets, study=f"{samples.ROOT}.6", actor=actor(), reason="test")
    corrections.merge(archive, "P4", "P2", in_advance=False, actor=actor(), reason="test")
    feed.follow()
    server.requests.clear()
    pushed, recorded = run(archive, url)
    assert not pushed.is_whole and pushed.deleted == 1
    # Those of both patients: the correction names them, not their studies.
    assert sorted(recorded) == uids(2, 3, 4, 5, 6, 8)
    assert server.studies() == [1, 2, 3, 4, 6, 7, 8]
    by_number = {each["identifier"][0]["value"].rpartition(".")[2]: each for each in server.resources.values()}
    assert by_number["3"]["numberOfInstances"] == 2 and by_number["6"]["description"] == "Head"
    assert {by_number[study]["subject"]["identifier"]["value"] for study in "248"} == {"P2"}


def test_what_fails_is_tried_again_and_the_next_run_repeats_it(
    archive: Archive, feed: FeedWriter, records: tuple[Records, str]
) -> None:
    server, url = records
    server.statuses = [503, 429, 500]
    assert run(archive, url)[0].failed == {} and len(server.requests) == STUDIES + 3
    store(archive, 2, instance=2)
    store(archive, 3, instance=2)
    feed.follow()
    server.statuses = [422]
    assert list(run(archive, url)[0].failed.values()) == ["it answered 422"]
    pushed, recorded = run(archive, url)
    assert pushed.failed == {} and sorted(recorded) == uids(2, 3)
    assert server.studies() == list(range(1, STUDIES + 1))


def test_a_server_that_is_down_ends_the_run(tmp_path: Path, records: tuple[Records, str]) -> None:
    server, url = records
    server.statuses = [503] * 10_000
    with Archive.open(tmp_path / "many", role="keeper", create=True) as archive:
        for study in range(1, 2 * fhir_push.STUDIES_AT_ONCE):
            store(archive, study)
        with pytest.raises(PushFailed, match="in a row"):
            run(archive, url)
    assert FAILED_MAX * TRIES <= len(server.requests) <= fhir_push.STUDIES_AT_ONCE * TRIES


@pytest.mark.parametrize("release", Release)
def test_what_is_pushed_has_nothing_of_our_addresses(
    archive: Archive, feed: FeedWriter, records: tuple[Records, str], release: Release
) -> None:
    server, url = records
    run(archive, url, dicomweb="https://pacs.example/dicom-web", release=release)
    for resource in server.resources.values():
        (r5_class if release is Release.R5 else r4_class)("ImagingStudy").model_validate(resource)
        assert "id" not in resource and "reference" not in resource["subject"]
        assert resource["contained"][0]["address"] == "https://pacs.example/dicom-web"
        assert resource["endpoint"] == [{"reference": "#dicom-wado-rs"}]


@pytest.mark.parametrize("url", ["http://ehr.example/fhir", "ftp://ehr.example", "ehr.example/fhir", "https://"])
def test_patients_go_nowhere_in_the_clear(url: str) -> None:
    with pytest.raises(PushFailed):
        Server(url=url)


def test_the_command_says_what_it_did(
    tmp_path: Path, records: tuple[Records, str], capsys: pytest.CaptureFixture[str]
) -> None:
    server, url = records
    data, token = tmp_path / "data", tmp_path / "token"
    token.write_text("secret\n")
    with Archive.open(data, role="keeper", create=True) as archive:
        store(archive, 1)
    arguments = ("fhir", "push", url, "--data", str(data), "--token-file", str(token))
    (facts,) = commands.rows(capsys, *arguments)
    assert (facts["written"], facts["failed"], facts["pushed"]) == (1, 0, "every study")
    assert server.studies() == [1] and server.tokens == {"Bearer secret"}
    server.statuses = [403]
    code, out, _ = commands.run(capsys, *arguments)
    assert code == 1 and "it answered 403" in out
