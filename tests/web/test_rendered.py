"""web.rendered: pictures, thumbnails, reports and documents over HTTP."""

from __future__ import annotations

import copy
import email
import io
import threading
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

from engine.archive.feed.quiet import QuietTimes
from engine.archive.feed.writer import FeedOptions
from engine.archive.rendering import thumbnails
from engine.archive.rendering.presentation_state import BLENDING, GRAYSCALE, XA_XRF
from tests.archive.rendering.made import dataset
from tests.archive.rendering.test_blended import side, with_palette
from tests.archive.rendering.test_picture import content, frames, report_of
from tests.archive.rendering.test_presentation_state import item, state_of, window
from tests.samples import ROOT
from tests.web.asking import Answer, ask
from tests.web.hosting import Hosting, host

CT = f"/dicom-web/studies/{ROOT}.1/series/{ROOT}.1.1/instances/{ROOT}.1.1.1"


VIDEO_UIDS = f"{ROOT}.3", f"{ROOT}.3.1", f"{ROOT}.3.1.1"
HEVC = "1.2.840.10008.1.2.4.107"
STREAM = b"no video, 16 byt"
NAMED = (
    f"studyUID={ROOT}.1&seriesUID={ROOT}.1.1&objectUID={ROOT}.1.1.1"
    f"&presentationSeriesUID={ROOT}.1.9&presentationUID={ROOT}.1.9.5"
)
STATE = f"/dicom-web/studies/{ROOT}.1/series/{ROOT}.1.9/instances/{ROOT}.1.9."


def part10_of(ds: pydicom.Dataset) -> bytes:
    out = io.BytesIO()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def at(number: int) -> str:
    return CT[: -len("1")] + str(number)


def image(number: int, level: int = 128, **more: object) -> pydicom.Dataset:
    values = np.full((32, 48), level, np.uint8)
    values[0, 0] = 255
    ds = dataset(values, **more)
    ds.InstanceNumber = number
    ds.SOPInstanceUID = f"{ROOT}.1.1.{number}"
    return ds


