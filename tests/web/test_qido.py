"""QIDO-RS over HTTP: what clients send and need, whole answers and long ones. One server for all."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from engine.archive.archive import Archive
from engine.archive.questions import Level, Match
from engine.dicom import tags, xml_model
from engine.dicom.schema import STANDARD
from engine.web import qido, search, search_request
from engine.web.accept import parse_media_type
from engine.web.multipart import PartBegin, PartEnd, Reader, boundary_in
from engine.web.search_rows import Rows
from tests import samples
from tests.web.hosting import Hosting, hosted

STUDIES, INSTANCES = 12, 30
OHIF_FIELDS = "00081030%2C00080060%2C00080090%2C00100030"


def fill(data: Path) -> None:
    request = Dataset()
    request.ScheduledProcedureStepID, request.RequestedProcedureID = "STEP1", "REQ1"
    with_request = samples.instance(1, 2, 1, modality="SR", RequestAttributesSequence=[request])
    data_sets = [samples.instance(1, 1, number) for number in range(1, INSTANCES + 1)]
    data_sets += [with_request, samples.instance(1, 1, INSTANCES + 1, NumberOfFrames="3")]
    for study in range(2, STUDIES + 1):
        name = "Müller^Jörg" if study == 2 else f"Doe^J{study}"
        data_sets.append(
            samples.instance(
                study, 1, 1, patient_id=f"P{study}", patient_name=name, study_date=f"202601{study:02}",
                modality="MR" if study % 2 else "CT",
            )
        )  # fmt: skip
    with Archive.open(data, role="keeper", create=True) as archive:
        for data_set in data_sets:
            archive.store(samples.part10(data_set))


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    data = tmp_path_factory.mktemp("qido") / "data"
    fill(data)
    with hosted(data) as hosting:
        yield hosting


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def rows(self) -> list[dict[str, Any]]:
        assert self.status == 200, self.body
        assert self.headers["Content-Type"] in ("application/dicom+json", "application/json")
        rows: list[dict[str, Any]] = json.loads(self.body)
        return rows


@pytest.fixture(scope="module")
def get(hosting: Hosting) -> Iterator[Callable[..., Answer]]:
    connection = http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=60)

    def get(path: str, method: str = "GET", **headers: str) -> Answer:
        connection.request(method, f"/dicom-web{path}", headers=headers)
        return Answer(connection.getresponse())

    yield get
    connection.close()


def uid(study: int, series: int | None = None, number: int | None = None) -> str:
    return ".".join([samples.ROOT, *(str(part) for part in (study, series, number) if part is not None)])


def of(row: dict[str, Any], tag: str) -> Any:
    return row[tag].get("Value", [None])[0]


def test_studies_have_the_attributes_of_the_standard_in_order(get: Callable[..., Answer]) -> None:
    (row,) = get(f"/studies?StudyInstanceUID={uid(1)}").rows
    assert list(row) == sorted(row)
    assert set(row) >= {
        "00080005", "00080020", "00080030", "00080050", "00080056", "00080061", "00080090", "00081030", "00081190",
        "00100010", "00100020", "00100030", "00100040", "0020000D", "00200010", "00201206", "00201208",
    }  # fmt: skip
    assert of(row, "00080005") == "ISO_IR 192" and of(row, "00080056") == "ONLINE"
    assert of(row, "00100010") == {"Alphabetic": "Doe^Jane"}
    assert row["00080061"]["Value"] == ["CT", "SR"]
    assert (of(row, "00201206"), of(row, "00201208")) == (2, INSTANCES + 2)


def test_retrieve_urls_lead_to_this_server_through_the_study(get: Callable[..., Answer], hosting: Hosting) -> None:
    root = f"{hosting.url}/dicom-web/studies"
    assert of(get("/studies").rows[0], "00081190") == f"{root}/{uid(1)}"
    assert of(get("/series").rows[0], "00081190") == f"{root}/{uid(1)}/series/{uid(1, 1)}"
    assert of(get("/instances").rows[0], "00081190") == f"{root}/{uid(1)}/series/{uid(1, 1)}/instances/{uid(1, 1, 1)}"
    bare_host = get("/studies", Host="127.0.0.1").rows[0]  # as dicomweb-client for Python says it, without a port
    assert of(bare_host, "00081190") == f"{root}/{uid(1)}"


def test_an_invalid_uid_is_encoded_in_the_retrieve_url() -> None:
    asked = search_request.parse("", Level.STUDY, {}, STANDARD)
    rows = Rows(asked, STANDARD, "http://a/dicom-web")
    row = json.loads(rows.encode(Match(Level.STUDY, {tags.StudyInstanceUID: b"1.2/../?x"})))
    assert of(row, "00081190") == "http://a/dicom-web/studies/1.2%2F..%2F%3Fx"
    assert of(row, "0020000D") == "1.2/../?x"


@pytest.mark.parametrize(
    ("path", "count", "there", "missing"),
    [
        ("/studies", STUDIES, {"00100010"}, {"0020000E", "00080018"}),
        ("/series", STUDIES + 1, {"00100010", "0020000E", "00201209"}, {"00080018"}),
        ("/instances", STUDIES - 1 + INSTANCES + 2, {"00100010", "00080060", "00080018"}, set()),
        (f"/studies/{uid(1)}/series", 2, {"0020000D", "0020000E"}, {"00100010"}),
        (f"/studies/{uid(1)}/instances", INSTANCES + 2, {"00080060", "0020000D", "00080018"}, {"00100010"}),
        (f"/studies/{uid(1)}/series/{uid(1, 1)}/instances", INSTANCES + 1, {"0020000D", "0020000E"}, {"00080060"}),
    ],
)
def test_six_resources(get: Callable[..., Answer], path: str, count: int, there: set[str], missing: set[str]) -> None:
    rows = get(path).rows
    assert len(rows) == count
    assert all(there <= set(row) and not missing & set(row) for row in rows)
    assert get(path + "/").rows == get(path.replace("/s", "//s")).rows == rows


def test_optional_attributes_are_returned_only_with_a_value(get: Callable[..., Answer]) -> None:
    rows = get(f"/studies/{uid(1)}/instances").rows
    assert {of(row, "00280008") for row in rows if "00280008" in row} == {3}
    assert all(of(row, "00280010") == 16 for row in rows)
    series = get(f"/studies/{uid(1)}/series").rows
    (item,) = next(row["00400275"]["Value"] for row in series if "00400275" in row)
    assert of(item, "00400009") == "STEP1"


# what clients send --------------------------------------------------------------------------------


def test_ohif_lists_studies_and_series(get: Callable[..., Answer]) -> None:
    query = f"limit=101&offset=0&fuzzymatching=false&includefield={OHIF_FIELDS}"
    found = get(f"/studies?{query}", Accept="application/dicom+json")
    assert len(found.rows) == STUDIES and found.headers["X-Remaining-Count"] == "0"
    named = get(f"/studies?PatientName=*oe%5EJ1*&{query}").rows
    assert [of(row, "00100020") for row in named] == ["P1", "P10", "P11", "P12"][1:]
    joined = urllib.parse.quote("\\".join([uid(2), uid(3)]), safe="")
    assert len(get(f"/studies?StudyInstanceUID={joined}&{query}").rows) == 2
    assert len(get(f"/studies?00100020=P2&{query}").rows) == 1  # priors
    series = get(f"/studies/{uid(1)}/series?includefield=00080021%2C00080031%2C0008103E%2C00200011").rows
    assert {of(row, "0008103E") for row in series} == {"Series 1", "Series 2"}


def test_weasis_pages_instances_and_fetches_the_middle_one(get: Callable[..., Answer]) -> None:
    path = f"/studies/{uid(1)}/series/{uid(1, 1)}/instances"
    whole = get(f"{path}?limit=1000&offset=0&includefield=00080016%2C00080018%2C00200013").rows
    assert len(whole) == INSTANCES + 1
    assert get(f"{path}?limit=1&offset={INSTANCES // 2}").rows[0]["00080018"] == whole[INSTANCES // 2]["00080018"]


def test_the_python_client_searches_and_pages_to_the_end(hosting: Hosting) -> None:
    client = DICOMwebClient(f"{hosting.url}/dicom-web")
    assert len(client.search_for_studies(get_remaining=True, limit=5)) == STUDIES
    assert len(client.search_for_series(uid(1))) == 2
    fields = ["StudyDescription", "PatientName"]
    (row,) = client.search_for_studies(search_filters={"PatientID": "P2"}, fields=fields, fuzzymatching=True)
    assert of(row, "00100010") == {"Alphabetic": "Müller^Jörg"}
    assert len(client.search_for_instances(uid(1), uid(1, 1), get_remaining=True, limit=7)) == INSTANCES + 1
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []


def test_slicer_compares_the_first_row_of_each_page(get: Callable[..., Answer]) -> None:
    pages = [get(f"/studies?limit=5&offset={offset}").rows for offset in (0, 5, 10, 15)]
    assert [len(page) for page in pages] == [5, 5, 2, 0]
    uids = [of(row, "0020000D") for page in pages for row in page]
    assert len(set(uids)) == STUDIES
    assert pages[0] == get("/studies?limit=5&offset=0").rows


def test_monai_asks_for_series_by_modality_and_with_a_slash_at_the_end(get: Callable[..., Answer]) -> None:
    rows = get("/series?Modality=MR").rows
    assert {of(row, "00080060") for row in rows} == {"MR"} and len(rows) == 5
    assert get("/studies/?PatientID=P3").rows == get("/studies?PatientID=P3", Accept="application/json, */*").rows


def test_google_names_no_media_type(hosting: Hosting) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=60)
    connection.putrequest("GET", "/dicom-web/studies?PatientID=P3", skip_accept_encoding=True)
    connection.endheaders()
    assert len(Answer(connection.getresponse()).rows) == 1
    connection.close()


# matching -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "patients"),
    [
        ("StudyDate=20260103-20260105", {"P3", "P4", "P5"}),
        ("StudyDate=20260103-&ModalitiesInStudy=MR", {"P3", "P5", "P7", "P9", "P11"}),
        ("StudyDate=20260103-20260104&StudyTime=1200-1100", {"P4"}),  # one range of moments
        ("PatientID=P%3F", {f"P{i}" for i in range(1, 10)}),
        ("PatientName=muller*", {"P2"}),
        ("PatientName=Mueler&fuzzymatching=true", {"P2"}),
        ("RequestAttributesSequence.ScheduledProcedureStepID=STEP1", {"P1"}),
        ("00400275.00401001=REQ*", {"P1"}),
        ("PatientSex=M", set()),
        ("SeriesDescription=*2&PatientID=P1", {"P1"}),
        (f"SOPInstanceUID={samples.ROOT}.1.1.1%2C{samples.ROOT}.3.1.1", {"P1", "P3"}),
        ("Modality=SR", {"P1"}),
        ("OtherPatientIDs=%22%22&emptyvaluematching=true&PatientID=P4", {"P4"}),
        ("ModalitiesInStudy=CT%2CSR&multiplevaluematching=true", {"P1"}),
        ("ModalitiesInStudy=MR%2CSR", {"P1", "P3", "P5", "P7", "P9", "P11"}),
    ],
)
def test_matching_is_that_of_c_find(get: Callable[..., Answer], query: str, patients: set[str]) -> None:
    assert {of(row, "00100020") for row in get(f"/studies?{query}").rows} == patients


def test_no_match_is_an_empty_list(get: Callable[..., Answer]) -> None:
    for path in ("/studies?PatientID=nobody", "/studies/1.2.3/series", "/studies?offset=100000", "/studies?limit=0"):
        found = get(path)
        assert found.rows == [] and found.body == b"[]"
    assert get("/studies?limit=0").headers["X-Remaining-Count"] == str(STUDIES)


def test_instances_say_the_transfer_syntax_they_are_stored_in(get: Callable[..., Answer]) -> None:
    rows = get("/instances").rows
    assert {row["00083002"]["Value"][0] for row in rows} == {ExplicitVRLittleEndian}
    assert all("00083002" not in row for row in get("/series?includefield=AvailableTransferSyntaxUID").rows)


def test_the_number_of_remaining_matches_is_in_two_headers(get: Callable[..., Answer], hosting: Hosting) -> None:
    found = get("/studies?limit=5&offset=1")
    assert found.headers["X-Remaining-Count"] == str(STUDIES - 6)
    text = f"299 {hosting.url}/dicom-web: There are {STUDIES - 6} additional results that can be requested"
    assert found.headers.get_all("Warning") == [text]
    assert get("/studies").headers.get_all("Warning") is None


def test_an_ignored_parameter_is_a_warning(get: Callable[..., Answer]) -> None:
    found = get("/studies?colour=blue&PixelSpacing=1&PatientID=P3&includefield=Shape")
    assert len(found.rows) == 1
    warnings = found.headers.get_all("Warning")
    assert warnings and all(text.startswith("299 ") for text in warnings)
    assert [name for name in ("colour", "PixelSpacing", "Shape") if not any(name in text for text in warnings)] == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/studies?limit=many", "limit"), ("/studies?StudyDate=soon", "StudyDate"), ("/studies/*/series", "UID"),
        ("/studies?PatientID=a&PatientID=b", "PatientID"), (f"/studies/{uid(1)}/series?StudyInstanceUID=1.2", "Study"),
    ],
)  # fmt: skip
def test_an_invalid_parameter_is_400_with_its_name(get: Callable[..., Answer], path: str, name: str) -> None:
    found = get(path)
    assert found.status == 400 and name in json.loads(found.body)["detail"]


# forms of answers ---------------------------------------------------------------------------------


def test_xml_has_a_part_for_each_match(get: Callable[..., Answer]) -> None:
    expected = get("/studies?limit=3").rows
    for accept in ('multipart/related; type="application/dicom+xml"', "multipart/related;type=application/dicom+xml"):
        found = get("/studies?limit=3", Accept=accept)
        content_type = parse_media_type(found.headers["Content-Type"])
        assert content_type is not None and content_type.parameter("type") == "application/dicom+xml"
        reader = Reader(boundary_in(content_type))
        parts = [b""]
        for event in reader.feed(found.body):
            if isinstance(event, PartBegin):
                assert event.content_type is not None and event.content_type.name == "application/dicom+xml"
            elif isinstance(event, PartEnd):
                parts.append(b"")
            else:
                parts[-1] += event.view
        reader.finish()
        assert len(parts) == 4
        for part, row in zip(parts, expected, strict=False):
            ElementTree.fromstring(part)
            assert xml_model.parse(part)["0020000D"] == row["0020000D"]
    assert get("/studies?PatientID=nobody", Accept='multipart/related; type="application/dicom+xml"').status == 200


def test_other_media_types_are_not_acceptable(get: Callable[..., Answer]) -> None:
    found = get("/studies", Accept="image/png")
    assert found.status == 406 and "dicom+json" in json.loads(found.body)["detail"]
    assert get("/studies", Accept="text/html, */*;q=0.8").status == 200
    assert get("/studies?accept=application/json", Accept="image/png").headers["Content-Type"] == "application/json"


def test_text_is_given_in_utf_8_or_not_at_all(get: Callable[..., Answer]) -> None:
    assert get("/studies", **{"Accept-Charset": "iso-8859-1"}).status == 406
    assert get("/studies?charset=utf-8", **{"Accept-Charset": "iso-8859-1"}).status == 200


def test_many_unknown_parameters_make_some_warnings(get: Callable[..., Answer]) -> None:
    found = get("/studies?" + "&".join(f"unknown{i}=1" for i in range(400)))
    assert found.status == 200 and len(found.headers.get_all("Warning") or []) == qido.WARNINGS_MAX


def test_head_has_the_headers_of_get(get: Callable[..., Answer]) -> None:
    whole, head = get("/studies?limit=3"), get("/studies?limit=3", "HEAD")
    assert head.body == b"" and head.status == 200
    for name in ("Content-Length", "Content-Type", "X-Remaining-Count", "Warning"):
        assert head.headers[name] == whole.headers[name]


def test_a_long_answer_is_counted_first_and_sent_in_pieces(
    get: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = get("/instances?limit=20")
    monkeypatch.setattr(qido, "HELD_BYTES", 1)
    monkeypatch.setattr(search, "SLICE_S", 0.0)
    found = get("/instances?limit=20")
    assert found.headers["Transfer-Encoding"] == "chunked"
    assert found.body == expected.body
    assert found.headers["X-Remaining-Count"] == expected.headers["X-Remaining-Count"] != "0"
    assert get("/instances").rows == get("/instances?limit=1000").rows
    assert get("/instances?limit=20", "HEAD").body == b""


def test_a_count_is_given_up_where_it_takes_long(get: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "COUNT_MAX", 4)
    found = get("/studies?limit=1")
    assert found.headers["X-Remaining-Count"] == "4+"
    assert "more than 4 additional results" in found.headers["Warning"]


def test_a_search_that_takes_too_long_is_413(
    get: Callable[..., Answer], hosting: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SLICE_S", 0.0)
    ticks = iter(range(0, 1_000_000, 20))
    monkeypatch.setattr(search, "perf_counter", lambda: float(next(ticks)))
    found = get("/studies")
    assert found.status == 413 and "narrow" in json.loads(found.body)["detail"]


def test_the_maximum_of_the_server_applies_without_a_limit(get: Callable[..., Answer], hosting: Hosting) -> None:
    config = hosting.engine.config

    def limited(most: int) -> None:
        hosting.engine.config = config.__class__(
            data=config.data,
            http=config.http,
            limits=config.limits.__class__(disk_reserve_bytes=0, query_results_max=most),
        )

    hosting.on_loop(lambda: limited(4))
    try:
        found = get("/studies")
        assert len(found.rows) == 4 and found.headers["X-Remaining-Count"] == str(STUDIES - 4)
    finally:
        hosting.on_loop(lambda: setattr(hosting.engine, "config", config))


def test_the_search_of_a_disconnected_client_ends(hosting: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SLICE_S", 0.0)
    begun, go_on = threading.Event(), threading.Event()
    slices = []
    slice_ = search.Search.slice

    def slow(self: search.Search) -> list[bytes]:
        slices.append(self)
        begun.set()
        go_on.wait(60)
        return slice_(self)

    monkeypatch.setattr(search.Search, "slice", slow)
    ended = hosting.ended
    with hosting.connect() as sock:
        sock.sendall(b"GET /dicom-web/instances HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert begun.wait(60)

    def wait_for_end() -> None:
        while hosting.ended == ended:
            threading.Event().wait(0.005)

    waiting = threading.Thread(target=wait_for_end)
    waiting.start()
    waiting.join(60)
    go_on.set()
    assert not waiting.is_alive() and len(slices) == 1
