"""What /api says of studies beside their attributes: arrivals, totals, details, the table, downloads. One server."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

from engine.access import Kind, Principal
from engine.archive.admin import corrections, holds
from engine.archive.archive import Archive
from engine.archive.ingest.request import ReceivedInstance
from engine.dicom import tags
from engine.storage.record import crc32c
from engine.web.api import study_table, study_totals
from engine.web.api.study_table import safe_cell
from tests import samples
from tests.web.serving import ApiClient, serving

STUDIES = 12
BY = Principal(Kind.OPERATOR, "ann")
HOSTILE = "=HYPERLINK(1)"


def send(archive: Archive, sender: str, *numbers: int, **facts: Any) -> int:
    """Stores instances of study 1 as if an application entity had sent them; returns their bytes."""
    items = []
    for number in numbers:
        payload = samples.encoded(samples.instance(1, 1, number, InstitutionName="Saint Ann", **facts))
        items.append(ReceivedInstance([payload], len(payload), crc32c(payload), ExplicitVRLittleEndian, sender))
    archive.ingest_batch(items)
    return sum(item.payload_length for item in items)


@pytest.fixture(scope="module")
def sizes() -> dict[str, int]:
    return {}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, int]) -> Iterator[ApiClient]:
    data: Path = tmp_path_factory.mktemp("facts") / "data"
    with Archive.open(data, role="keeper", create=True) as archive:
        sizes["CT1"] = send(archive, "CT1", 1, 2, 3)
        sizes["CT2"] = send(archive, "CT2", 4, StudyDescription="Another")
        for number in range(2, STUDIES + 1):
            name = HOSTILE if number == 2 else "Roe^Richard"
            archive.store(samples.part10(samples.instance(number, 1, 1, patient_name=name, patient_id=f"P{number}")))
        holds.change(archive, [f"{samples.ROOT}.1"], is_set=True, actor=BY, reason="trial")
        corrections.correct(archive, {tags.PatientName: "Doe^Joan"}, patient="P1", actor=BY, reason="married")
        corrections.correct(archive, {tags.StudyID: "9"}, study=f"{samples.ROOT}.3", actor=BY, reason="typo")
    with serving(data) as hosting:
        asking = ApiClient(hosting.port)
        asking.url = hosting.url  # type: ignore[attr-defined]
        yield asking
        asking.close()


def url_of(api: ApiClient) -> str:
    return str(api.url)  # type: ignore[attr-defined]


def test_a_window_has_size_senders_and_times_of_each_row(api: ApiClient, sizes: dict[str, int]) -> None:
    answer = api.get("/api/studies?order=received&arrivals=true")
    assert len(answer["arrivals"]) == len(answer["studies"]) == STUDIES
    first = answer["arrivals"][0]
    assert (first["instances"], first["bytes"]) == (4, sum(sizes.values()))
    assert first["senders"] == ["CT1", "CT2"]
    assert first["institutions"] == ["Saint Ann"]
    assert first["first_received"] <= first["last_received"]
    assert answer["arrivals"][1]["senders"] == [""]
    assert first["state"] is None, "nobody writes a feed here"
    assert "arrivals" not in api.get("/api/studies")


def test_a_study_has_its_senders_hold_conflicts_and_corrections(api: ApiClient, sizes: dict[str, int]) -> None:
    study = api.get(f"/api/studies/{samples.ROOT}.1")
    assert [(one["name"], one["way"], one["instances"], one["bytes"]) for one in study["senders"]] == [
        ("CT1", "dimse", 3, sizes["CT1"]),
        ("CT2", "dimse", 1, sizes["CT2"]),
    ]
    assert study["bytes"] == sum(one["bytes"] for one in study["series"])
    assert study["hold"]["reason"] == "trial"
    assert study["conflicts"] == [
        {"series_instance_uid": "", "attributes": {"StudyDescription": ["Study 1", "Another"]}}
    ]
    (correction,) = study["corrections"]
    assert correction["sets"]["PatientName"] == "Doe^Joan" and not correction["undone_by"]
    (other,) = api.get(f"/api/studies/{samples.ROOT}.3")["corrections"]
    assert other["level"] == "study"
    assert api.get(f"/api/studies/{samples.ROOT}.2")["hold"] is None
    assert study["state"] is None, "nobody writes a feed here"
    assert api.get(f"/api/studies/{samples.ROOT}.99", 404)["status"] == 404


def test_who_uploads_over_http_is_named_by_the_address(api: ApiClient) -> None:
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + samples.part10(samples.instance(77)) + b"\r\n--b--\r\n"
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    url = f"{url_of(api)}/dicom-web/studies"
    assert requests.post(url, body, headers={"Content-Type": kind}, timeout=60).status_code == 200
    (sender,) = api.get(f"/api/studies/{samples.ROOT}.77")["senders"]
    assert (sender["way"], sender["address"]) == ("http", "127.0.0.1")
    requests.delete(f"{url_of(api)}/dicom-web/studies/{samples.ROOT}.77", timeout=60)
    assert api.get(f"/api/studies/{samples.ROOT}.77", 410)["status"] == 410


def test_totals_are_those_of_the_rows_that_match(api: ApiClient, sizes: dict[str, int]) -> None:
    everything = api.get("/api/studies/totals")
    assert (everything["studies"], everything["instances"]) == (STUDIES, STUDIES + 3)
    assert everything["is_exact"]
    rows = api.get("/api/studies?PatientID=P1*&arrivals=true")["arrivals"]
    totals = api.get("/api/studies/totals?PatientID=P1*")
    assert totals == {
        "studies": len(rows),
        "instances": sum(row["instances"] for row in rows),
        "bytes": sum(row["bytes"] for row in rows),
        "is_exact": True,
    }
    assert api.get("/api/studies/totals?PatientID=none")["studies"] == 0


def test_totals_that_take_too_long_are_not_exact(api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_totals, "TOTALS_S", 0.0)
    assert api.get("/api/studies/totals?PatientID=P*") == {"studies": 0, "instances": 0, "bytes": 0, "is_exact": False}


@pytest.mark.parametrize("path", ["/api/studies/totals?limit=1&limit=2", "/api/studies/totals?Nonsense=1"])
def test_a_wrong_filter_is_refused(api: ApiClient, path: str) -> None:
    api.get(path, 400)


def rows_of(api: ApiClient, query: str) -> list[list[str]]:
    response = requests.get(f"{url_of(api)}/api/studies.csv?{query}", timeout=60)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
    assert "attachment" in response.headers["Content-Disposition"]
    assert response.content.startswith(b"\xef\xbb\xbf")
    return list(csv.reader(io.StringIO(response.content.decode("utf-8-sig"), newline="")))


def test_the_table_has_the_rows_of_the_list_in_its_order(api: ApiClient) -> None:
    head, *rows = rows_of(api, "order=-PatientID&columns=PatientID,StudyDate,NumberOfStudyRelatedInstances,Bytes")
    assert head == ["PatientID", "StudyDate", "NumberOfStudyRelatedInstances", "Bytes"]
    listed = api.get("/api/studies?order=-PatientID&arrivals=true")
    assert [(row[0], row[3]) for row in rows] == [
        (study["00100020"]["Value"][0], str(arrival["bytes"]))
        for study, arrival in zip(listed["studies"], listed["arrivals"], strict=True)
    ]
    assert {row[1] for row in rows} == {"2026-01-02"}


def test_no_cell_of_the_table_is_a_formula(api: ApiClient) -> None:
    _, (name,) = rows_of(api, "PatientID=P2&columns=PatientName")
    assert name == f"'{HOSTILE}"
    for text in ("=1", "+1", "-1", "@a", "\t=1", " =1", "\r=1", "＝1"):
        assert safe_cell(text) == f"'{text}"
    for text in ("Doe^Jane", "2026-01-02", "1=1", "", "a-b"):
        assert safe_cell(text) == text


def test_a_table_that_is_cut_says_so(api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_table, "ROWS_MAX", 3)
    rows = rows_of(api, "columns=PatientID")
    assert len(rows) == 5 and "more than 3" in rows[-1][0]


@pytest.mark.parametrize("columns", ["SOPInstanceUID", "Nonsense", "", "Modality", "RequestAttributesSequence.StudyID"])
def test_a_column_that_no_study_has_is_refused(api: ApiClient, columns: str) -> None:
    assert "columns" in api.get(f"/api/studies.csv?columns={columns}", 400)["detail"]


def uids_in(content: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if name.startswith("DICOM/")]
        assert "DICOMDIR" in archive.namelist()
        return sorted(str(dcmread(io.BytesIO(archive.read(name))).SOPInstanceUID) for name in names)


def test_any_choice_is_downloaded_once(api: ApiClient) -> None:
    root = samples.ROOT
    query = f"studies={root}.1,{root}.2&series={root}.3.1&instances={root}.1.1.2,{root}.4.1.1"
    response = requests.get(f"{url_of(api)}/api/download?{query}", timeout=60)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/zip")
    own = [f"{root}.1.1.{number}" for number in range(1, 5)]
    assert uids_in(response.content) == sorted([*own, f"{root}.2.1.1", f"{root}.3.1.1", f"{root}.4.1.1"])


@pytest.mark.parametrize("query, status", [("", 400), ("studies=*", 400), ("studies=1.2.3", 404), ("study=1", 400)])
def test_a_download_of_nothing_is_refused(api: ApiClient, query: str, status: int) -> None:
    api.get(f"/api/download?{query}", status)
