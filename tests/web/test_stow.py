"""STOW-RS over HTTP: files in parts, alone, long and short, wrong ones among them. One server for the module."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset

from engine.config import Limits
from engine.dicom import xml_model
from engine.web import stow_response, upload
from tests import samples
from tests.actors import actor
from tests.corpus import corpus_files
from tests.samples import part10
from tests.system.server import wait_for
from tests.web.hosting import Hosting, read_all
from tests.web.stowing import JSON, PARTS, post, serving

STREAM_BYTES = 128 << 10
"""What is longer is streamed, here."""
DATA_SET_BYTES_MAX = 2 << 20
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

_numbers = iter(range(100, 1_000_000))


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    limits = Limits(disk_reserve_bytes=0, stream_threshold_bytes=STREAM_BYTES, data_set_bytes_max=DATA_SET_BYTES_MAX)
    with serving(tmp_path_factory.mktemp("stow") / "data", limits) as hosting:
        yield hosting


def new(**more: Any) -> Dataset:
    """An instance of a study of its own."""
    return samples.instance(next(_numbers), **more)


def body_of(files: Sequence[bytes], boundary: str = "b", head: str = "Content-Type: application/dicom\r\n") -> bytes:
    parts = [f"--{boundary}\r\n{head}\r\n".encode() + file + b"\r\n" for file in files]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def data_set_of(hosting: Hosting, uid: str) -> bytes | None:
    found = hosting.engine.archive.instance(uid)
    return None if found is None else hosting.engine.archive.read(found)


def payload_of(file: bytes) -> bytes:
    """What follows group 0002."""
    length = int.from_bytes(file[140:144], "little")
    return file[144 + length :]


def test_files_in_parts_are_stored_unchanged_and_listed_in_the_response(hosting: Hosting) -> None:
    study = next(_numbers)
    made = [samples.instance(study, 1, number) for number in range(1, 6)]
    files = [part10(ds) for ds in made]
    answer = post(hosting, body_of(files))
    assert answer.status == 200
    assert sorted(answer.stored) == [ds.SOPInstanceUID for ds in made]
    root = f"{hosting.url}/dicom-web/studies/{made[0].StudyInstanceUID}"
    assert answer.module["00081190"] == {"vr": "UR", "Value": [root]}
    item = answer.module["00081199"]["Value"][0]
    assert item == {
        "00081150": {"vr": "UI", "Value": [samples.CT]},
        "00081155": {"vr": "UI", "Value": [made[0].SOPInstanceUID]},
        "00081190": {
            "vr": "UR",
            "Value": [f"{root}/series/{made[0].SeriesInstanceUID}/instances/{made[0].SOPInstanceUID}"],
        },
    }
    for ds, file in zip(made, files, strict=True):
        assert data_set_of(hosting, ds.SOPInstanceUID) == payload_of(file)
    assert set(answer.module) == {"00081190", "00081199"}, "nothing failed, and nothing says so"


def test_a_response_for_several_studies_names_no_study(hosting: Hosting) -> None:
    answer = post(hosting, body_of([part10(new()), part10(new())]))
    assert answer.status == 200 and answer.module["00081190"] == {"vr": "UR"}


def test_a_file_alone_is_stored_too(hosting: Hosting) -> None:
    ds = new()
    assert post(hosting, part10(ds), "application/dicom").stored == [ds.SOPInstanceUID]


def test_a_duplicate_is_a_success_and_different_bytes_are_a_warning(hosting: Hosting) -> None:
    ds = new()
    assert post(hosting, body_of([part10(ds)])).status == 200
    again = post(hosting, body_of([part10(ds)]))
    assert again.status == 200 and again.stored == [ds.SOPInstanceUID]
    ds.PatientName = "Other^Name"
    other = post(hosting, body_of([part10(ds)]))
    assert other.status == 202 and other.warnings == [0xB000]


@pytest.mark.parametrize("length", [STREAM_BYTES // 2, STREAM_BYTES * 2, STREAM_BYTES * 10])
@pytest.mark.parametrize("step", [7, 1021, 1 << 20])
def test_the_same_bytes_are_stored_for_any_length_and_fragmentation(
    hosting: Hosting, length: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "STREAM_PIECE_BYTES", STREAM_BYTES)
    if step == 7 and length > STREAM_BYTES:
        step = 331
    made = [new(pixels=bytes(range(256)) * (length // 256)), new(), new(pixels=b"\r\n--b\r\n-" * (length // 8))]
    files = [part10(ds) for ds in made]
    body = body_of(files, "b" * 60)
    chunks = (body[at : at + step] for at in range(0, len(body), step))
    answer = post(hosting, chunks, PARTS + "b" * 60)
    assert answer.status == 200, answer.body
    for ds, file in zip(made, files, strict=True):
        assert data_set_of(hosting, ds.SOPInstanceUID) == payload_of(file)


def test_with_little_memory_files_are_streamed_and_nothing_is_lost(hosting: Hosting) -> None:
    budget = hosting.engine.ingest_budget
    before = hosting.counters["stores_streamed_for_memory"]
    made = [new(pixels=bytes(100_000)) for _ in range(3)]
    hosting.on_loop(lambda: setattr(budget, "taken_bytes", budget.taken_bytes + (1 << 40)))
    try:
        answer = post(hosting, body_of([part10(ds) for ds in made]))
    finally:
        hosting.on_loop(lambda: setattr(budget, "taken_bytes", budget.taken_bytes - (1 << 40)))
    assert sorted(answer.stored) == sorted(ds.SOPInstanceUID for ds in made)
    assert hosting.counters["stores_streamed_for_memory"] > before


def test_a_study_resource_accepts_only_its_instances(hosting: Hosting) -> None:
    mine, other = new(), new()
    quarantined = hosting.engine.archive.parts.index.quarantined_bytes()
    answer = post(hosting, body_of([part10(mine), part10(other)]), path=f"/studies/{mine.StudyInstanceUID}/")
    assert answer.status == 202
    assert answer.stored == [mine.SOPInstanceUID]
    assert answer.failures == {other.SOPInstanceUID: 0xA901}
    assert data_set_of(hosting, other.SOPInstanceUID) is None
    assert hosting.engine.archive.parts.index.quarantined_bytes() == quarantined, "it is whole, and was not wanted here"
    alone = post(hosting, part10(other), "application/dicom", path=f"/studies/{mine.StudyInstanceUID}")
    assert alone.status == 409 and "00081199" not in alone.module


def test_unacceptable_instances_are_listed_with_reasons_and_the_rest_is_stored(hosting: Hosting) -> None:
    good = new()
    unknown_syntax = new()
    directory = new(sop_class_uid="1.2.840.10008.1.3.10")
    long = new(pixels=bytes(DATA_SET_BYTES_MAX + 512))
    cut = new()
    other_class = new(sop_class_uid=samples.MR)
    other_class.file_meta.MediaStorageSOPClassUID = samples.CT
    unnamed = new()
    del unnamed.SOPInstanceUID
    files = [
        part10(good),
        part10(unknown_syntax).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.77"[:20]),
        part10(directory),
        part10(long),
        part10(cut)[:-100],
        written(other_class),
        written(unnamed),
        b"%PDF-1.7 this is something else",
        b"",
    ]
    answer = post(hosting, body_of(files))
    assert answer.status == 202
    assert sorted(answer.stored) == sorted([good.SOPInstanceUID, other_class.SOPInstanceUID])
    assert answer.warnings == [0xB007]
    assert answer.failures == {
        unknown_syntax.SOPInstanceUID: 0xC122,
        directory.SOPInstanceUID: 0x0122,
        long.SOPInstanceUID: 0xA700,
        cut.SOPInstanceUID: 0xC000,
        unnamed.file_meta.MediaStorageSOPInstanceUID: 0xC000,
    }
    assert answer.other_failures == [0xC000, 0xC000]
    assert hosting.counters["instances_quarantined"] >= 2, "as by C-STORE, what cannot be read is kept for people"


def written(ds: Dataset) -> bytes:
    """A file with the file meta that it has."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=False, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("multipart/related", b"", 400),
        (PARTS + "b", b"", 400),
        (PARTS + "b", b"--b\r\nContent-Type: application/dicom\r\n\r\n", 400),
        (PARTS + "b", b"--b--\r\n", 400),
        (PARTS + "b", b"nothing of the kind", 400),
        (PARTS + "b", b"x" * 100_000, 400),
        (PARTS + "x" * 300, b"", 400),
        (PARTS + "b", b"--b\r\n" + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n\r\n--b--", 400),
        (PARTS + "b", b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n\r\n--b--", 400),
        (PARTS + "b", b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--b--", 400),
        (PARTS + "b", b"--b\r\nContent-Type: image/tiff\r\n\r\nAAAA\r\n--b--", 415),
        (PARTS + "b", b"--b\r\nContent-Type: application/dicom\r\n\r\nno DICOM\r\n--b--", 409),
        ("application/dicom", b"", 409),
        ("application/dicom", b"no DICOM", 409),
        ("application/zip", b"PK", 415),
        ("", b"--b--", 415),
    ],
)
def test_invalid_requests_are_answered_and_leave_nothing_behind(
    hosting: Hosting, content_type: str, body: bytes, status: int
) -> None:
    assert post(hosting, body, content_type).status == status
    assert post(hosting, part10(new()), "application/dicom").status == 200


def test_complete_instances_before_an_invalid_part_are_stored_and_listed(hosting: Hosting) -> None:
    first, second = new(), new()
    body = body_of([part10(first), part10(second)])
    answer = post(hosting, body[: -len(b"\r\n--b--\r\n")])
    assert answer.status == 202 and answer.stored == [first.SOPInstanceUID] and answer.other_failures == [0xC000]
    assert data_set_of(hosting, second.SOPInstanceUID) is None


@pytest.mark.parametrize("pixels", [1024, STREAM_BYTES * 8], ids=["short", "streamed"])
def test_complete_instances_of_a_client_that_disconnects_are_stored(hosting: Hosting, pixels: int) -> None:
    first, second = new(), new(pixels=bytes(pixels))
    body = body_of([part10(first), part10(second)])
    with hosting.connect() as sock:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {PARTS}b\r\n"
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1000])
        wait_for(lambda: data_set_of(hosting, first.SOPInstanceUID) is not None, what="the first one is stored")
    wait_for(lambda: not hosting.front.connections_count, what="the connection is over")
    wait_for(lambda: hosting.engine.ingest_budget.taken_bytes == 0, what="its memory came back")
    assert data_set_of(hosting, second.SOPInstanceUID) is None
    assert hosting.engine.ingestor.depth == 0


