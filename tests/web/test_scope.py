"""What is out of scope does not exist over HTTP: each answer is that of an archive of the visible studies alone."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.access import ARCHIVE, FULL, Action, Policy, Principal, Scope, Target
from engine.access.scope import Attribute, Matching, OneOfStudies, scope_of
from engine.archive.archive import Archive
from engine.archive.jobs.job import FAILED, SEND, Job, Work
from engine.archive.jobs.job_files import new_id
from engine.orders.entry_values import order_of
from engine.orders.rows import AskedRow
from engine.orders.values import Source
from tests import samples
from tests.system.server import wait_for
from tests.web.hosting import Hosting
from tests.web.serving import serving

STUDIES = 12
ROOT = "/dicom-web"
WADO_TYPES = ("", "/rendered", "/thumbnail", "/metadata")


class Narrowed(Policy):
    """The rules of an open archive, with a scope that the test chooses."""

    chosen: Scope = FULL

    def scope(self, principal: Principal, action: Action, target: Target = ARCHIVE) -> Scope:
        return self.chosen


class Client:
    """Answers as status, headers and bytes."""

    def __init__(self, hosting: Hosting) -> None:
        self.hosting = hosting
        self.rules = Narrowed(lambda: hosting.engine.config, hosting.engine.access.directory)  # type: ignore[attr-defined]
        hosting.engine.access = self.rules

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.hosting.port, timeout=120)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            self.headers = response.headers
            return response.status, response.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        status, body = self.ask(path, Accept="application/json")
        assert status == 200, (path, status, body)
        return json.loads(body)

    def post(self, path: str, body: object) -> tuple[int, bytes]:
        return self.ask(path, "POST", json.dumps(body).encode(), Content_Type="application/json")


def uid_of(study: int) -> str:
    return str(samples.instance(study, 1, 1).StudyInstanceUID)


def filled(data: Path, studies: list[int]) -> None:
    with Archive.open(data, role="keeper", create=True) as archive:
        for study in studies:
            for series in (1, 2):
                for number in (1, 2):
                    archive.store(samples.part10(made(study, series, number)))


def made(study: int, series: int, number: int) -> Any:
    return samples.instance(
        study,
        series,
        number,
        patient_id=f"P{study // 3}",
        patient_name=f"Name{study % 5}^A",
        modality="CT" if study % 2 else "MR",
        InstitutionName=f"House {study % 4}",
        AccessionNumber=f"A{study}",
    )


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    data = tmp_path_factory.mktemp("scope") / "data"
    filled(data, list(range(1, STUDIES + 1)))
    with serving(data) as hosting:
        yield Client(hosting)


SCOPES: list[tuple[Scope, set[int]]] = [
    (scope_of([frozenset({Matching.of(Attribute.INSTITUTION, ["house 1"])})]), {1, 5, 9}),
    (scope_of([frozenset({OneOfStudies(frozenset({uid_of(4), uid_of(7)}))})]), {4, 7}),
    (scope_of([]), set()),
]
SEARCHES = [
    f"{ROOT}/studies?includefield=all",
    f"{ROOT}/studies?PatientID=*&includefield=NumberOfPatientRelatedStudies&includefield=NumberOfPatientRelatedInstances",
    f"{ROOT}/studies?PatientName=name*&fuzzymatching=true",
    f"{ROOT}/studies?ModalitiesInStudy=MR&limit=2",
    f"{ROOT}/studies?limit=1&offset=1",
    f"{ROOT}/series?Modality=CT",
    f"{ROOT}/instances?limit=5",
    *(f"{ROOT}/studies/{uid_of(study)}/{level}" for study in (1, 4, 6) for level in ("series", "instances")),
    "/api/studies?count=true&order=PatientName&limit=3",
    "/api/studies?count=true&order=-received&arrivals=true",
    "/api/studies?order=size&position=1&limit=2",
    "/api/studies?order=AccessionNumber&from=A5",
    "/api/studies?count=true&PatientName=name1*",
    "/api/studies/totals?PatientName=*",
    "/api/studies.csv?order=AccessionNumber",
    "/fhir/ImagingStudy?_total=accurate&_count=2&_include=ImagingStudy:patient",
    "/fhir/ImagingStudy?_summary=count&modality=MR",
    "/fhir/Patient?_total=accurate&_count=2",
    "/fhir/Patient?_summary=count&name=name",
    *(f"/fhir/ImagingStudy/{uid_of(study)}" for study in (1, 4, 6)),
]


def without_places(text: bytes, port: int) -> bytes:
    """An answer without what differs between two servers: port, cursors, times of arrival."""
    import re

    text = text.replace(str(port).encode(), b"PORT")
    text = re.sub(rb"_page=[A-Za-z0-9_-]+|\(request [^)]*\)", b"", text)
    return re.sub(rb'"(next|first_received|last_received|lastUpdated)":("[^"]*"|null)', rb'"\1":0', text)


@pytest.mark.parametrize("number", range(len(SCOPES)))
def test_searches_answer_as_if_only_the_studies_in_scope_were_stored(
    client: Client, tmp_path: Path, number: int
) -> None:
    scope, visible = SCOPES[number]
    filled(tmp_path / "alone", sorted(visible))
    answers: dict[str, tuple[int, bytes, str | None]] = {}
    with serving(tmp_path / "alone") as hosting:
        alone = Client(hosting)
        for path in SEARCHES:
            status, body = alone.ask(path)
            answers[path] = status, without_places(body, hosting.port), alone.headers.get("X-Remaining-Count")
    client.rules.chosen = scope
    for path, expected in answers.items():
        status, body = client.ask(path)
        found = status, without_places(body, client.hosting.port), client.headers.get("X-Remaining-Count")
        assert found == expected, path


def entities(study: int) -> list[str]:
    series = f"{ROOT}/studies/{uid_of(study)}/series/{made(study, 1, 1).SeriesInstanceUID}"
    return [f"{ROOT}/studies/{uid_of(study)}", series, f"{series}/instances/{made(study, 1, 1).SOPInstanceUID}"]


def resources(study: int) -> list[str]:
    paths = [entity + form for entity in entities(study) for form in WADO_TYPES]
    instance = entities(study)[2]
    uids = made(study, 1, 1)
    paths += [f"{instance}/frames/1", f"{instance}/frames/1/rendered", f"{instance}/bulkdata/7FE00010"]
    paths += [f"{ROOT}/studies/{uid_of(study)}/pixeldata", f"/api/studies/{uid_of(study)}"]
    paths.append(f"/api/download?studies={uid_of(study)}")
    paths.append(f"/api/instances/{uids.SOPInstanceUID}/tags")
    paths.append(
        f"/wado?requestType=WADO&studyUID={uid_of(study)}&seriesUID={uids.SeriesInstanceUID}"
        f"&objectUID={uids.SOPInstanceUID}"
    )
    return paths


def test_what_is_out_of_scope_is_not_found_in_the_words_for_what_does_not_exist(client: Client) -> None:
    scope, visible = SCOPES[0]
    nowhere = resources(99)
    for hidden in (2, 6):
        assert hidden not in visible
        for path, path_of_none in zip(resources(hidden), nowhere, strict=True):
            client.rules.chosen = FULL
            status, _ = client.ask(path, Accept="*/*")
            etag = client.headers.get("ETag")
            assert status == 200, path
            client.rules.chosen = scope
            status, body = client.ask(path, Accept="*/*")
            none_status, none_body = client.ask(path_of_none, Accept="*/*")
            assert status == none_status == 404, path
            words = [json.loads(text)["detail"] for text in (body, none_body)]
            for uid in (f"{uid_of(hidden)}", f"{uid_of(99)}"):
                words = [text.replace(uid, "UID") for text in words]
            assert words[0] == words[1]
            if etag:
                assert client.ask(path, Accept="*/*", If_None_Match=etag)[0] == 404, f"the entity tag tells of {path}"
    for path in resources(5):
        client.rules.chosen = scope
        assert client.ask(path, Accept="*/*")[0] == 200, path


def test_changes_reach_only_what_is_in_scope(client: Client) -> None:
    scope, _ = SCOPES[0]
    client.rules.chosen = scope
    hidden, seen = uid_of(2), uid_of(5)
    before = client.hosting.engine.archive.stats()["instances"]
    for entity in entities(2):
        assert client.ask(entity, "DELETE")[0] == 404
    assert client.post("/api/holds", {"studies": [hidden], "reason": "r"})[0] == 404
    assert client.post("/api/holds", {"studies": [seen, hidden], "reason": "r"})[0] == 404
    assert client.post("/api/holds", {"studies": ["1.2.3.4"], "reason": "r", "in_advance": True})[0] == 404
    correction = {"operation": "correct_study", "study": hidden, "sets": {"AccessionNumber": "X"}, "reason": "r"}
    assert client.post("/api/corrections", correction)[0] == 404
    series = str(made(2, 1, 1).SeriesInstanceUID)
    correction = {"operation": "correct_series", "series": series, "sets": {"BodyPartExamined": "X"}, "reason": "r"}
    assert client.post("/api/corrections", correction)[0] == 404
    correction = {"operation": "correct_patient", "patient": "P0", "sets": {"PatientSex": "O"}, "reason": "r"}
    assert client.post("/api/corrections", correction)[0] == 404, "the patient has studies out of scope"
    merge = {"operation": "merge", "patient": "P1", "into": "P0", "reason": "r"}
    assert client.post("/api/corrections", merge)[0] == 404
    assert client.post("/api/trash/empty", {"everything": True, "reason": "r"})[0] == 404
    assert client.hosting.engine.archive.stats()["instances"] == before
    assert not client.hosting.engine.archive.holds()
    assert client.post("/api/holds", {"studies": [seen], "reason": "r"})[0] == 200
    client.rules.chosen = FULL
    assert client.post("/api/holds", {"studies": [hidden], "reason": "secret"})[0] == 200
    client.rules.chosen = scope
    assert [hold["study_instance_uid"] for hold in client.json("/api/holds")["holds"]] == [seen]
    client.rules.chosen = FULL
    assert client.post("/api/holds/release", {"studies": [seen, hidden], "reason": "r"})[0] == 200


def test_lists_of_administrators_tell_nothing_of_what_is_out_of_scope(client: Client) -> None:
    client.rules.chosen = FULL
    for study in (2, 5):
        correction = {"operation": "correct_study", "study": uid_of(study), "sets": {"StudyID": "S"}, "reason": "r"}
        assert client.post("/api/corrections", correction)[0] == 201
    client.rules.chosen = SCOPES[0][0]
    rows = client.json("/api/corrections?values=true")["corrections"]
    assert [row["names"] for row in rows] == [[uid_of(5)]]
    for path, name in (("trash", "trash"), ("quarantine", "quarantine"), ("damage", "damage"), ("jobs", "jobs")):
        assert client.json(f"/api/{path}")[name] == []


def test_jobs_of_others_and_the_log_are_not_there_for_who_sees_a_part(client: Client) -> None:
    files = client.hosting.engine.archive.job_files()
    work = Work(studies=(uid_of(2),))
    job = Job(id=new_id(), kind=SEND, peer="NOBODY", work=work, by="http:somebody", created_ns=1, state=FAILED)
    files.create(job)
    client.rules.chosen = FULL
    assert uid_of(2).encode() in client.ask(f"/api/jobs/{job.id}")[1]
    assert client.ask("/api/log")[0] == 200
    client.rules.chosen = SCOPES[0][0]
    assert client.ask(f"/api/jobs/{job.id}")[0] == client.ask(f"/api/jobs/{new_id()}")[0] == 404
    assert client.ask("/api/log")[0] == 404
    for change in ("cancel", "retry"):
        assert client.post(f"/api/jobs/{job.id}/{change}", {})[0] == 404
        for names in ({"ids": [job.id]}, {"state": FAILED}):
            assert json.loads(client.post(f"/api/jobs/{change}", names)[1])["count"] == 0


def test_an_instance_for_a_study_out_of_scope_is_kept_aside_and_answered_as_any_other(client: Client) -> None:
    scope, _ = SCOPES[0]
    engine = client.hosting.engine

    def store(data_set: Any) -> tuple[int, list[str]]:
        file = samples.part10(data_set)
        kind = {"Content_Type": "application/dicom", "Accept": "application/dicom+json"}
        status, body = client.ask(f"{ROOT}/studies", "POST", file, **kind)
        items = json.loads(body).get("00081199", {}).get("Value", [])
        return status, [item["00081155"]["Value"][0] for item in items]

    client.rules.chosen = scope
    before = {study: engine.archive.sizes([uid_of(study).encode()]) for study in (2, 5)}
    new_series = made(2, 7, 1)
    replacing = made(2, 1, 1)
    replacing.PatientComments = "forged"
    in_scope = made(5, 1, 3)
    moved = made(5, 1, 1)
    moved.SOPInstanceUID = made(2, 1, 1).SOPInstanceUID
    moved.file_meta.MediaStorageSOPInstanceUID = moved.SOPInstanceUID
    fresh = made(40, 1, 1)
    for data_set in (new_series, replacing, moved, in_scope, fresh):
        status, stored = store(data_set)
        assert (status, stored) == (200, [str(data_set.SOPInstanceUID)])
    assert engine.archive.sizes([uid_of(2).encode()]) == before[2]
    assert engine.archive.instance(str(new_series.SOPInstanceUID)) is None
    assert b"forged" not in engine.archive.read(engine.archive.instance(str(replacing.SOPInstanceUID)))  # type: ignore[arg-type]
    assert engine.archive.instance(str(in_scope.SOPInstanceUID)) is not None
    assert engine.archive.instance(str(fresh.SOPInstanceUID)) is not None
    wait_for(lambda: engine.archive.stats()["quarantined"] == 3, what="three instances in quarantine")
    assert store(new_series) == (200, [str(new_series.SOPInstanceUID)]), "and once more"


def test_a_commitment_is_given_for_what_is_in_scope_only(client: Client) -> None:
    client.rules.chosen = SCOPES[0][0]
    instances = [made(2, 1, 1), made(5, 1, 1), made(98, 1, 1)]
    items = [
        {
            "00081150": {"vr": "UI", "Value": [str(each.SOPClassUID)]},
            "00081155": {"vr": "UI", "Value": [str(each.SOPInstanceUID)]},
        }
        for each in instances
    ]
    body = json.dumps({"00081199": {"vr": "SQ", "Value": items}}).encode()
    path = f"{ROOT}/commitment-requests/1.2.{random.randrange(1 << 60)}"
    status, text = client.ask(path, "POST", body, Content_Type="application/dicom+json")
    while status == 202:
        status, text = client.ask(path)
    result = json.loads(text)
    assert [item["00081155"]["Value"][0] for item in result["00081199"]["Value"]] == [instances[1].SOPInstanceUID]
    failed = {item["00081155"]["Value"][0]: item["00081197"]["Value"][0] for item in result["00081198"]["Value"]}
    assert failed == {instances[0].SOPInstanceUID: 0x0112, instances[2].SOPInstanceUID: 0x0112}


def test_a_worklist_shows_the_entries_of_the_scope_and_why_is_for_who_sees_everything(client: Client) -> None:
    for modality, number in (("CT", 1), ("MR", 2)):
        values = {"PatientID": f"W{number}", "Modality": modality, "ScheduledStationAETitle": f"{modality}1"}
        client.hosting.engine.orders().apply(order_of({**values, "AccessionNumber": f"W{number}"}), Source(name="test"))
    client.hosting.engine.orders().note_asked("CT1", AskedRow(keys=(), matches=0, time=1.0))
    for scope, expected in (
        (FULL, {"W1", "W2"}),
        (scope_of([frozenset({Matching.of(Attribute.MODALITY, ["ct"])})]), {"W1"}),
        (scope_of([]), set()),
    ):
        client.rules.chosen = scope
        assert {entry["PatientID"] for entry in client.json("/api/worklist")["entries"]} == expected
        assert bool(client.json("/api/worklist/stations")["stations"]) == (scope is FULL)
        assert client.ask("/api/worklist/why?aet=CT1")[0] == (200 if scope is FULL else 404)
