"""What HTTP clients do is in the audit log: a pair of events a session and study, an event a search, none a frame."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from engine.archive.archive import Archive
from tests import samples
from tests.audit.recording import events, recording, wait_until
from tests.faulty_files import FaultyFiles
from tests.web.hosting import Hosting
from tests.web.serving import serving

STUDY = f"{samples.ROOT}.1"
INSTANCE = f"{STUDY}/series/{samples.ROOT}.1.1/instances/{samples.ROOT}.1.1.1"
FRAME = {"Accept": "application/octet-stream"}


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture
def server(tmp_path: Path, files: FaultyFiles) -> Iterator[Hosting]:
    data = tmp_path / "data"
    with Archive.open(data, role="keeper", create=True) as archive:
        for number in (1, 2):
            archive.store(samples.part10(samples.instance(1, 1, number)))
    with recording(data, files=files), serving(data) as hosting:
        yield hosting


def kinds(server: Hosting) -> Counter[str]:
    return Counter(event["kind"] for event in events(server.engine.archive.parts.layout.data))


def test_a_session_that_reads_a_study_leaves_one_beginning_on_the_disk(server: Hosting) -> None:
    root = f"{server.url}/dicom-web/studies"
    with requests.Session() as session:
        answer = session.get(f"{root}/{INSTANCE}")
        assert answer.status_code == 200, answer.text
        found = events(server.engine.archive.parts.layout.data)
        assert [(event["kind"], event["study"], event["patient"]["id"]) for event in found] == [
            ("sending", STUDY, "P1")
        ]
        assert found[0]["who"] == {"kind": "http", "address": "127.0.0.1"} and found[0]["action"] == "WADO-RS"
        frame = f"{INSTANCE}/frames/1"
        for path in (STUDY, f"{STUDY}/metadata", frame, frame, f"{INSTANCE}/rendered"):
            assert session.get(f"{root}/{path}", headers=FRAME if "frames" in path else {}).status_code == 200
        assert session.get(f"{server.url}/api/instances/{samples.ROOT}.1.1.1/tags").status_code == 200
    assert kinds(server) == {"sending": 1}
    reads = server.engine.archive.parts.layout.data / "reads"
    assert {line for path in reads.iterdir() for line in path.read_text().split()} == {STUDY}


def test_the_end_of_the_session_says_how_much_was_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Archive.open(data, role="keeper", create=True) as archive:
        archive.store(samples.part10(samples.instance(1, 1, 1)))
    with recording(data):
        with serving(data) as hosting, requests.Session() as session:
            for _ in range(3):
                url = f"{hosting.url}/dicom-web/studies/{INSTANCE}/frames/1"
                assert session.get(url, headers=FRAME).status_code == 200
    found = events(data)
    assert [event["kind"] for event in found] == ["sending", "sent"]
    assert found[1]["detail"] == "3 answers" and found[1]["study"] == STUDY


def test_what_is_not_there_is_not_recorded(server: Hosting) -> None:
    assert requests.get(f"{server.url}/dicom-web/studies/1.2.3/metadata").status_code == 404
    assert not kinds(server)


def test_searches_views_downloads_and_uploads_are_recorded(server: Hosting) -> None:
    data = server.engine.archive.parts.layout.data
    assert requests.get(f"{server.url}/dicom-web/studies?PatientName=DOE*").status_code == 200
    for position in (0, 1):  # a scroll
        assert requests.get(f"{server.url}/api/studies?PatientID=P1&position={position}").status_code == 200
    for _ in range(2):
        assert requests.get(f"{server.url}/api/studies/{STUDY}").status_code == 200
    assert requests.get(f"{server.url}/fhir/ImagingStudy/{STUDY}").status_code == 200
    form = {"patient": "P1"}
    assert requests.post(f"{server.url}/fhir/ImagingStudy/_search?_count=1", data=form).status_code == 200
    assert requests.get(f"{server.url}/api/download?studies={STUDY}").status_code == 200
    part10 = samples.part10(samples.instance(2, 1, 1))
    headers = {"Content-Type": "application/dicom"}
    assert requests.post(f"{server.url}/dicom-web/studies", part10, headers=headers).status_code == 200

    def is_complete() -> bool:
        return kinds(server) == {"query": 3, "viewed": 1, "exported": 1, "received": 1}

    wait_until(is_complete)
    queries = [event["query"] for event in events(data) if event["kind"] == "query"]
    assert sorted(queries) == [
        "/api/studies PatientID=P1",
        "/dicom-web/studies PatientName=DOE*",
        "/fhir/ImagingStudy/_search _count=1 patient=P1",
    ]
    (received,) = [event for event in events(data) if event["kind"] == "received"]
    assert (received["study"], received["count"], received["action"]) == (f"{samples.ROOT}.2", 1, "STOW-RS")


def test_with_a_full_audit_disk_reading_is_refused_and_storing_goes_on(server: Hosting, files: FaultyFiles) -> None:
    with requests.Session() as session:
        url = f"{server.url}/dicom-web/studies/{INSTANCE}/frames/1"
        assert session.get(url, headers=FRAME).status_code == 200
        files.fail("pwritev", errno.ENOSPC, repeat=True)
        other = f"{server.url}/dicom-web/studies/{STUDY}"
        server.on_loop(server.front.audited.end)  # a new session begins
        assert session.get(other).status_code == 503
        assert session.get(url, headers=FRAME).status_code == 503
        assert session.get(f"{server.url}/dicom-web/studies").status_code == 503
        assert session.get(f"{server.url}/api/studies/{STUDY}").status_code == 503
        assert session.get(f"{server.url}/fhir/ImagingStudy/{STUDY}").status_code == 503
        assert session.get(f"{server.url}/fhir/Patient?name=Doe").status_code == 503
        assert session.get(f"{server.url}/api/download?studies={STUDY}").status_code == 503
        part10 = samples.part10(samples.instance(3, 1, 1))
        headers = {"Content-Type": "application/dicom"}
        assert session.post(f"{server.url}/dicom-web/studies", part10, headers=headers).status_code == 200
        files.heal()
