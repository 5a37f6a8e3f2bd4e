"""WADO-RS over HTTP: the stored bytes in every form, ranges and conditions, refusals in words. One server for all."""

from __future__ import annotations

import gzip
import http.client
import io
import json
from collections.abc import Iterator
from typing import Any

import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient

from engine.archive import retrieve, selection
from engine.archive.ingest.request import ReceivedInstance
from engine.errors import CorruptRecord
from engine.index.format.types import Level
from engine.storage.reader import LogReader
from engine.storage.record import Position, crc32c
from engine.web import instances as instances_module
from engine.web import stored as stored_module
from engine.web import wado_frames
from tests import samples
from tests.actors import actor
from tests.archive import kept
from tests.web.hosting import Hosting, hosted
from tests.web.wado import AS_STORED, FRAMES_AS_STORED, Answer, Get, requesting, syntax_in

STUDY = f"{samples.ROOT}.1"
SERIES = f"{STUDY}.1"
COUNT = 5


def url_of(number: int) -> str:
    return f"/studies/{STUDY}/series/{SERIES}/instances/{kept.uid_of(number)}"


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    data = tmp_path_factory.mktemp("wado") / "data"
    with kept.opened(data, segment_bytes=64 << 20) as archive:
        kept.store(archive, [kept.data_set(number, pixels=4096) for number in range(COUNT)])
        for number in (20, 21, 22):
            kept.store(archive, [other(number)])
    with hosted(data) as hosting:
        yield hosting


def other(number: int) -> bytes:
    """An instance of another study, for tests that damage or delete it."""
    return samples.encoded(samples.instance(number, 1, 1, pixels=bytes(4096)))


def other_url(number: int) -> str:
    return f"/studies/{samples.ROOT}.{number}/series/{samples.ROOT}.{number}.1/instances/{samples.ROOT}.{number}.1.1"


@pytest.fixture
def get(hosting: Hosting) -> Iterator[Get]:
    with requesting(hosting) as get:
        yield get


# Instances ---------------------------------------------------------------------------------------


def test_a_study_and_a_series_are_their_instances(hosting: Hosting, get: Get) -> None:
    for path in (f"/studies/{STUDY}", f"/studies/{STUDY}/series/{SERIES}/", f"//studies/{STUDY}"):
        answer = get(path, Accept=AS_STORED)
        files = [pydicom.dcmread(io.BytesIO(file)) for _, file in answer.parts]
        assert [file.SOPInstanceUID for file in files] == [kept.uid_of(number) for number in range(COUNT)]
        locations = [part.content_location for part, _ in answer.parts]
        assert [each.partition("/dicom-web")[2] for each in locations] == [url_of(number) for number in range(COUNT)]


def test_a_range_of_a_study_is_a_part_of_the_whole(get: Get) -> None:
    whole = get(f"/studies/{STUDY}", Accept=AS_STORED)
    for start, end in ((0, 99), (100, 5000), (4000, len(whole.body) - 1)):
        part = get(f"/studies/{STUDY}", Accept=AS_STORED, Range=f"bytes={start}-{end}", If_Range=whole.headers["ETag"])
        assert part.status == 206
        assert part.body == whole.body[start : end + 1]
        assert part.headers["Content-Range"] == f"bytes {start}-{end}/{len(whole.body)}"


def test_one_instance_alone_has_ranges_conditions_and_head(get: Get) -> None:
    accept = "application/dicom; transfer-syntax=*"
    whole = get(url_of(0), Accept=accept)
    assert whole.headers["Content-Type"] == "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
    head = get(url_of(0), "HEAD", Accept=accept)
    names = ("Content-Type", "Content-Length", "ETag", "Cache-Control", "Accept-Ranges", "Vary")
    assert [head.headers[name] for name in names] == [whole.headers[name] for name in names]
    assert head.body == b""
    tag = whole.headers["ETag"]
    assert get(url_of(0), Accept=accept, Range="bytes=10-19").body == whole.body[10:20]
    assert get(url_of(0), Accept=accept, Range="bytes=-7").body == whole.body[-7:]
    assert get(url_of(0), Accept=accept, Range="bytes=10-19", If_Range='"other"').body == whole.body
    beyond = get(url_of(0), Accept=accept, Range=f"bytes={len(whole.body)}-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(whole.body)}")
    unchanged = get(url_of(0), Accept=accept, If_None_Match=tag)
    assert (unchanged.status, unchanged.headers["ETag"], unchanged.body) == (304, tag, b"")
    assert get(url_of(0), Accept=accept, If_Match=tag, Range="bytes=10-19").body == whole.body[10:20]
    for path in (url_of(0), f"/studies/{STUDY}", f"/studies/{STUDY}/metadata", f"{url_of(0)}/frames/1"):
        assert get(path, If_Match='"other"', If_None_Match="*").status == 412, path
        assert get(path, If_Match="*").status == 200, path


# Frames ------------------------------------------------------------------------------------------


