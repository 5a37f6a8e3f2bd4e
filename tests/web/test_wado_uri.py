"""web.wado_uri and web.zip_archive."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pydicom
import pytest
from PIL import Image

from tests.archive.rendering.test_picture import content, report_of
from tests.archive.rendering.test_presentation_state import state_of, window
from tests.samples import ROOT
from tests.web.asking import Answer, ask
from tests.web.hosting import Hosting, host
from tests.web.test_rendered import image, part10_of

ONE = f"studyUID={ROOT}.1&seriesUID={ROOT}.1.1&objectUID={ROOT}.1.1.1"
REPORT = f"studyUID={ROOT}.1&seriesUID={ROOT}.1.2&objectUID={ROOT}.1.2.1"
STATE = f"presentationSeriesUID={ROOT}.1.7&presentationUID={ROOT}.1.7.1"
ASKED = {
    "picture": f"/wado?requestType=WADO&{ONE}",
    "file": f"/wado?requestType=WADO&{ONE}&contentType=application/dicom",
    "any": f"/wado?requestType=WADO&{ONE}&contentType=application%2Fdicom&transferSyntax=1.2.840.10008.1.2.4.80",
    "implicit": f"/wado?requestType=WADO&{ONE}&contentType=application/dicom&transferSyntax=1.2.840.10008.1.2",
    "unknown syntax": f"/wado?requestType=WADO&{ONE}&contentType=application/dicom&transferSyntax=1.2.3",
    "png": f"/wado?requestType=WADO&{ONE}&contentType=image/png&rows=16&columns=16&windowCenter=128&windowWidth=256",
    "region": f"/wado?requestType=WADO&{ONE}&contentType=image/png&region=0,0,0.5,0.5",
    "report": f"/wado?requestType=WADO&{REPORT}",
    "report jpeg": f"/wado?requestType=WADO&{REPORT}&contentType=image/jpeg",
    "no type": f"/wado?{ONE}",
    "no object": f"/wado?requestType=WADO&studyUID={ROOT}.1&seriesUID={ROOT}.1.1",
    "elsewhere": f"/wado?requestType=WADO&studyUID={ROOT}.9&seriesUID={ROOT}.1.1&objectUID={ROOT}.1.1.1",
    "half a window": f"/wado?requestType=WADO&{ONE}&windowCenter=4",
    "frame": f"/wado?requestType=WADO&{ONE}&frameNumber=2",
    "anonymous": f"/wado?requestType=WADO&{ONE}&anonymize=yes",
    "presented": f"/wado?requestType=WADO&{ONE}&contentType=image/png&{STATE}",
    "presented small": f"/wado?requestType=WADO&{ONE}&contentType=image/png&rows=16&columns=16&{STATE}",
    "presented with a window": f"/wado?requestType=WADO&{ONE}&windowCenter=4&windowWidth=4&{STATE}",
    "presented with a region": f"/wado?requestType=WADO&{ONE}&region=0,0,1,1&{STATE}",
    "presented by half a name": f"/wado?requestType=WADO&{ONE}&presentationUID={ROOT}.1.7.1",
    "presented by nothing": f"/wado?requestType=WADO&{ONE}&{STATE}9",
    "presented by an image": f"/wado?requestType=WADO&{ONE}&{STATE.replace('.1.7', '.1.1')}",
    "presented for another": f"/wado?requestType=WADO&{ONE.removesuffix('1')}2&contentType=image/png&{STATE}",
    "presented file": f"/wado?requestType=WADO&{ONE}&contentType=application/dicom&{STATE}",
    "zip": f"/dicom-web/studies/{ROOT}.1/zip",
    "series zip": f"/dicom-web/studies/{ROOT}.1/series/{ROOT}.1.1/zip",
    "no zip": f"/dicom-web/studies/{ROOT}.5/zip",
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}

    def script(hosting: Hosting) -> None:
        report = report_of(content("TEXT", "Lung", TextValue="clear"))
        report.SOPInstanceUID, report.SeriesInstanceUID = f"{ROOT}.1.2.1", f"{ROOT}.1.2"
        state = state_of(image(1), SoftcopyVOILUTSequence=window(200, 1, VOILUTFunction="LINEAR"))
        state.StudyInstanceUID, state.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.1.7"
        state.SOPInstanceUID = state.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.1.7.1"
        for ds in (image(1), image(2), report, state):
            hosting.engine.archive.store(part10_of(ds))
        answers.update({name: ask(hosting, "GET", path) for name, path in ASKED.items()})
        path = f"/dicom-web/studies/{ROOT}.1"
        answers["accepted zip"] = ask(hosting, "GET", path, {"Accept": "application/zip"})
        answers["zip head"] = ask(hosting, "HEAD", f"{path}/zip")

    host(tmp_path_factory.mktemp("uri") / "data", script)
    return answers


def shown(answer: Answer) -> Image.Image:
    assert answer.status == 200, answer.body
    return Image.open(io.BytesIO(answer.body))


def test_an_image_is_a_jpeg_unless_another_type_is_asked_for(asked: dict[str, Answer]) -> None:
    assert shown(asked["picture"]).format == "JPEG"
    assert shown(asked["png"]).size == (16, 11)
    assert shown(asked["region"]).size == (24, 16)


@pytest.mark.parametrize(("name", "syntax"), [("file", "1.2.840.10008.1.2.1"), ("any", "1.2.840.10008.1.2.4.80")])
def test_a_file_has_the_requested_transfer_syntax(asked: dict[str, Answer], name: str, syntax: str) -> None:
    ds = pydicom.dcmread(io.BytesIO(asked[name].body))
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert ds.SOPInstanceUID == f"{ROOT}.1.1.1"
    assert asked[name].headers["Content-Type"] == f"application/dicom; transfer-syntax={syntax}"


def test_a_report_is_a_page(asked: dict[str, Answer]) -> None:
    assert b"<dd>clear</dd>" in asked["report"].body
    assert asked["report jpeg"].status == 406


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("implicit", 406),
        ("unknown syntax", 406),
        ("anonymous", 406),
        ("no type", 400),
        ("no object", 400),
        ("half a window", 400),
        ("elsewhere", 404),
        ("frame", 404),
        ("no zip", 404),
    ],
)
def test_invalid_requests_are_refused(asked: dict[str, Answer], name: str, status: int) -> None:
    assert asked[name].status == status, asked[name].body


@pytest.mark.parametrize(("name", "count"), [("zip", 4), ("series zip", 2), ("accepted zip", 4)])
def test_a_zip_archive_has_the_files_and_a_directory(asked: dict[str, Answer], name: str, count: int) -> None:
    assert asked[name].headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(asked[name].body)) as archived:
        assert archived.testzip() is None
        assert len(archived.namelist()) == count + 1
    assert ROOT in asked[name].headers["Content-Disposition"]


def test_the_head_of_a_zip_archive_has_no_body(asked: dict[str, Answer]) -> None:
    assert (asked["zip head"].status, asked["zip head"].body) == (200, b"")


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """A client that goes in the middle of a zip archive."""

    def script(hosting: Hosting) -> None:
        hosting.engine.archive.store(part10_of(image(1)))
        with hosting.connect() as sock:
            sock.sendall(f"GET /dicom-web/studies/{ROOT}.1/zip HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            sock.recv(10)

    host(tmp_path / "data", script)


def test_a_presentation_state_shows_the_image_that_the_request_names(asked: dict[str, Answer]) -> None:
    levels = [level for _, level in Image.open(io.BytesIO(asked["presented"].body)).convert("L").getcolors()]
    plain = [level for _, level in Image.open(io.BytesIO(asked["region"].body)).convert("L").getcolors()]
    assert sorted(levels) == [0, 255] and 0 < min(plain) < 255
    assert Image.open(io.BytesIO(asked["presented small"].body)).width == 16


@pytest.mark.parametrize(
    ("name", "status", "word"),
    [
        ("presented with a window", 400, b"windowCenter"),
        ("presented with a region", 400, b"region"),
        ("presented by half a name", 400, b"presentationSeriesUID"),
        ("presented by nothing", 404, b"no instance"),
        ("presented by an image", 406, b"grayscale"),
        ("presented for another", 404, b"not for this image"),
        ("presented file", 400, b"presentationUID"),
    ],
)
def test_a_presentation_state_that_cannot_be_applied_is_named(
    asked: dict[str, Answer], name: str, status: int, word: bytes
) -> None:
    assert (asked[name].status, word in asked[name].body) == (status, True), asked[name].body
