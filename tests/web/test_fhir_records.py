"""Provenance and AuditEvent over HTTP: where a study comes from, and who did what. One server for all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from fhir.resources import get_fhir_model_class as r5_class
from fhir.resources.R4B import get_fhir_model_class as r4_class

from engine.archive.admin import corrections
from engine.archive.archive import Archive
from engine.audit import Event, Kind, Outcome, Recorder
from engine.dicom import tags
from tests import samples
from tests.actors import actor
from tests.audit.recording import recording, stored
from tests.web.hosting import Hosting
from tests.web.serving import serving

COUNT = 9
R5 = {"Accept": "application/fhir+json; fhirVersion=5.0"}
STUDY = f"{samples.ROOT}.1"


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    data = tmp_path_factory.mktemp("records") / "data"
    with Archive.open(data, role="keeper", create=True) as archive:
        archive.store(samples.part10(samples.instance(1, 1, 1)))
        sets = {tags.StudyDescription: "Head"}
        corrections.correct(archive, sets, study=STUDY, actor=actor("ann"), reason="it was the head")
    recorder = Recorder(data)
    for number in range(COUNT):
        recorder.begin_now(stored(f"1.2.{number}", count=number + 1))
    recorder.begin_now(Event(kind=Kind.LOGIN, outcome=Outcome.MINOR, detail="wrong password"))
    recorder.begin_now(Event(kind=Kind.QUERY, query="PatientName=DOE*"))
    recorder.close()
    with recording(data), serving(data) as hosting:
        yield hosting


def get(hosting: Hosting, path: str, *, is_r5: bool = False, status: int = 200) -> dict[str, Any]:
    answer = requests.get(f"{hosting.url}/fhir/{path}", headers=R5 if is_r5 else {}, timeout=60)
    assert answer.status_code == status, answer.text
    resource: dict[str, Any] = answer.json()
    (r5_class if is_r5 else r4_class)(resource["resourceType"]).model_validate(resource)
    return resource


def found(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    return [each["resource"] for each in bundle.get("entry", [])]


def studies(bundle: dict[str, Any]) -> list[str]:
    return [
        entity["what"]["reference"].removeprefix("ImagingStudy/")
        for event in found(bundle)
        for entity in event.get("entity", [])
        if "reference" in entity.get("what", {})
    ]


@pytest.mark.parametrize("is_r5", [False, True], ids=["R4", "R5"])
def test_a_study_says_who_sent_and_who_corrected_it(hosting: Hosting, is_r5: bool) -> None:
    sent, corrected = found(get(hosting, f"Provenance?target=ImagingStudy/{STUDY}", is_r5=is_r5))
    assert sent["activity"]["coding"][0]["code"] == "CREATE" and "occurredPeriod" in sent
    assert corrected["activity"]["coding"][0]["code"] == "UPDATE"
    assert corrected["agent"][0]["who"]["display"] == "ann"
    reason = corrected["authorization"][0]["concept"] if is_r5 else corrected["reason"][0]
    assert reason["text"] == "it was the head"
    assert found(get(hosting, "Provenance?target=ImagingStudy/1.2.99", is_r5=is_r5)) == []
    get(hosting, "Provenance", status=400)


@pytest.mark.parametrize("is_r5", [False, True], ids=["R4", "R5"])
def test_events_are_resources_that_others_read(hosting: Hosting, is_r5: bool) -> None:
    events = found(get(hosting, "AuditEvent?_count=100", is_r5=is_r5))
    assert {each["action"] for each in events} >= {"C", "E"}
    for each in events[:3]:
        assert get(hosting, f"AuditEvent/{each['id']}", is_r5=is_r5) == each
    for path in ("AuditEvent/000-999999", "AuditEvent/x", "AuditEvent/999-1"):
        get(hosting, path, status=404)


def test_pages_lead_through_all_events_the_newest_first(hosting: Hosting) -> None:
    bundle = get(hosting, "AuditEvent?type=received&_count=4")
    seen = studies(bundle)
    while (link := next((each["url"] for each in bundle["link"] if each["relation"] == "next"), None)) is not None:
        bundle = get(hosting, link.removeprefix(f"{hosting.url}/fhir/"))
        seen += studies(bundle)
    assert seen == [f"1.2.{number}" for number in reversed(range(COUNT))]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("entity=ImagingStudy/1.2.7", 1),
        ("patient=Patient/P1&type=received", COUNT),
        ("patient.identifier=P1&agent-name=CT1&type=received", COUNT),
        ("agent-name=CT2", 0),
        ("outcome=4&type=login", 1),
        ("type=received&date=ge2999-01-01", 0),
        ("type=received&date=lt1999", 0),
        ("type=received&date=ge2020-01-01T00:00:00Z", COUNT),
    ],
)
def test_conditions_narrow_the_search(hosting: Hosting, query: str, count: int) -> None:
    assert len(found(get(hosting, f"AuditEvent?{query}&_count=100"))) == count


def test_reading_the_log_is_in_the_log(hosting: Hosting) -> None:
    get(hosting, "AuditEvent?patient.identifier=SECRET")
    newest = found(get(hosting, "AuditEvent?type=audit-read&_count=2"))
    assert newest[1]["outcomeDesc"] == "patient=SECRET"


@pytest.mark.parametrize(
    "query", ["type=sent,query", "outcome=9", "date=soon", "_page=x", "_total=accurate", "patient=P.ZZ", "entity=1,2"]
)
def test_what_is_wrong_has_an_outcome(hosting: Hosting, query: str) -> None:
    assert get(hosting, f"AuditEvent?{query}", status=400)["resourceType"] == "OperationOutcome"
