"""DiagnosticReport over HTTP: stored reports, read, searched, paged and exported. One server for all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedSRStorage

from engine.access import ARCHIVE, Action, Policy, Principal, Scope, Target
from engine.access.scope import Attribute, Matching, scope_of
from engine.archive.archive import Archive
from engine.archive.reports import ReportDocuments
from engine.orders.values import ReportState
from tests import samples
from tests.archive.test_reports import DOCUMENTS, report
from tests.web.fhir_asking import checked, found, get, next_of
from tests.web.hosting import Hosting, hosted

UIDS: dict[str, str] = {}
"""SOP Instance UIDs of the documents that came with messages, by kind."""


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def structured(study: int, number: int, **more: object) -> Dataset:
    """A structured report in series 2 of a study."""
    item = Dataset()
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", "No effusion"
    item.ConceptNameCodeSequence = [code("121071", "DCM", "Finding")]
    found = samples.instance(
        study, 2, number, sop_class_uid=EnhancedSRStorage, modality="SR", patient_id=f"P{study}",
        study_date=f"202601{study:02}", ContentSequence=[item], ContentDate="20260131", ContentTime="1200",
        **{"CompletionFlag": "COMPLETE", "VerificationFlag": "UNVERIFIED", "ValueType": "CONTAINER",
           "ConceptNameCodeSequence": [code("18748-4", "LN", "Diagnostic imaging report")], **more},
    )  # fmt: skip
    del found.PixelData, found.Rows, found.Columns
    return found


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    data = tmp_path_factory.mktemp("reports") / "data"
    data_sets = [
        samples.instance(study, 1, 1, patient_id=f"P{study}", study_date=f"202601{study:02}") for study in (1, 2)
    ]
    data_sets += [
        structured(1, 1, VerificationFlag="VERIFIED", TimezoneOffsetFromUTC="+0100"),
        structured(1, 2),
        structured(1, 3, CompletionFlag="PARTIAL", NameOfPhysiciansReadingStudy="Read^Rita\\Other^One"),
        structured(3, 1, VerificationFlag="VERIFIED", InstitutionName="House 3"),
        structured(4, 1, ConceptNameCodeSequence=[code("126000", "DCM", "Imaging Measurement Report")]),
    ]
    with Archive.open(data, role="keeper", create=True) as archive:
        for data_set in data_sets:
            archive.store(samples.part10(data_set))
        for document in DOCUMENTS:
            # The accession number of study 2, and its patient: they join that study.
            state = ReportState.PRELIMINARY if document.kind == "cda" else ReportState.FINAL
            update = replace(report("P2", "A2"), state=state)
            UIDS[document.kind] = ReportDocuments(archive).store(update, document, document.data, 1)[1]
    with hosted(data) as hosting:
        yield hosting


def uid(study: int, number: int) -> str:
    return f"{samples.ROOT}.{study}.2.{number}"


@pytest.mark.parametrize("is_r5", [False, True], ids=["R4", "R5"])
def test_a_report_is_read_with_the_addresses_of_its_document(hosting: Hosting, is_r5: bool) -> None:
    report = get(hosting, f"DiagnosticReport/{uid(1, 1)}", is_r5=is_r5)
    assert report["identifier"][0] == {"system": "urn:dicom:uid", "value": f"urn:oid:{uid(1, 1)}"}
    assert report["status"] == "final" and report["subject"]["reference"] == "Patient/P1"
    assert report["basedOn"][0]["identifier"]["value"] == "A1"
    assert report["code"]["coding"][0]["code"] == "18748-4" and report["category"][0]["coding"][0]["code"] == "RAD"
    assert report["effectiveDateTime"].startswith("2026-01-01T10:11:12+01:00")
    assert report["issued"] == "2026-01-31T12:00:00+01:00"
    (study,) = report["study" if is_r5 else "imagingStudy"]
    assert get(hosting, study["reference"], is_r5=is_r5)["id"] == f"{samples.ROOT}.1"
    forms = {form["contentType"]: form["url"] for form in report["presentedForm"]}
    assert set(forms) == {"text/html", "text/plain"}
    for media_type, url in forms.items():
        # As records systems ask for whatever they have an address of.
        answer = requests.get(url, headers={"Accept": "application/fhir+json, */*"}, timeout=60)
        assert answer.status_code == 200 and answer.headers["Content-Type"].startswith(media_type)
        assert "No effusion" in answer.text


@pytest.mark.parametrize("kind", ["pdf", "cda", "text"])
def test_what_came_with_a_message_is_a_report(hosting: Hosting, kind: str) -> None:
    report = get(hosting, f"DiagnosticReport/{UIDS[kind]}")
    assert report["status"] == ("preliminary" if kind == "cda" else "final")
    assert report["subject"]["identifier"]["value"] == "P2"
    (document,) = (each for each in DOCUMENTS if each.kind == kind)
    form = report["presentedForm"][-1]
    answer = requests.get(form["url"], timeout=60)
    assert answer.status_code == 200 and answer.headers["Content-Type"].startswith(form["contentType"])
    assert document.data in answer.content if kind != "text" else b"Erguss" in answer.content


OF_1 = {uid(1, 1), uid(1, 2), uid(1, 3)}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("patient=Patient/P1", OF_1),
        ("patient.identifier=P3", {uid(3, 1)}),
        ("based-on:identifier=A1&status=final", {uid(1, 1)}),
        ("identifier=A4", {uid(4, 1)}),
        (f"identifier=urn:dicom:uid|urn:oid:{uid(1, 2)}", {uid(1, 2)}),
        (f"_id={uid(1, 3)},{uid(3, 1)}", {uid(1, 3), uid(3, 1)}),
        (f"study=ImagingStudy/{samples.ROOT}.3", {uid(3, 1)}),
        (f"imaging-study={samples.ROOT}.1&status=preliminary,partial", {uid(1, 2), uid(1, 3)}),
        ("date=ge2026-01-03", {uid(3, 1), uid(4, 1)}),
        ("code=http://loinc.org|18748-4&patient=P1", OF_1),
        ("code=126000", {uid(4, 1)}),
        ("code=|126000", set()),
        ("category=RAD&patient=P3", {uid(3, 1)}),
        ("category=http://loinc.org|LP29684-5&patient=P3", {uid(3, 1)}),
        ("category=LAB", set()),
        ("status=amended", set()),
        ("patient=nobody", set()),
    ],
)
def test_searches_find_reports(hosting: Hosting, query: str, expected: set[str]) -> None:
    bundle = get(hosting, f"DiagnosticReport?{query}&_total=accurate")
    assert set(found(bundle)) == expected and len(found(bundle)) == len(expected) == bundle["total"]


@pytest.mark.parametrize("count", [1, 2, 3, 50])
@pytest.mark.parametrize("sort", ["date", "-date"])
def test_pages_have_each_report_once(hosting: Hosting, count: int, sort: str) -> None:
    path: str | None = f"DiagnosticReport?_count={count}&_sort={sort}"
    ids: list[str] = []
    while path is not None:
        bundle = get(hosting, path)
        assert len(found(bundle)) <= count
        ids += found(bundle)
        path = next_of(bundle, hosting)
    assert set(ids) == {*OF_1, uid(3, 1), uid(4, 1), *UIDS.values()} and len(ids) == 8
    studies = [int(each.split(".")[-3]) if each.startswith(samples.ROOT) else 2 for each in ids]
    assert studies == sorted(studies, reverse=sort == "-date")


def test_a_page_keeps_its_place_while_reports_come_and_go(hosting: Hosting) -> None:
    first = get(hosting, "DiagnosticReport?_count=1&_sort=date")
    path = next_of(first, hosting)
    assert found(first) == [uid(1, 1)] and path is not None
    # The study that the place names is not there any more: what follows is shown from its beginning.
    gone = path.replace(f"{samples.ROOT}.1%2F", f"{samples.ROOT}.0%2F")
    assert gone != path and found(get(hosting, gone)) == [uid(1, 1)]
    assert found(get(hosting, path)) == [uid(1, 2)]


@pytest.mark.parametrize("is_r5", [False, True], ids=["R4", "R5"])
def test_bundles_include_studies_patients_and_reports(hosting: Hosting, is_r5: bool) -> None:
    query = "DiagnosticReport?patient=P1&_include=DiagnosticReport:study&_include=DiagnosticReport:patient"
    assert found(get(hosting, query, is_r5=is_r5), "include") == ["P1", f"{samples.ROOT}.1"]
    query = "ImagingStudy?patient=P1&_revinclude=DiagnosticReport:imaging-study"
    assert set(found(get(hosting, query, is_r5=is_r5), "include")) == OF_1
    only = get(hosting, f"DiagnosticReport?_id={uid(1, 1)}&_elements=issued")["entry"][0]["resource"]
    assert {"issued", "code", "status", "subject"} <= set(only) and "presentedForm" not in only


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"DiagnosticReport/{samples.ROOT}.1.1.1", 404),  # an image
        ("DiagnosticReport/1.2.3", 404),
        ("DiagnosticReport/%2A", 404),
        ("DiagnosticReport?_page=AAAA.", 400),
        ("DiagnosticReport?_page=." + "1" * 400, 400),
        ("DiagnosticReport?_sort=started", 400),
        ("DiagnosticReport?patient=*", 400),
        ("DiagnosticReport?_include=DiagnosticReport:result", 400),
        ("DiagnosticReport?result=1", 400),
    ],
)
def test_errors_are_outcomes(hosting: Hosting, path: str, status: int) -> None:
    assert get(hosting, path, status=status)["resourceType"] == "OperationOutcome"


def test_reports_are_exported_once(hosting: Hosting) -> None:
    headers = {"Prefer": "respond-async"}
    answer = requests.get(f"{hosting.url}/fhir/$export?_type=DiagnosticReport", headers=headers, timeout=60)
    (output,) = requests.get(answer.headers["Content-Location"], timeout=60).json()["output"]
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in requests.get(output["url"], timeout=60).text.splitlines()
    ]
    assert len(lines) == 8
    for line in lines:
        assert checked(line) == get(hosting, f"DiagnosticReport/{line['id']}")


def test_whoever_may_not_see_a_study_sees_none_of_its_reports(
    hosting: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scope_of([frozenset({Matching.of(Attribute.INSTITUTION, ["house 3"])})])

    def scope(self: Policy, principal: Principal, action: Action, target: Target = ARCHIVE) -> Scope:
        return seen

    monkeypatch.setattr(Policy, "scope", scope)
    bundle = get(hosting, "DiagnosticReport?_total=accurate&_include=DiagnosticReport:study")
    assert found(bundle) == [uid(3, 1)] and bundle["total"] == 1
    assert found(bundle, "include") == [f"{samples.ROOT}.3"]
    get(hosting, f"DiagnosticReport/{uid(1, 1)}", status=404)
    assert not found(get(hosting, "DiagnosticReport?patient=P1"))
