"""FHIR over HTTP: resources that another implementation reads, searches, pages, errors. One server for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from engine.archive.archive import Archive
from tests import samples
from tests.web.fhir_asking import R5, checked, found, get, next_of
from tests.web.hosting import Hosting, hosted

STUDIES = 7


def fill(data: Path) -> None:
    data_sets = [samples.instance(1, 1, number, TimezoneOffsetFromUTC="+0100") for number in (1, 2, 3)]
    data_sets += [samples.instance(1, 2, 1, modality="MR", BodyPartExamined="HEAD", Laterality="L")]
    for study in range(2, STUDIES + 1):
        data_sets.append(
            samples.instance(
                study, 1, 1, patient_id="P*1" if study == 2 else f"P{study}", patient_name=f"Müller^Jörg{study}",
                study_date=f"202601{study:02}", modality="MR" if study % 2 else "CT", IssuerOfPatientID="1.2.3",
            )
        )  # fmt: skip
    odd = samples.instance(9, 1, 1, patient_id="", patient_name="", study_date="", AccessionNumber="", Modality="")
    with Archive.open(data, role="keeper", create=True) as archive:
        for data_set in (*data_sets, odd):
            archive.store(samples.part10(data_set))


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    data = tmp_path_factory.mktemp("fhir") / "data"
    fill(data)
    with hosted(data) as hosting:
        yield hosting


def uid(study: int) -> str:
    return f"{samples.ROOT}.{study}"


@pytest.mark.parametrize("is_r5", [False, True], ids=["R4", "R5"])
def test_a_study_is_read_with_its_series_and_instances(hosting: Hosting, is_r5: bool) -> None:
    study = get(hosting, f"ImagingStudy/{uid(1)}", is_r5=is_r5)
    assert study["id"] == uid(1) and study["started"] == "2026-01-02T10:11:12+01:00"
    assert study["identifier"][0] == {"system": "urn:dicom:uid", "value": f"urn:oid:{uid(1)}"}
    assert study["identifier"][1]["value"] == "A1"
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (2, 4)
    assert study["subject"]["reference"] == "Patient/P1" and study["subject"]["display"] == "Jane Doe"
    modalities = [each["coding"][0]["code"] if is_r5 else each["code"] for each in study["modality"]]
    assert sorted(modalities) == ["CT", "MR"]
    first, second = sorted(study["series"], key=lambda series: series["number"])
    assert [instance["number"] for instance in first["instance"]] == [1, 2, 3]
    assert first["instance"][0]["sopClass"]["code"] == f"urn:oid:{samples.CT}"
    site = second["bodySite"]
    assert (site["concept"]["text"] if is_r5 else site["display"]) == "HEAD"
    assert ("basedOn" in study) == is_r5
    assert "tag" not in study["meta"] and study["meta"]["lastUpdated"]


@pytest.mark.parametrize("is_r5", [False, True], ids=["R4", "R5"])
def test_a_study_without_anything_is_valid(hosting: Hosting, is_r5: bool) -> None:
    study = get(hosting, f"ImagingStudy/{uid(9)}", is_r5=is_r5)
    assert study["subject"] == {"type": "Patient", "display": "unknown"} and "started" not in study
    assert "reference" not in study["subject"]


def test_pages_lead_through_all_studies_from_the_newest_on(hosting: Hosting) -> None:
    bundle = get(hosting, "ImagingStudy?_count=3&_total=accurate")
    assert bundle["total"] == STUDIES + 1
    ids = found(bundle)
    while (path := next_of(bundle, hosting)) is not None:
        bundle = get(hosting, path)
        ids += found(bundle)
    # Study 1 is of the 2nd, and one has no date: it comes last.
    assert ids[:5] == [uid(study) for study in range(7, 2, -1)]
    assert sorted(ids[5:7]) == [uid(1), uid(2)] and ids[7:] == [uid(9)]


@pytest.mark.parametrize(
    ("query", "studies"),
    [
        ("patient=Patient/P1", [1]),
        ("patient=P1", [1]),
        ("patient.identifier=urn:oid:1.2.3|P4", [4]),
        ("patient.identifier=urn:oid:9.9|P4", []),
        ("subject:identifier=P4", [4]),
        ("identifier=A5", [5]),
        (f"identifier=urn:dicom:uid|urn:oid:{uid(3)}", [3]),
        (f"_id={uid(3)},{uid(4)}", [4, 3]),
        ("modality=MR", [7, 5, 3, 1]),
        ("modality=MR&started=ge2026-01-05", [7, 5]),
        ("started=2026-01-03", [3]),
        ("started=gt2026-01-03&started=lt2026-01-06", [5, 4]),
        ("started=ge2026-01-02T10:00&started=le2026-01-02T10:30", [1, 2]),
        ("started=ge2026&_sort=started&_count=2", [1, 2]),
        ("status=available&started=2026-01-07", [7]),
        ("status=cancelled", []),
        ("endpoint=dicom-wado-rs&started=2026-01-07", [7]),
    ],
)
def test_searches_find_what_dicom_finds(hosting: Hosting, query: str, studies: list[int]) -> None:
    bundle = get(hosting, f"ImagingStudy?{query}")
    assert sorted(found(bundle)) == sorted(map(uid, studies))
    # Those of the same day are in no order.
    if len(studies) > 2:
        assert found(bundle)[0] == uid(studies[0])
    for each in bundle.get("entry", []):
        assert each["fullUrl"] == f"{hosting.url}/fhir/ImagingStudy/{each['resource']['id']}"
        assert "instance" not in each["resource"]["series"][0]
        assert each["resource"]["meta"]["tag"][0]["code"] == "SUBSETTED"


@pytest.mark.parametrize("is_r5", [False, True], ids=["R4", "R5"])
def test_a_bundle_includes_patients_and_the_endpoint(hosting: Hosting, is_r5: bool) -> None:
    query = "ImagingStudy?started=2026-01-03&_include=ImagingStudy:patient&_include=ImagingStudy:endpoint"
    bundle = get(hosting, query, is_r5=is_r5)
    assert found(bundle, "include") == ["P3..1.2e2.2e3", "dicom-wado-rs"]
    endpoint = bundle["entry"][-1]["resource"]
    assert endpoint["address"] == f"{hosting.url}/dicom-web"
    assert get(hosting, "Endpoint/dicom-wado-rs", is_r5=is_r5) == endpoint
    patient = get(hosting, "Patient/P3..1.2e2.2e3", is_r5=is_r5)
    assert patient == bundle["entry"][1]["resource"]
    assert patient["name"][0]["family"] == "Müller" and patient["birthDate"] == "1970-02-03"
    assert patient["identifier"][0]["system"] == "urn:oid:1.2.3" and patient["gender"] == "female"


def test_the_parameters_of_a_search_may_be_in_a_body(hosting: Hosting) -> None:
    url = f"{hosting.url}/fhir/ImagingStudy/_search"
    bundle = checked(requests.post(url, data={"patient": "P1"}, timeout=60).json())
    assert found(bundle) == [uid(1)]
    assert bundle["link"][0]["url"] == f"{hosting.url}/fhir/ImagingStudy?patient=P1"
    refused = requests.post(url, json={"patient": "P1"}, timeout=60)
    assert refused.status_code == 415 and checked(refused.json())["resourceType"] == "OperationOutcome"


def test_a_count_has_no_studies(hosting: Hosting) -> None:
    bundle = get(hosting, "ImagingStudy?_summary=count&modality=MR")
    assert bundle["total"] == 4 and "entry" not in bundle


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("family=Müller", [f"P{n}..1.2e2.2e3" for n in range(3, STUDIES + 1)] + ["P.2a1..1.2e2.2e3"]),
        ("family=doe", ["P1"]),
        ("given=Jane", ["P1"]),
        ("identifier=urn:oid:1.2.3|P5", ["P5..1.2e2.2e3"]),
        ("birthdate=1970-02-03&gender=female&identifier=P1", ["P1"]),
        ("gender=male", []),
    ],
)
def test_patients_are_found(hosting: Hosting, query: str, ids: list[str]) -> None:
    bundle = get(hosting, f"Patient?{query}")
    assert sorted(found(bundle)) == sorted(ids)


def test_patients_have_pages(hosting: Hosting) -> None:
    bundle = get(hosting, "Patient?_count=5&_total=accurate")
    ids = found(bundle)
    (link,) = (each["url"] for each in bundle["link"] if each["relation"] == "next")
    bundle = get(hosting, link.removeprefix(f"{hosting.url}/fhir/"))
    assert len(bundle["link"]) == 1
    assert len(ids + found(bundle)) == len(set(ids + found(bundle))) == STUDIES + 1


def test_a_wild_card_in_an_id_is_a_letter(hosting: Hosting) -> None:
    # In DICOM the id of one patient here finds the other ones.
    assert get(hosting, "Patient/P.2a1..1.2e2.2e3")["identifier"][0]["value"] == "P*1"
    get(hosting, "Patient/P.2a..1.2e2.2e3", status=404)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("ImagingStudy/1.2.3", 404, "not-found"),
        ("Patient/nobody", 404, "not-found"),
        ("Patient/P.ZZ", 404, "not-found"),
        ("Endpoint/other", 404, "not-found"),
        ("Observation/1", 404, "not-found"),
        ("ImagingStudy?pateint=P1", 400, "invalid"),
        ("ImagingStudy?_page=AAAA", 400, "invalid"),
        ("ImagingStudy?started=soon", 400, "invalid"),
        ("Patient?_page=-1", 400, "invalid"),
        ("ImagingStudy?patient=P1&_format=xml", 406, "not-supported"),
    ],
)
def test_errors_are_outcomes(hosting: Hosting, path: str, status: int, code: str) -> None:
    outcome = get(hosting, path, status=status)
    assert outcome["resourceType"] == "OperationOutcome" and outcome["issue"][0]["code"] == code


@pytest.mark.parametrize("path", ["/fhir", "/fhir?patient=P1", "/fhir/"])
def test_the_base_is_no_resource_and_says_so_in_an_outcome(hosting: Hosting, path: str) -> None:
    answer = requests.get(hosting.url + path, timeout=60)
    assert answer.status_code == 404 and checked(answer.json())["resourceType"] == "OperationOutcome"


def test_a_lenient_client_is_told_what_was_ignored(hosting: Hosting) -> None:
    answer = requests.get(
        f"{hosting.url}/fhir/ImagingStudy?patient=P1&bodysite=X", headers={"Prefer": "handling=lenient"}, timeout=60
    )
    bundle = checked(answer.json())
    assert found(bundle) == [uid(1)]
    assert bundle["entry"][-1]["resource"]["issue"][0]["diagnostics"] == "ignored: bodysite"


@pytest.mark.parametrize("is_r5", [False, True], ids=["R4", "R5"])
def test_the_statement_names_what_can_be_searched_for(hosting: Hosting, is_r5: bool) -> None:
    statement = get(hosting, "metadata", is_r5=is_r5)
    bulk = "http://hl7.org/fhir/uv/bulkdata/"
    assert statement["instantiates"] == [f"{bulk}CapabilityStatement/bulk-data"]
    (export,) = statement["rest"][0]["operation"]
    assert export == {"name": "export", "definition": f"{bulk}OperationDefinition/export"}
    offered = {each["type"]: each.get("operation", []) for each in statement["rest"][0]["resource"]}
    (export,) = offered["Patient"]
    assert export == {"name": "export", "definition": f"{bulk}OperationDefinition/patient-export"}
    resources = {each["type"]: each for each in statement["rest"][0]["resource"]}
    names = {each["name"] for each in resources["ImagingStudy"]["searchParam"]}
    assert {"patient", "started", "identifier", "modality"} <= names
    for name in sorted(names):
        values = {"started": "2026-01-01", "status": "available"}
        get(hosting, f"ImagingStudy?{name}={values.get(name, '1')}", is_r5=is_r5)


def test_a_copy_that_is_current_is_not_sent_again(hosting: Hosting) -> None:
    for path in (f"ImagingStudy/{uid(1)}", "Patient/P1", "Endpoint/dicom-wado-rs", "ImagingStudy?patient=P1"):
        url = f"{hosting.url}/fhir/{path}"
        tag = requests.get(url, timeout=60).headers["ETag"]
        again = requests.get(url, headers={"If-None-Match": tag}, timeout=60)
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        for headers in ({"If-None-Match": 'W/"other"'}, {"If-None-Match": tag, **R5}):
            other = requests.get(url, headers=headers, timeout=60)
            assert other.status_code == 200 and checked(other.json(), is_r5="Accept" in headers)


@pytest.mark.parametrize("path", [f"ImagingStudy/{uid(1)}", "Patient/P1", "Endpoint/dicom-wado-rs"])
def test_a_resource_is_read_with_the_elements_that_are_asked_for(hosting: Hosting, path: str) -> None:
    whole, part = get(hosting, path), get(hosting, f"{path}?_elements=identifier")
    assert part["id"] == whole["id"] and part["meta"]["tag"][0]["code"] == "SUBSETTED"
    assert set(part) - {"meta"} <= set(whole)
    assert path.startswith("Endpoint") or len(part) < len(whole)
    for wrong in ("_elements=a b", "_elements=", "_summary=count", "_summary=true", "_elements=id&_elements=id"):
        get(hosting, f"{path}?{wrong}", status=400)