@pytest.mark.parametrize("accept", ["*/*", JSON, "application/dicom+json, application/json", ""])
def test_the_answer_is_json_of_exactly_that_type(hosting: Hosting, accept: str) -> None:
    headers = {"Accept": accept} if accept else {}
    assert post(hosting, body_of([part10(new())]), **headers).headers["Content-Type"] == JSON


def test_the_answer_is_xml_on_request(hosting: Hosting) -> None:
    ds, other = new(), new()
    body = body_of([part10(ds), part10(other), b"nothing"])
    answer = post(hosting, body, path=f"/studies/{ds.StudyInstanceUID}", Accept="application/dicom+xml")
    assert answer.status == 202 and answer.headers["Content-Type"] == "application/dicom+xml"
    model = xml_model.parse(answer.body)
    assert model["00081199"]["Value"][0]["00081155"]["Value"] == [ds.SOPInstanceUID]
    assert model["00081198"]["Value"][0]["00081197"]["Value"] == [0xA901]
    assert model["0008119A"]["Value"] == [{"00081197": {"vr": "US", "Value": [0xC000]}}]
    assert post(hosting, body, Accept="text/plain").status == 406


def test_expect_100_continue_is_answered(hosting: Hosting) -> None:
    body = body_of([part10(new())])
    head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {PARTS}b\r\nConnection: close\r\n"
    with hosting.connect() as sock:
        sock.sendall(f"{head}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(body)
        assert read_all(sock).startswith(b"HTTP/1.1 200 ")


def test_while_ingest_is_refused_the_client_gets_retry_after_before_it_sends(hosting: Hosting) -> None:
    config, engine = hosting.engine.config, hosting.engine
    full = msgspec.structs.replace(config, limits=msgspec.structs.replace(config.limits, disk_reserve_bytes=1 << 60))

    def set_config(value: Any) -> None:
        engine.config = value
        engine.admission._checked_at = float("-inf")

    hosting.on_loop(lambda: set_config(full))
    try:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {PARTS}b\r\n"
        said = hosting.ask(f"{head}Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n".encode())
    finally:
        hosting.on_loop(lambda: set_config(config))
    assert said.startswith(b"HTTP/1.1 503 ") and b"Retry-After: " in said


@pytest.mark.parametrize("accept", [JSON, "application/dicom+xml"])
def test_an_answer_too_long_to_be_kept_as_text_says_all_of_it(hosting: Hosting, accept: str) -> None:
    first = samples.instance(next(_numbers), 1, 1000, pixels=bytes(512))
    uids = [f"{first.SeriesInstanceUID}.{number}" for number in range(1000, 2000)]
    # pydicom would take longer to write them than the server to store them.
    whole = part10(first)
    files = [whole.replace(uids[0].encode(), uid.encode()) for uid in uids]
    files[500:500] = [b"no DICOM"] * 1000
    answer = post(hosting, body_of(files), Accept=accept)
    assert answer.status == 202
    assert int(answer.headers["Content-Length"]) == len(answer.body) > 2 * stow_response.BLOCK_BYTES
    module = answer.module if accept == JSON else xml_model.parse(answer.body)
    stored = [item["00081155"]["Value"][0] for item in module["00081199"]["Value"]]
    assert sorted(stored) == uids
    assert len(module["0008119A"]["Value"]) == 1000 and "00081198" not in module


# clients as they come ----------------------------------------------------------------------------------------------


def test_dicomweb_client_stores_and_fetches(hosting: Hosting) -> None:
    """Above a megabyte it sends chunked, with a boundary that it never changes."""
    client = DICOMwebClient(f"{hosting.url}/dicom-web")
    study = next(_numbers)
    made = [samples.instance(study, 1, number, pixels=bytes(300_000)) for number in range(1, 8)]
    stored = client.store_instances(made)
    assert len(stored.ReferencedSOPSequence) == 7 and "FailedSOPSequence" not in stored
    for ds in made[:2]:
        found = client.retrieve_instance(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        assert found.PixelData == ds.PixelData


@pytest.mark.parametrize(
    ("content_type", "make"),
    [
        # dcmjs: a line end first.
        (PARTS + "dcmjs", lambda file: b"\r\n" + body_of([file], "dcmjs")),
        # Orthanc: two GUIDs.
        (PARTS + "x" * 73, lambda file: body_of([file], "x" * 73)),
        # dcm4che: a boundary in quotes.
        (
            'multipart/related;type="application/dicom";boundary="myboundary"',
            lambda file: body_of([file], "myboundary"),
        ),
        # MONAI: type without quotes; bytes of no type; a transfer syntax outside.
        (
            "multipart/related; type=application/dicom; transfer-syntax=*; boundary=m",
            lambda file: body_of([file], "m", ""),
        ),
        (PARTS + "o", lambda file: body_of([file], "o", "Content-Type: application/octet-stream\r\n")),
        (
            PARTS + "l",
            lambda file: body_of([file], "l").replace(b"--l\r\n", b"--l\n").replace(b"dicom\r\n\r\n", b"dicom\n\n"),
        ),
    ],
)
def test_bodies_of_real_clients_are_accepted(
    hosting: Hosting, content_type: str, make: Callable[[bytes], bytes]
) -> None:
    ds = new()
    assert post(hosting, make(part10(ds)), content_type).stored == [ds.SOPInstanceUID]
    assert data_set_of(hosting, ds.SOPInstanceUID) == payload_of(part10(ds))


@pytest.mark.parametrize("path", corpus_files()[::7], ids=lambda path: path.name)
def test_files_of_the_corpus_are_returned_unchanged(hosting: Hosting, path: Any) -> None:
    file = path.read_bytes()
    answer = post(hosting, body_of([file], "corpus-boundary"), PARTS + "corpus-boundary")
    if answer.status != 200:
        return
    uid = answer.stored[0]
    stored = data_set_of(hosting, uid)
    assert stored is not None and file.endswith(stored)


# deleting ----------------------------------------------------------------------------------------------------------


def test_instances_deleted_over_http_are_gone(hosting: Hosting) -> None:
    study = next(_numbers)
    made = [samples.instance(study, series, number) for series in (1, 2) for number in (1, 2)]
    assert post(hosting, body_of([part10(ds) for ds in made])).status == 200
    ds = made[0]
    path = f"/studies/{ds.StudyInstanceUID}"
    series = f"{path}/series/{ds.SeriesInstanceUID}"
    other_series = f"{path}/series/{made[-1].SeriesInstanceUID}"
    instance = f"{series}/instances/{ds.SOPInstanceUID}"
    other = f"{path}/series/{ds.SeriesInstanceUID}9/instances/{ds.SOPInstanceUID}"

    def statuses(path: str, *resources: str, method: str = "GET") -> set[int]:
        return {post(hosting, b"", path=path + resource, method=method).status for resource in ("", *resources)}

    levels = ("/metadata", "/rendered", "/thumbnail", "/pixeldata")
    assert statuses(other, method="DELETE") == {404}, "in another series"
    assert statuses(instance, method="DELETE") == {204}
    assert statuses(instance, *levels, "/frames/1") == statuses(instance, method="DELETE") == {410}
    assert statuses(series, "/metadata") == {200}
    assert statuses(series, method="DELETE") == {204}
    assert statuses(series, *levels, "/zip") == statuses(series, method="DELETE") == {410}
    assert statuses(f"{series}9", "/metadata") == {404}, "there was no such series"
    assert statuses(path, "/metadata") == statuses(other_series, "/metadata") == {200}
    assert statuses(path, method="DELETE") == {204}
    assert statuses(path, *levels, "/zip") == statuses(path, method="DELETE") == {410}
    assert statuses(other_series, *levels) == {410}, "deleted with its study"
    gone = post(hosting, b"", path=path, method="GET")
    assert gone.headers["Cache-Control"] == "no-store" and b"was deleted" in gone.body
    assert statuses(f"{path}9", "/metadata") == {404}
    assert all(data_set_of(hosting, each.SOPInstanceUID) is None for each in made)
    assert post(hosting, body_of([part10(ds)])).status == 200, "it may come again"
    assert statuses(path, "/metadata") == statuses(instance) == {200}
    assert statuses(other_series, "/metadata") == {404}, "it has not come again"


def test_held_studies_cannot_be_deleted(hosting: Hosting) -> None:
    ds = new()
    assert post(hosting, body_of([part10(ds)])).status == 200
    hosting.engine.archive.set_holds([ds.StudyInstanceUID], actor=actor(), reason="a case")
    answer = post(hosting, b"", path=f"/studies/{ds.StudyInstanceUID}", method="DELETE")
    assert answer.status == 409 and b"legal hold" in answer.body
    assert data_set_of(hosting, ds.SOPInstanceUID) is not None