def test_frames_are_encoded_if_an_image_type_is_requested(get: Get) -> None:
    native = get(f"{url_of(0)}/frames/1", Accept="application/octet-stream").body
    ((part, frame),) = get(f"{url_of(0)}/frames/1", Accept='multipart/related; type="image/jls"').parts
    assert part.content_type is not None
    assert (part.content_type.name, syntax_in(part)) == ("image/jls", "1.2.840.10008.1.2.4.80")
    assert frame[:2] == b"\xff\xd8"
    assert len(native) == 4096


@pytest.mark.parametrize(
    ("path", "accept", "status", "word"),
    [
        (f"{url_of(0)}/frames/0", None, 400, "numbered from 1"),
        (f"{url_of(0)}/frames/one", None, 400, "1,2,5"),
        (f"{url_of(0)}/frames/2", None, 404, "no frame 2"),
        (f"{url_of(0)}/frames/1,2", None, 404, "no frame 2"),
        (f"{url_of(0)}/frames/1,1", None, 400, "twice"),
        (f"{url_of(0)}/frames/1", "image/png", 406, "available as"),
        (f"{url_of(0)}/frames/1", 'multipart/related; type="image/jp2"; transfer-syntax=1.2.3', 406, "no requested"),
        (url_of(0), "application/dicom; transfer-syntax=1.2.840.10008.1.2", 406, "cannot be sent"),
        (url_of(0), "application/dicom; transfer-syntax=1.2.840.10008.1.2.2", 406, "cannot be sent"),
        (f"/studies/{STUDY}", "application/dicom", 406, "multipart"),
        (f"/studies/{STUDY}", "image/png, application/dicom", 400, "rendered"),
        ("/studies/1.2.3", None, 404, "no study 1.2.3"),
        (f"/studies/{STUDY}/series/1.2.3", None, 404, "no series 1.2.3"),
        (f"/studies/{STUDY}/series/1.2.3/instances/{kept.uid_of(0)}", None, 404, "another series"),
        (f"/studies/{STUDY}/series/{SERIES}/instances/1.2.3", None, 404, "no instance 1.2.3"),
        ("/studies/1%5C2", None, 404, "not a UID"),
        ("/studies/1.2.3/metadata", None, 404, "no study"),
        (f"{url_of(0)}/bulkdata/00100099", None, 404, "no element"),
        (f"{url_of(0)}/bulkdata/PatientName", None, 404, "hexadecimal"),
        (f"{url_of(0)}/metadata", "application/pdf", 406, "available as"),
    ],
)
def test_refusals_have_a_reason(get: Get, path: str, accept: str | None, status: int, word: str) -> None:
    answer = get(path, **({"Accept": accept} if accept else {}))
    assert answer.status == status, answer.body
    assert word in json.loads(answer.body)["detail"]


