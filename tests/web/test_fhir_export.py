"""$export over HTTP: what somebody may see as ndjson, by the asynchronous pattern. One server for all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from fhir.resources.R4B import get_fhir_model_class

from engine.access import ARCHIVE, Action, Policy, Principal, Scope, Target
from engine.access.scope import Attribute, Matching, scope_of
from engine.archive.archive import Archive
from engine.archive.exports import COUNT_MAX, KEPT_S, OWN_MAX, ExportFiles
from engine.errors import JobsFull
from tests import samples
from tests.web.hosting import Hosting, hosted

STUDIES = 120
ASYNC = {"Accept": "application/fhir+json", "Prefer": "respond-async"}


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    data = tmp_path_factory.mktemp("export") / "data"
    with Archive.open(data, role="keeper", create=True) as archive:
        for study in range(1, STUDIES + 1):
            modality = "MR" if study % 3 == 0 else "CT"
            data_set = samples.instance(study, 1, 1, patient_id=f"P{study // 2}", modality=modality)
            archive.store(samples.part10(data_set))
    with hosted(data) as hosting:
        yield hosting


def begun(hosting: Hosting, path: str = "$export", status: int = 202, **headers: str) -> requests.Response:
    answer = requests.get(f"{hosting.url}/fhir/{path}", headers={**ASYNC, **headers}, timeout=60)
    assert answer.status_code == status, answer.text
    return answer


def exported(hosting: Hosting, path: str = "$export") -> dict[str, list[dict[str, Any]]]:
    """The resources of each file."""
    answer = requests.get(begun(hosting, path).headers["Content-Location"], timeout=60)
    manifest = answer.json()
    assert (
        manifest["error"] == [] and manifest["request"] == f"{hosting.url}/fhir/{path}" and "Expires" in answer.headers
    )
    files = {}
    for output in manifest["output"]:
        content = requests.get(output["url"], timeout=60)
        assert content.status_code == 200 and content.headers["Content-Type"] == "application/fhir+ndjson"
        files[output["type"]] = [json.loads(line) for line in content.text.splitlines()]
    return files


def test_everything_is_exported_once(hosting: Hosting) -> None:
    for path in ("$export", "Patient/$export"):
        files = exported(hosting, path)
        ids = [each["id"] for each in files["ImagingStudy"]]
        assert sorted(ids) == sorted(f"{samples.ROOT}.{study}" for study in range(1, STUDIES + 1))
        assert sorted(each["id"] for each in files["Patient"]) == sorted({f"P{n // 2}" for n in range(1, STUDIES + 1)})
    for kind, resources in files.items():
        for resource in resources[:5]:
            get_fhir_model_class(kind).model_validate(resource)
    one = files["ImagingStudy"][0]
    searched = requests.get(f"{hosting.url}/fhir/ImagingStudy?_id={one['id']}", timeout=60).json()
    assert searched["entry"][0]["resource"] == one


def test_types_and_time_narrow_it(hosting: Hosting) -> None:
    assert set(exported(hosting, "$export?_type=Patient")) == {"Patient"}
    now = datetime.now(UTC)
    for since, count in ((now - timedelta(days=1), STUDIES), (now + timedelta(days=1), 0)):
        files = exported(hosting, f"$export?_since={since:%Y-%m-%dT%H:%M:%SZ}")
        assert len(files["ImagingStudy"]) == count and bool(files["Patient"]) is bool(count)


class _Narrowed(Policy):
    chosen: Scope

    def scope(self, principal: Principal, action: Action, target: Target = ARCHIVE) -> Scope:
        return self.chosen


def test_a_file_has_what_its_reader_may_see(hosting: Hosting) -> None:
    engine = hosting.engine
    before = engine.access
    rules = _Narrowed(lambda: engine.config, before.directory)  # type: ignore[attr-defined]
    rules.chosen = scope_of([frozenset({Matching.of(Attribute.MODALITY, ["mr"])})])
    hosting.engine.access = rules
    try:
        files = exported(hosting)
    finally:
        hosting.engine.access = before
    expected = range(3, STUDIES + 1, 3)
    assert {each["id"] for each in files["ImagingStudy"]} == {f"{samples.ROOT}.{study}" for study in expected}
    assert {each["id"] for each in files["Patient"]} == {f"P{study // 2}" for study in expected}


def test_a_cancelled_export_is_gone(hosting: Hosting) -> None:
    address = begun(hosting).headers["Content-Location"]
    assert requests.delete(address, timeout=60).status_code == 202
    for path in ("", "/ImagingStudy"):
        assert requests.get(address + path, timeout=60).status_code == 404
    assert requests.delete(address, timeout=60).status_code == 404


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("$export", {"Prefer": ""}),
        ("$export?_type=Observation", {}),
        ("$export?_since=yesterday", {}),
        ("$export?_outputFormat=csv", {}),
        ("$export?_typeFilter=ImagingStudy%3Fmodality%3DCT", {}),
    ],
)
def test_what_cannot_be_exported_is_refused(hosting: Hosting, path: str, headers: dict[str, str]) -> None:
    assert begun(hosting, path, 400, **headers).json()["resourceType"] == "OperationOutcome"
    if "Prefer" not in headers and "_since" not in path and "Format" not in path:
        begun(hosting, path, 202, Prefer="respond-async, handling=lenient")


def test_exports_survive_a_restart_for_a_day_and_are_not_many(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "data", role="keeper", create=True) as archive:
        layout, files = archive.parts.layout, archive.parts.files
        now = [1_800_000_000.0]
        kept = ExportFiles(layout, files, lambda: now[0])
        facts: dict[str, Any] = {"by": "http:ann", "request": "x", "kinds": ("Patient",), "since": "", "release": "4.0"}
        export = kept.add(**facts)
        assert ExportFiles(layout, files, lambda: now[0] + KEPT_S - 1).load(export.id) == export
        assert ExportFiles(layout, files, lambda: now[0] + KEPT_S).load(export.id) is None
        assert kept.load("../../archive") is None
        for _ in range(OWN_MAX - 1):
            kept.add(**facts)
        with pytest.raises(JobsFull, match="you have"):
            kept.add(**facts)
        for number in range(COUNT_MAX - OWN_MAX):
            kept.add(**{**facts, "by": f"http:user{number}"})
        with pytest.raises(JobsFull, match="there are"):
            kept.add(**{**facts, "by": "http:bob"})
        now[0] += KEPT_S
        kept.add(**facts)
        assert len(list((tmp_path / "data" / "exports").iterdir())) == 1