def blending() -> list[pydicom.Dataset]:
    """States that lay the second image over the first, over none that is here, and three frames over the first."""
    reds = np.zeros((256, 3), np.uint8)
    reds[:, 0] = np.arange(256)
    states = []
    for lower, upper in ((image(1), image(2)), (image(77), image(2)), (image(1), image(9))):
        state = with_palette(state_of(lower, SOPClassUID=BLENDING), reds)
        state.BlendingSequence, state.RelativeOpacity = [side("UNDERLYING", lower), side("SUPERIMPOSED", upper)], 0.5
        states.append(state)
    return states


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Every answer of one server, asked for once."""
    answers: dict[str, Answer] = {}
    data = tmp_path_factory.mktemp("rendered") / "data"

    def script(hosting: Hosting) -> None:
        archive = hosting.engine.archive
        for number, level in ((1, 50), (2, 100), (3, 150)):
            archive.store(part10_of(image(number, level)))
        moving = frames(3)
        moving.SOPInstanceUID, moving.InstanceNumber = f"{ROOT}.1.1.9", 9
        report = report_of(content("TEXT", "Lung", TextValue="clear"))
        report.SOPInstanceUID, report.SeriesInstanceUID = f"{ROOT}.1.2.1", f"{ROOT}.1.2"
        document = image(5, SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", Modality="DOC")
        del document.PixelData, document.Rows, document.Columns
        document.SeriesInstanceUID = f"{ROOT}.1.3"
        document.EncapsulatedDocument, document.MIMETypeOfEncapsulatedDocument = b"%PDF-1.7 xy", "application/pdf"
        empty = copy.deepcopy(document)
        empty.EncapsulatedDocument, empty.SOPInstanceUID = b"", f"{ROOT}.4.1.1"
        empty.StudyInstanceUID, empty.SeriesInstanceUID = f"{ROOT}.4", f"{ROOT}.4.1"
        secondary = image(6, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT")
        secondary.SeriesInstanceUID, secondary.StudyInstanceUID = f"{ROOT}.2.1", f"{ROOT}.2"
        state = state_of(image(1), SoftcopyVOILUTSequence=window(50, 1, VOILUTFunction="LINEAR"))
        elsewhere, advanced = state_of(image(77)), state_of(image(1), SOPClassUID=f"{GRAYSCALE[:-1]}8")
        subtracted = state_of(moving, SOPClassUID=XA_XRF)
        subtracted.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedFrameNumber = [1, 2, 3]
        subtracted.MaskSubtractionSequence = [item(MaskOperation="TID", TIDOffset=2)]
        subtracted.SoftcopyVOILUTSequence = window(0, 200, VOILUTFunction="LINEAR_EXACT")
        for number, ds in enumerate((state, elsewhere, advanced, subtracted, *blending()), 1):
            ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.1.9"
            ds.SOPInstanceUID = f"{ROOT}.1.9.{number}"
            archive.store(part10_of(ds))
        video = dataset(np.zeros((2, 2), np.uint8), SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.1.1", Modality="ES")
        video.StudyInstanceUID, video.SeriesInstanceUID, video.SOPInstanceUID = VIDEO_UIDS
        video.PixelData, video.file_meta.TransferSyntaxUID = encapsulate([STREAM]), HEVC
        video["PixelData"].is_undefined_length = True
        for ds in (moving, report, document, empty, secondary, video):
            archive.store(part10_of(ds))
        for name, path, headers in REQUESTS:
            answers[name] = ask(hosting, "GET", path, headers)
        again = {"If-None-Match": answers["instance"].headers["ETag"]}
        answers["again"] = ask(hosting, "GET", f"{CT}/rendered", again)
        answers["head"] = ask(hosting, "HEAD", f"{CT}/rendered")

    host(data, script)
    return answers


PNG_PARTS = 'multipart/related; type="image/png"'
REQUESTS: list[tuple[str, str, dict[str, str]]] = [
    ("instance", f"{CT}/rendered", {}),
    ("png", f"{CT}/rendered", {"Accept": "image/png"}),
    ("by query", f"{CT}/rendered?accept=image/gif", {"Accept": "image/*"}),
    ("any", f"{CT}/rendered", {"Accept": "*/*"}),
    ("viewport", f"{CT}/rendered?viewport=24%2C24&quality=50", {}),
    ("series", f"/dicom-web/studies/{ROOT}.1/series/{ROOT}.1.1/rendered", {"Accept": "image/png"}),
    ("study", f"/dicom-web/studies/{ROOT}.1/rendered", {"Accept": "image/png"}),
    ("study slash", f"/dicom-web/studies/{ROOT}.1/rendered/", {"Accept": "image/png"}),
    ("frame 3", f"{at(9)}/frames/3/rendered", {"Accept": "image/png"}),
    ("frame 4", f"{at(9)}/frames/4/rendered", {}),
    ("frames", f"{at(9)}/frames/3,1/rendered", {}),
    ("frames as png", f"{at(9)}/frames/3,1/rendered", {"Accept": PNG_PARTS}),
    ("frames as gif", f"{at(9)}/frames/1%2C3/rendered", {"Accept": "image/gif"}),
    ("frames alone", f"{at(9)}/frames/1,2/rendered", {"Accept": "image/png"}),
    ("frames beyond", f"{at(9)}/frames/4,1/rendered", {}),
    ("frames beyond as gif", f"{at(9)}/frames/1,4/rendered", {"Accept": "image/gif"}),
    ("frames of words", f"{at(9)}/frames/1,x/rendered", {}),
    ("series in parts", f"/dicom-web/studies/{ROOT}.1/series/{ROOT}.1.1/rendered", {"Accept": PNG_PARTS}),
    ("study in parts", f"/dicom-web/studies/{ROOT}.1/rendered", {"Accept": PNG_PARTS}),
    ("instance in parts", f"{CT}/rendered", {"Accept": PNG_PARTS}),
    ("gif", f"{at(9)}/rendered", {"Accept": "image/gif"}),
    ("report", f"/dicom-web/studies/{ROOT}.1/series/{ROOT}.1.2/rendered", {}),
    ("report text", f"/dicom-web/studies/{ROOT}.1/series/{ROOT}.1.2/rendered", {"Accept": "text/plain"}),
    ("report picture", f"/dicom-web/studies/{ROOT}.1/series/{ROOT}.1.2/rendered", {"Accept": "image/jpeg"}),
    ("pdf", f"/dicom-web/studies/{ROOT}.1/series/{ROOT}.1.3/rendered", {"Accept": "application/pdf"}),
    ("state", f"{STATE}1/rendered", {"Accept": "image/png"}),
    ("state in a viewport", f"{STATE}1/rendered?viewport=24,24", {}),
    ("state with a window", f"{STATE}1/rendered?window=1,2,linear", {}),
    ("state of nothing", f"{STATE}2/rendered", {}),
    ("state of advanced blending", f"{STATE}3/rendered", {}),
    ("state of blending", f"{STATE}5/rendered", {"Accept": "image/png"}),
    ("state of blending by name", f"/wado?requestType=WADO&contentType=image/png&{NAMED}", {}),
    ("state of blending of nothing", f"{STATE}6/rendered", {}),
    ("state of blending elsewhere", f"{STATE}7/rendered", {}),
    ("state with a mask", f"{STATE}4/rendered", {"Accept": "image/png"}),
    ("state as a report", f"{STATE}1/rendered", {"Accept": "text/html"}),
    ("bad window", f"{CT}/rendered?window=1,2,3", {}),
    ("nowhere", f"/dicom-web/studies/{ROOT}.77/rendered", {}),
    ("thumbnail", f"{CT}/thumbnail", {}),
    ("thumbnail again", f"{CT}/thumbnail", {}),
    ("study thumbnail", f"/dicom-web/studies/{ROOT}.1/thumbnail?viewport=64,64", {}),
    ("secondary thumbnail", f"/dicom-web/studies/{ROOT}.2/thumbnail", {"Accept": "image/png"}),
    ("report thumbnail", f"/dicom-web/studies/{ROOT}.1/series/{ROOT}.1.2/thumbnail", {"Accept": "image/png"}),
    ("frame thumbnail", f"{at(9)}/frames/2/thumbnail", {}),
    ("annotation", f"{CT}/rendered?annotation=patient,mood", {}),
    ("part of the pdf", f"/dicom-web/studies/{ROOT}.1/series/{ROOT}.1.3/rendered", {"Range": "bytes=1-3"}),
    ("empty document", f"/dicom-web/studies/{ROOT}.4/rendered", {}),
    ("video", f"/dicom-web/studies/{VIDEO_UIDS[0]}/rendered", {}),
    ("part of the video", f"/dicom-web/studies/{VIDEO_UIDS[0]}/rendered", {"Range": "bytes=9-"}),
    ("beyond the video", f"/dicom-web/studies/{VIDEO_UIDS[0]}/rendered", {"Range": "bytes=99-"}),
    ("still", f"/dicom-web/studies/{VIDEO_UIDS[0]}/rendered", {"Accept": "image/jpeg"}),
    ("video thumbnail", f"/dicom-web/studies/{VIDEO_UIDS[0]}/thumbnail", {"Accept": "image/png"}),
]


def shown(answer: Answer) -> Image.Image:
    assert answer.status == 200, answer.body
    return Image.open(io.BytesIO(answer.body))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("instance", "JPEG"), ("png", "PNG"), ("by query", "GIF"), ("any", "JPEG"), ("frame 3", "PNG")],
)
def test_a_picture_has_an_accepted_type(asked: dict[str, Answer], name: str, kind: str) -> None:
    assert shown(asked[name]).format == kind
    assert asked[name].headers["Content-Type"] == f"image/{kind.lower()}"
    assert "Accept" in asked[name].headers["Vary"]


def test_a_viewport_is_filled(asked: dict[str, Answer]) -> None:
    assert shown(asked["viewport"]).size == (24, 16)


def test_a_presentation_state_shows_its_image(asked: dict[str, Answer]) -> None:
    levels = np.asarray(shown(asked["state"]))
    assert levels.shape == (32, 48) and levels[0, 0] == 255 and set(np.unique(levels)) <= {0, 255}
    assert asked["state"].headers["ETag"] != asked["png"].headers["ETag"]
    assert shown(asked["state in a viewport"]).size == (24, 16)
    assert asked["state with a window"].status == 400
    assert (asked["state of nothing"].status, b"none of the images" in asked["state of nothing"].body) == (404, True)
    advanced = asked["state of advanced blending"]
    assert (advanced.status, b"advanced blending" in advanced.body) == (406, True)
    assert asked["state as a report"].status == 406
    levels = np.asarray(shown(asked["state with a mask"]))
    assert abs(int(levels[5, 5]) - (0.5 + 80 / 200) * 255) <= 1, (
        "the first frame that has a mask: the third less the first"
    )


def test_a_blending_state_lays_one_image_over_another(asked: dict[str, Answer]) -> None:
    levels = np.asarray(shown(asked["state of blending"])).astype(int)
    assert levels.shape == (32, 48, 3)
    assert np.abs(levels[9, 9] - (50 / 2 + 100 / 2, 50 / 2, 50 / 2)).max() <= 1
    assert asked["state of blending by name"].body == asked["state of blending"].body
    assert asked["state of blending of nothing"].status == 404
    elsewhere = asked["state of blending elsewhere"]
    assert (elsewhere.status, b"plane" in elsewhere.body) == (406, True)


def test_the_picture_of_a_series_or_study_is_its_middle_image(asked: dict[str, Answer]) -> None:
    for name in ("series", "study", "study slash"):
        assert shown(asked[name]).getpixel((5, 5)) == 150, name


def test_a_frame_is_rendered_and_a_missing_one_is_not_found(asked: dict[str, Answer]) -> None:
    assert shown(asked["frame 3"]).getpixel((5, 5)) == 80
    assert asked["frame 4"].status == 404
    assert asked["frames of words"].status == 400


def pictures_in(answer: Answer) -> list[tuple[str, str, Image.Image]]:
    """Content-Type, Content-Location and picture of each part."""
    assert answer.status == 200, answer.body
    message = email.message_from_bytes(f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode() + answer.body)
    parts = message.get_payload()
    assert isinstance(parts, list)
    return [
        (part["Content-Type"], part["Content-Location"], Image.open(io.BytesIO(part.get_payload(decode=True))))
        for part in parts
    ]


def test_several_frames_are_parts_or_an_animation(asked: dict[str, Answer]) -> None:
    parts = pictures_in(asked["frames"])
    assert [kind for kind, _, _ in parts] == ["image/jpeg"] * 2
    assert [where.rpartition("/instances/")[2] for _, where, _ in parts] == [
        f"{ROOT}.1.1.9/frames/{number}/rendered" for number in (3, 1)
    ]
    assert [picture.getpixel((5, 5)) for _, _, picture in pictures_in(asked["frames as png"])] == [80, 0]
    assert shown(asked["frames as gif"]).n_frames == 2
    assert asked["frames alone"].status == 406
    assert asked["frames beyond"].status == asked["frames beyond as gif"].status == 404


def test_parts_have_each_frame_of_each_image(asked: dict[str, Answer]) -> None:
    levels = [picture.convert("L").getpixel((5, 5)) for _, _, picture in pictures_in(asked["series in parts"])]
    assert levels == [50, 100, 150, 0, 40, 80]
    assert len(pictures_in(asked["study in parts"])) == 6, "a report and a state are no images"
    assert [kind for kind, _, _ in pictures_in(asked["instance in parts"])] == ["image/png"]


def test_all_frames_move_in_a_gif(asked: dict[str, Answer]) -> None:
    assert shown(asked["gif"]).n_frames == 3


def test_a_report_is_a_page_or_text_and_no_picture(asked: dict[str, Answer]) -> None:
    assert asked["report"].headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"<dd>clear</dd>" in asked["report"].body
    assert b"Lung: clear" in asked["report text"].body
    assert asked["report picture"].status == 406


def test_a_document_is_returned_unchanged(asked: dict[str, Answer]) -> None:
    assert asked["pdf"].body == b"%PDF-1.7 xy"
    assert asked["pdf"].headers["Content-Type"] == "application/pdf"


def test_a_player_may_seek_in_a_video(asked: dict[str, Answer]) -> None:
    whole, part = asked["video"], asked["part of the video"]
    assert (whole.status, whole.headers["Content-Type"], whole.body) == (200, "video/H265", STREAM)
    assert (part.status, part.headers["Content-Range"], part.body) == (206, "bytes 9-15/16", STREAM[9:])
    assert asked["beyond the video"].status == 416
    assert asked["part of the pdf"].body == b"PDF"
    assert (asked["empty document"].status, asked["empty document"].headers["Content-Length"]) == (200, "0")


def test_a_video_that_cannot_be_decoded_has_an_icon_and_no_picture(asked: dict[str, Answer]) -> None:
    assert shown(asked["video thumbnail"]).size == (256, 256)
    assert (asked["still"].status, b"video" in asked["still"].body) == (406, True)


def test_errors_name_the_parameter(asked: dict[str, Answer]) -> None:
    assert (asked["bad window"].status, asked["nowhere"].status) == (400, 404)
    assert b"window" in asked["bad window"].body


def test_a_picture_that_the_client_has_is_not_sent_again(asked: dict[str, Answer]) -> None:
    assert asked["again"].status == 304
    assert asked["again"].body == b""
    assert asked["head"].headers["Content-Length"] == str(len(asked["instance"].body))


def test_thumbnails_are_small_at_every_level(asked: dict[str, Answer]) -> None:
    assert shown(asked["thumbnail"]).size == (256, 171)
    assert asked["thumbnail again"].body == asked["thumbnail"].body
    assert shown(asked["study thumbnail"]).size == (64, 43)
    assert shown(asked["frame thumbnail"]).format == "JPEG"


def test_images_that_may_show_a_name_or_nothing_have_an_icon(asked: dict[str, Answer]) -> None:
    for name in ("secondary thumbnail", "report thumbnail"):
        assert shown(asked[name]).size == (256, 256), name
        assert shown(asked[name]).getpixel((0, 0)) == 38, name


def test_unknown_annotations_are_warned_of(asked: dict[str, Answer]) -> None:
    assert asked["annotation"].headers["Warning"].startswith("299 ")
    assert "mood" in asked["annotation"].headers["Warning"]


def test_thumbnails_are_rendered_ahead_when_a_series_is_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "PAUSE_S", 0.02)
    monkeypatch.setattr(thumbnails, "GATHER_S", 0.02)
    monkeypatch.setattr(thumbnails, "SAVE_S", 0.0)

    def script(hosting: Hosting) -> None:
        archive = hosting.engine.archive
        options = FeedOptions(quiet=QuietTimes(series_s=0.01, study_s=0.01))
        writer = archive.feed_writer(options)
        try:
            archive.store(part10_of(image(1)))
            (instance,) = archive.matching("instance")
            deadline = time.monotonic() + 30
            while hosting.engine.thumbnails.cached(instance) is None and time.monotonic() < deadline:
                writer.follow()
                threading.Event().wait(0.02)
            assert hosting.engine.thumbnails.cached(instance) is not None
        finally:
            writer.close()

    host(tmp_path / "data", script)
