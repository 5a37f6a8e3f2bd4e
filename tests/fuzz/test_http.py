"""Hostile HTTP against a running server; FILMROOM_FUZZ_RUNS makes it a long run."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import requests

from engine.dicom import part10
from tests import samples
from tests.fuzz import http
from tests.fuzz.http import Fuzzer, Hostile, answers_in, get
from tests.fuzz.server import Found, check_archive
from tests.system.server import Server, running
from tests.web.asking import parts_of
from tests.web.wado import AS_STORED, EXPLICIT

RUNS = int(os.environ.get("FILMROOM_FUZZ_RUNS", "400"))
SEED = int(os.environ.get("FILMROOM_FUZZ_SEED", "1"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("fuzz-http") / "data", config=http.CONFIG, workers=1, http=True) as server:
        yield server
        assert server.stop() == 0
        check_archive(server.data)


def test_a_server_does_not_mind_whatever_comes(server: Server) -> None:
    fuzzer = http.run(server, RUNS, SEED)
    assert fuzzer.answered > fuzzer.requests // 3, "hardly anything was answered: the fuzzer misses the server"


def test_the_fuzzer_sees_what_is_smuggled_and_a_wrong_status(server: Server) -> None:
    fuzzer = Fuzzer(server)
    good = get("/health/live")
    with pytest.raises(Found, match=r"\[200, 200\]"):
        fuzzer.send(Hostile("two requests", good + good, frozenset((200,))))
    with pytest.raises(Found, match=r"\[200\]"):
        fuzzer.send(Hostile("a good one", good))
    with pytest.raises(Found, match="neither an answer nor an end"):
        fuzzer._answer_s = 0.1
        fuzzer.send(Hostile("half of one", good[:-2]))


def test_answers_are_counted_by_their_lengths() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    chunked = b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    assert answers_in(whole + chunked + whole) == [200, 404, 200]
    assert answers_in(whole[:-1]) == [] and answers_in(b"HTTP/1.1 100 Continue\r\n\r\n" + whole) == [200]


HOSTILE_UIDS = (
    "../../etc/passwd", "/etc/passwd", "..%2F..%2Fx", "C:evil", "DICOMDIR", "UNREADABLE.TXT", 'a";x="b', "same", "SAME",
    "<script>", "#", "%00", "~root", "-rf", "a" * 128,
)  # fmt: skip


def test_no_uid_makes_a_path_a_header_or_a_name_in_a_zip_archive(server: Server) -> None:
    study = 'x/../../y"<z'
    stored = {}
    for uid in HOSTILE_UIDS:
        ds = samples.instance(sop_class_uid=samples.CT, patient_id="../../P")
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, "../s"
        ds["SOPInstanceUID"].value = uid
        stored[uid] = ds
    files = [part10.write_file_meta(samples.CT, "1.2.3", EXPLICIT) + samples.encoded(ds) for ds in stored.values()]
    body = b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files) + b"--b--"
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    answer = requests.post(f"{server.url}/dicom-web/studies", data=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    url = f"{server.url}/dicom-web/studies/{quote(study, safe='')}"

    zipped = requests.get(f"{url}/zip", timeout=60)
    assert zipped.headers["Content-Disposition"] == 'attachment; filename="x_.._.._y__z.zip"'
    names = zipfile.ZipFile(io.BytesIO(zipped.content)).namelist()
    assert len({name.lower() for name in names}) == len(names) == len(HOSTILE_UIDS) + 1
    for name in names:
        assert re.fullmatch(r"DICOMDIR|DICOM/PT000001/ST000001/SE000001/IM0000\d\d", name), name

    parts = parts_of(requests.get(url, headers={"Accept": AS_STORED}, timeout=60))
    rows = requests.get(f"{url}/instances", timeout=60).json()
    locations = {part.content_location for part, _ in parts}
    assert len(parts) == len(HOSTILE_UIDS)
    assert locations == {row["00081190"]["Value"][0] for row in rows}, "searches and retrievals name the same URLs"
    assert locations == {item["00081190"]["Value"][0] for item in answer.json()["00081199"]["Value"]}, (
        "and so does the answer to STOW-RS"
    )
    for location in locations:
        assert re.fullmatch(r"[!-~]+", location) and not re.search(r"[\"<>#]|/\.\.?(/|$)", location), location
        instance = requests.get(location, headers={"Accept": "application/dicom"}, timeout=60)
        assert instance.status_code == 200, location
        assert instance.headers["Content-Location"] == location
