"""fhir.search: parameters as keys of DICOM."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from engine.dicom import tags
from engine.errors import RequestError
from engine.fhir.search import COUNT_MAX, IMAGING_STUDY, PATIENT, Pairs, Parameter, Search, parse

ROOT = "https://pacs.example/fhir"


def search(*pairs: tuple[str, str], of: Mapping[str, Parameter] = IMAGING_STUDY, is_lenient: bool = False) -> Search:
    given: Pairs = pairs
    return parse(of, given, ROOT, is_lenient=is_lenient)


@pytest.mark.parametrize(
    ("name", "value", "keys"),
    [
        ("patient", "Patient/P1", {tags.PatientID: "P1"}),
        ("patient", f"{ROOT}/Patient/P1", {tags.PatientID: "P1"}),
        ("subject", "P1..1.2e2", {tags.PatientID: "P1", tags.IssuerOfPatientID: "1.2"}),
        ("patient.identifier", "urn:oid:1.2|P1", {tags.PatientID: "P1", tags.IssuerOfPatientID: "1.2"}),
        ("subject:identifier", "P1,P2", {tags.PatientID: "P1\\P2"}),
        ("identifier", "urn:dicom:uid|urn:oid:1.2.3", {tags.StudyInstanceUID: "1.2.3"}),
        ("identifier", "urn:oid:1.2.3", {tags.StudyInstanceUID: "1.2.3"}),
        ("identifier", "A1", {tags.AccessionNumber: "A1"}),
        ("identifier", "|A\\,1", {tags.AccessionNumber: "A,1"}),
        ("_id", "1.2.3,1.2.4", {tags.StudyInstanceUID: "1.2.3\\1.2.4"}),
        ("modality", "http://dicom.nema.org/resources/ontology/DCM|CT,MR", {tags.ModalitiesInStudy: "CT\\MR"}),
        ("started", "ge2026-01-02T10:00Z", {
            tags.StudyDate: "20260102-", tags.StudyTime: "100000.000000-", tags.TimezoneOffsetFromUTC: "+0000"}),
        ("dicom-class", "urn:oid:1.2.840.10008.5.1.4.1.1.2", {tags.SOPClassesInStudy: "1.2.840.10008.5.1.4.1.1.2"}),
        ("status", "available", {}),
    ],
)  # fmt: skip
def test_a_parameter_is_a_key(name: str, value: str, keys: dict[int, str]) -> None:
    asked = search((name, value))
    assert asked.keys == keys and not asked.is_empty


@pytest.mark.parametrize(
    "pair",
    [
        ("status", "cancelled"),
        ("identifier", "urn:oid:1.2|A1"),
        ("modality", "http://snomed.info/sct|77477000"),
        ("patient", "Group/1"),
        ("patient", "https://other.example/fhir/Patient/P1"),
        ("endpoint", "Endpoint/other"),
    ],
)
def test_what_this_server_cannot_have_matches_nothing(pair: tuple[str, str]) -> None:
    assert search(pair).is_empty


@pytest.mark.parametrize(
    "pairs",
    [
        [("pateint", "P1")],
        [("patient", "P1"), ("patient", "P2")],
        [("patient", "P1"), ("subject", "P2")],
        [("patient", "P.2a")],
        [("patient.identifier", "P*")],
        [("identifier", "")],
        [("identifier", "urn:oid:1.2.3,A1")],
        [("patient.identifier", "urn:oid:1|P1,urn:oid:2|P2")],
        [("started", "2026-01-01,2026-01-03")],
        [("_sort", "patient")],
        [("_count", "-1")],
        [("_count", "many")],
        [("_include", "ImagingStudy:based-on")],
        [("_summary", "text")],
        [("_total", "some")],
        [("modality", ",".join(["CT"] * 101))],
    ],
)
def test_what_cannot_be_asked_is_refused(pairs: Pairs) -> None:
    with pytest.raises(RequestError):
        search(*pairs)


def test_a_lenient_client_hears_what_was_ignored() -> None:
    asked = search(("bodysite", "T-D1"), ("<script>", ""), is_lenient=True)
    assert asked.ignored == ["bodysite", "?script?"] and not asked.keys


def test_the_form_of_the_answer() -> None:
    asked = search(("_count", "100000"), ("_sort", "started"), ("_include", "ImagingStudy:patient"),
                   ("_include", "ImagingStudy:endpoint:Endpoint"), ("_total", "accurate"), ("_page", "X"))  # fmt: skip
    assert (asked.count, asked.is_descending, asked.wants_total) == (COUNT_MAX, False, True)
    assert asked.includes == {"patient", "endpoint"} and asked.cursor == "X"
    assert search(("_summary", "count")).count == 0 and search(("_count", "0")).wants_total


@pytest.mark.parametrize(
    ("pair", "keys"),
    [
        (("family", "Doe"), {tags.PatientName: "Doe*"}),
        (("given", "Ja"), {tags.PatientName: "*^Ja*"}),
        (("birthdate", "1970-02-03"), {tags.PatientBirthDate: "19700203"}),
        (("birthdate", "ge1970"), {tags.PatientBirthDate: "19700101-"}),
        (("gender", "female,male"), {tags.PatientSex: "F\\M"}),
        (("_id", "P1"), {tags.PatientID: "P1"}),
    ],
)
def test_patients_are_searched_for_by_what_dicom_has(pair: tuple[str, str], keys: dict[int, str]) -> None:
    assert search(pair, of=PATIENT).keys == keys


@pytest.mark.parametrize("pair", [("family", "D*"), ("name", ""), ("birthdate", "1970-02-03T10:00"), ("family", "a^b")])
def test_patients_have_no_wild_cards(pair: tuple[str, str]) -> None:
    with pytest.raises(RequestError):
        search(pair, of=PATIENT)