def test_a_frame_too_long_for_memory_is_read_while_it_is_sent(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    held = get(f"{url_of(0)}/frames/1", Accept=FRAMES_AS_STORED)
    monkeypatch.setattr(wado_frames, "HELD_BYTES_MAX", 1000)
    monkeypatch.setattr(retrieve, "CACHED_BYTES_MAX", 1000)
    answer = get(f"{url_of(0)}/frames/1", Accept=FRAMES_AS_STORED)
    assert (answer.body, answer.headers["ETag"]) == (held.body, held.headers["ETag"])
    refused = get(f"{url_of(0)}/frames/1", Accept='multipart/related; type="image/jls"')
    assert (refused.status, "4096 bytes" in json.loads(refused.body)["detail"]) == (413, True)


def test_a_study_with_too_many_instances_is_refused(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_module, "INSTANCES_MAX", 3)
    monkeypatch.setattr(selection, "BATCH", 2)
    answer = get(f"/studies/{STUDY}", Accept=AS_STORED)
    assert (answer.status, "one by one" in json.loads(answer.body)["detail"]) == (413, True)


def test_too_many_decoding_requests_get_retry_after(
    hosting: Hosting, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances_module, "CODECS_WAITING_MAX", 0)
    answer = get(f"{url_of(0)}/frames/1", Accept='multipart/related; type="image/jls"')
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert get(f"{url_of(0)}/frames/1", Accept=FRAMES_AS_STORED).status == 200


# Metadata and bulk data --------------------------------------------------------------------------


def test_metadata_is_one_array_at_every_level(get: Get) -> None:
    for path, count in ((f"/studies/{STUDY}", COUNT), (f"/studies/{STUDY}/series/{SERIES}", COUNT), (url_of(0), 1)):
        plain = get(f"{path}/metadata")
        assert plain.headers["Content-Type"] == "application/dicom+json"
        rows = json.loads(plain.body)
        assert len(rows) == count
        packed = get(f"{path}/metadata", Accept_Encoding="gzip, deflate", Accept="application/json")
        if packed.headers["Content-Encoding"] == "gzip":
            assert json.loads(gzip.decompress(packed.body)) == rows
        assert get(f"{path}/metadata", If_None_Match=plain.headers["ETag"]).status == 304
        xml = get(f"{path}/metadata", Accept='multipart/related; type="application/dicom+xml"')
        assert len(xml.parts) == count


def test_pixel_data_is_native_little_endian_with_ranges(get: Get) -> None:
    frame = get(f"{url_of(0)}/frames/1", Accept="application/octet-stream").body
    for path in (f"{url_of(0)}/pixeldata", f"{url_of(0)}/bulkdata/7FE00010"):
        assert get(path, Accept="application/octet-stream").body == frame
        assert get(path, Accept="application/octet-stream", Range="bytes=100-199").body == frame[100:200]
    whole = get(f"/studies/{STUDY}/pixeldata").parts
    assert len(whole) == COUNT
    assert whole[0][1] == frame


# What goes wrong on the way ----------------------------------------------------------------------


def test_what_is_deleted_with_if_match_is_what_its_entity_tag_stands_for(hosting: Hosting, get: Get) -> None:
    def store(number: int) -> None:
        hosting.engine.archive.store(samples.part10(samples.instance(23, 1, number)))

    store(1)
    study, instance = f"/studies/{samples.ROOT}.23", other_url(23)
    tag, as_stored = get(study).headers["ETag"], get(study, Accept=AS_STORED).headers["ETag"]
    one = get(instance, "HEAD").headers["ETag"]
    assert get(study, "DELETE", If_Match='"other"').status == 412
    assert get(instance, "DELETE", If_Match=tag).status == 412
    store(2)
    for condition in (tag, as_stored):
        assert get(study, "DELETE", If_Match=condition).status == 412, "an instance has arrived"
    assert get(instance, "DELETE", If_Match=f'"other", {one}').status == 204
    assert get(study, "DELETE", If_Match=get(study, Accept=AS_STORED).headers["ETag"]).status == 204
    assert get(study, "DELETE", If_Match="*").status == 410


def test_a_deleted_instance_is_gone(hosting: Hosting, get: Get) -> None:
    assert get(other_url(20)).status == 200
    archive = hosting.engine.archive
    found = archive.instance(f"{samples.ROOT}.20.1.1")
    assert found is not None
    archive.delete_instances([found], level=Level.IMAGE, actor=actor(), reason="")
    answer = get(other_url(20))
    assert (answer.status, json.loads(answer.body)["title"]) == (410, "Gone")


def test_damage_found_while_sending_breaks_the_answer_off_and_is_left_out_next_time(
    hosting: Hosting, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = hosting.engine.archive
    second = samples.encoded(samples.instance(21, 1, 2, pixels=bytes(2 << 20)))
    item = ReceivedInstance([second], len(second), crc32c(second), "1.2.840.10008.1.2.1", "MODALITY")
    archive.ingest_batch([item])
    found = archive.instance(f"{samples.ROOT}.21.1.2")
    assert found is not None
    check = LogReader.check

    def damaged(reader: LogReader, position: Any, crc: int) -> None:
        check(reader, position, crc ^ (position == found.position))

    with monkeypatch.context() as patch:
        patch.setattr(LogReader, "check", damaged)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            get(f"/studies/{samples.ROOT}.21", Accept=AS_STORED)
    fresh = http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=60)
    fresh.request("GET", f"/dicom-web/studies/{samples.ROOT}.21", headers={"Accept": AS_STORED})
    answer = Answer(fresh.getresponse())
    fresh.close()
    assert len(answer.parts) == 1
    assert "1 instances cannot be read" in answer.headers["Warning"]


def test_damage_found_before_sending_is_an_error_response(
    hosting: Hosting, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(_reader: LogReader, position: Position, _crc: int) -> None:
        raise CorruptRecord("payload: not as it was written", position.segment_id, position.offset)

    with monkeypatch.context() as patch:
        patch.setattr(LogReader, "check", damaged)
        answer = get(f"/studies/{samples.ROOT}.22", Accept=AS_STORED)
    assert (answer.status, answer.headers["Content-Type"]) == (500, "application/problem+json")
    assert json.loads(answer.body)["status"] == 500


def test_dicomweb_client_gets_what_it_requests(hosting: Hosting) -> None:
    client = DICOMwebClient(f"{hosting.url}/dicom-web")
    files = client.retrieve_series(STUDY, SERIES)
    assert sorted(file.SOPInstanceUID for file in files) == [kept.uid_of(number) for number in range(COUNT)]
    rows = client.retrieve_series_metadata(STUDY, SERIES)
    assert len(rows) == COUNT
    uid = kept.uid_of(0)
    (frame,) = client.retrieve_instance_frames(STUDY, SERIES, uid, [1])
    file = client.retrieve_instance(STUDY, SERIES, uid)
    assert frame == file.PixelData
    row = client.retrieve_instance_metadata(STUDY, SERIES, uid)
    (bulk,) = client.retrieve_bulkdata(row["7FE00010"]["BulkDataURI"])
    assert bulk == file.PixelData
