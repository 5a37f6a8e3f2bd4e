"""rendering.picture and what is around it: colour, viewport, annotation, profiles, animations, icons, reports."""

from __future__ import annotations

import asyncio
import io
import random
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageCms

from engine.archive.rendering import icc, icons, picture, report, video
from engine.archive.rendering.options import GIF, JPEG, MP4, PNG, PictureOptions, Viewport
from engine.archive.rendering.renderer import Renderer
from engine.archive.transcoding.compress import compressed
from engine.dicom import transfer_syntax
from engine.dicom.sources import Whole
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import TranscodeError
from tests.archive.rendering.made import BYTES_MAX, dataset, drawn, encoded, raw

SEED = 20261129
RLE = "1.2.840.10008.1.2.5"


def colours(rows: int = 8, columns: int = 8) -> np.ndarray:
    values = np.random.default_rng(SEED).integers(0, 256, (rows, columns, 3), np.uint8)
    values[0, 0], values[0, 1] = (255, 0, 0), (0, 0, 255)
    return values


# Colour ------------------------------------------------------------------------------------------


def test_rgb_is_kept_by_pixel_and_by_plane() -> None:
    values = colours()
    assert np.array_equal(drawn(dataset(values)), values)
    ds = dataset(values, PlanarConfiguration=1)
    ds.PixelData = values.transpose(2, 0, 1).tobytes()
    assert np.array_equal(drawn(ds), values)


def test_ybr_full_becomes_rgb() -> None:
    values = colours()
    ybr = np.asarray(Image.fromarray(values).convert("YCbCr"))
    there = drawn(dataset(ybr, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(there.astype(int) - values).max() <= 3


def test_a_palette_is_looked_up() -> None:
    values = np.array([[0, 1], [2, 9]], np.uint8)
    ds = dataset(values, PhotometricInterpretation="PALETTE COLOR")
    for name, entries in (("Red", [0, 65535, 0]), ("Green", [0, 0, 32768]), ("Blue", [0, 0, 255])):
        ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [3, 0, 16])
        ds.add_new(f"{name}PaletteColorLookupTableData", "OW", np.array(entries, "<u2").tobytes())
    there = drawn(ds)
    assert there[0, 1].tolist() == [255, 0, 0]
    assert there[1, 0][1] == 128
    assert there[1, 1].tolist() == there[1, 0].tolist(), "what is beyond the table has its last entry"


def test_a_segmented_palette_is_expanded() -> None:
    values = np.arange(8, dtype=np.uint8).reshape(2, 4)
    ds = dataset(values, PhotometricInterpretation="PALETTE COLOR")
    segments = [0, 1, 0, 1, 7, 7 << 8]  # one entry of 0, then a line of seven more up to 7
    for name in ("Red", "Green", "Blue"):
        ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [8, 0, 16])
        ds.add_new(f"Segmented{name}PaletteColorLookupTableData", "OW", np.array(segments, "<u2").tobytes())
    assert drawn(ds)[:, :, 0].reshape(-1).tolist() == list(range(8))


@pytest.mark.parametrize("words", [[2, 5, 0, 0], [1, 3, 5], [0, 9, 1], [7, 7], []])
def test_a_segmented_palette_that_makes_no_sense_is_refused(words: list[int]) -> None:
    ds = dataset(np.zeros((2, 2), np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [8, 0, 16])
        ds.add_new(f"Segmented{name}PaletteColorLookupTableData", "OW", np.array(words, "<u2").tobytes())
    with pytest.raises(TranscodeError, match="palette"):
        drawn(ds)


# Geometry ----------------------------------------------------------------------------------------


def levels(rows: int = 20, columns: int = 40) -> np.ndarray:
    return np.linspace(0, 255, rows * columns).astype(np.uint8).reshape(rows, columns)


def test_a_whole_fraction_of_the_size_is_the_mean_of_its_pixels() -> None:
    values = np.random.default_rng(SEED).integers(0, 256, (30, 40), np.uint8)
    there = drawn(dataset(values), PictureOptions(media_type=PNG, viewport=Viewport(20, 15)))
    means = values.reshape(15, 2, 20, 2).mean(axis=(1, 3))
    assert np.abs(there - means).max() <= 0.5
    assert drawn(dataset(values), PictureOptions(media_type=PNG, viewport=Viewport(13, 10))).shape == (10, 13)


@pytest.mark.parametrize(
    ("viewport", "size"),
    [
        (Viewport(100, 100), (100, 50)),
        (Viewport(10, 100), (10, 5)),
        (Viewport(30, 30, 0, 0, 20, 20), (30, 30)),
        (Viewport(30, 30, 0.5, 0.0, 0.25, 0.5, is_relative=True), (30, 30)),
        (Viewport(40, 40, 10, None, None, None), (40, 27)),
    ],
)
def test_a_viewport_is_fitted_with_the_proportions_kept(viewport: Viewport, size: tuple[int, int]) -> None:
    there = drawn(dataset(levels()), PictureOptions(media_type=PNG, viewport=viewport))
    assert there.shape == size[::-1]


def test_a_region_may_be_flipped() -> None:
    ds = dataset(levels())
    straight = drawn(ds, PictureOptions(media_type=PNG, viewport=Viewport(40, 20)))
    flipped = drawn(ds, PictureOptions(media_type=PNG, viewport=Viewport(40, 20, 0, 0, -40, -20)))
    assert np.array_equal(flipped, straight[::-1, ::-1])


def test_a_region_is_what_lies_there() -> None:
    ds = dataset(levels())
    whole = drawn(ds)
    part = drawn(ds, PictureOptions(media_type=PNG, viewport=Viewport(10, 5, 3, 4, 10, 5)))
    assert np.array_equal(part, whole[4:9, 3:13])


def test_pixels_that_are_not_square_are_stretched() -> None:
    ds = dataset(levels(20, 20), PixelSpacing=[2, 1])
    assert drawn(ds, PictureOptions(media_type=PNG, viewport=Viewport(40, 40))).shape == (40, 20)


def test_a_region_outside_is_refused() -> None:
    with pytest.raises(TranscodeError, match="outside"):
        drawn(dataset(levels()), PictureOptions(media_type=PNG, viewport=Viewport(10, 10, 100, 100, 5, 5)))


# Media -------------------------------------------------------------------------------------------


def test_jpeg_of_better_quality_is_larger_and_nearer() -> None:
    values = np.asarray(Image.fromarray(colours(16, 16)).resize((64, 64)))
    ds = dataset(values)
    low, high = (raw(ds, PictureOptions(media_type=JPEG, quality=quality)) for quality in (20, 98))
    assert len(high) > len(low)
    near = np.asarray(Image.open(io.BytesIO(high))).astype(int)
    assert np.abs(near - values).mean() < 3


def test_grey_jpeg_has_one_component() -> None:
    there = Image.open(io.BytesIO(raw(dataset(levels()), PictureOptions(media_type=JPEG))))
    assert there.mode == "L"


def frames(count: int = 3) -> pydicom.Dataset:
    values = np.stack([np.full((10, 11), 40 * number, np.uint8) for number in range(count)])
    values[:, 0, 0] = 255
    return dataset(values, NumberOfFrames=count, FrameTime=250)


def test_a_gif_of_all_frames_moves_at_their_pace() -> None:
    there = Image.open(io.BytesIO(raw(frames(), PictureOptions(media_type=GIF, frame=None))))
    assert there.n_frames == 3
    assert there.info["duration"] == 250


def test_an_mp4_has_all_frames() -> None:
    av = pytest.importorskip("av")
    data = raw(frames(), PictureOptions(media_type=MP4, frame=None))
    with av.open(io.BytesIO(data)) as container:
        pictures = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert [picture.shape for picture in pictures] == [(10, 12)] * 3
    assert [int(picture[5, 5]) // 10 for picture in pictures] == sorted(int(p[5, 5]) // 10 for p in pictures)


H264 = transfer_syntax.of("1.2.840.10008.1.2.4.102")


def video_of(stream: bytes, options: PictureOptions) -> np.ndarray:
    """The picture of an instance whose Pixel Data is that stream, in two fragments."""
    ds = dataset(np.zeros((10, 11, 3), np.uint8), SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.1.1", Modality="ES")
    half = len(stream) // 4 * 2
    items = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in (b"", stream[:half], stream[half:])
    )
    del ds.PixelData
    data = encoded(ds) + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
    data += items + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    drawing = picture.draw(Whole(data), H264, options, decoded_bytes_max=BYTES_MAX)
    return np.asarray(Image.open(io.BytesIO(drawing)))


STILL = PictureOptions(media_type=PNG, frame=None)
THUMBNAIL = PictureOptions(media_type=PNG, frame=None, viewport=Viewport(64, 64), is_thumbnail=True)


def test_a_video_has_a_picture_of_its_middle() -> None:
    pytest.importorskip("av")
    shades = (Image.new("L", (64, 48), 10 * number) for number in range(20))
    stream = video.mp4(shades, 0.5)
    assert video_of(stream, STILL).shape == (48, 64, 3)
    assert video_of(stream, THUMBNAIL).shape == (48, 64, 3)
    with pytest.raises(TranscodeError, match="without separate frames"):
        video_of(stream, PictureOptions(media_type=PNG, frame=1))


def test_a_video_that_is_another_kind_of_file_opens_no_other(tmp_path: Path) -> None:
    pytest.importorskip("av")
    other = tmp_path / "other.mp4"
    other.write_bytes(video.mp4([Image.new("L", (64, 48), 90)], 0.5))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\nfile://{other}\n#EXT-X-ENDLIST\n"
    for stream in (playlist, f"ffconcat version 1.0\nfile {other}\n", "no video at all"):
        with pytest.raises(TranscodeError, match="the video"):
            video_of(stream.encode(), STILL)


def test_what_cannot_be_drawn_has_an_icon_for_a_thumbnail_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert video_of(b"any", THUMBNAIL).shape == (64, 64)
    with pytest.raises(TranscodeError, match=r"filmroom\[video\]"):
        video_of(b"any", STILL)
    torn = dataset(np.zeros((8, 8), np.uint8), Rows=9000)
    assert drawn(torn, THUMBNAIL).shape == (64, 64)
    with pytest.raises(TranscodeError, match="no frame 1"):
        drawn(torn, replace(THUMBNAIL, frame=1))


def test_of_all_frames_a_still_picture_shows_the_middle_one() -> None:
    assert drawn(frames(), PictureOptions(media_type=PNG, frame=None))[5, 5] == 40


@pytest.mark.parametrize("number", [0, 4])
def test_a_frame_that_is_not_there_is_refused(number: int) -> None:
    with pytest.raises(TranscodeError, match="no frame"):
        drawn(frames(), PictureOptions(media_type=PNG, frame=number))


def test_a_frame_of_encapsulated_pixel_data_is_found() -> None:
    ds = frames()
    native = [drawn(ds, PictureOptions(media_type=PNG, frame=number)) for number in (1, 2, 3)]
    pieces = compressed(
        Whole(encoded(ds)), EXPLICIT_VR_LITTLE_ENDIAN, transfer_syntax.of(RLE), decoded_bytes_max=BYTES_MAX
    )
    data = b"".join([bytes(piece) for piece in pieces])
    for number in (1, 2, 3):
        options = PictureOptions(media_type=PNG, frame=number)
        there = picture.draw(Whole(data), transfer_syntax.of(RLE), options, decoded_bytes_max=BYTES_MAX)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(there))), native[number - 1])


# Annotation, profiles, icons ---------------------------------------------------------------------


def test_annotation_is_written_into_the_corners() -> None:
    ds = dataset(np.zeros((200, 400), np.uint8))
    there = drawn(ds, PictureOptions(media_type=PNG, annotation=("patient", "technique")))
    assert there[:100, :200].any()
    assert there[:100, 200:].any()
    assert not there[150:].any()
    only = drawn(ds, PictureOptions(media_type=PNG, annotation=("technique",)))
    assert not only[:, :200].any()


@pytest.mark.parametrize("name", ["yes", "srgb", "adobergb", "rommrgb"])
def test_a_profile_is_embedded(name: str) -> None:
    for media_type in (PNG, JPEG):
        there = Image.open(io.BytesIO(raw(dataset(colours()), PictureOptions(media_type=media_type, icc_profile=name))))
        profile = ImageCms.ImageCmsProfile(io.BytesIO(there.info["icc_profile"]))
        assert profile.profile.xcolor_space.strip() == "RGB"


def test_a_wider_space_has_less_saturated_numbers_for_the_same_colour() -> None:
    values = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    there = drawn(dataset(values), PictureOptions(media_type=PNG, icc_profile="adobergb"))
    assert 200 < there[0, 0, 0] < 235
    assert there[0, 0, 1] < 20


def test_the_profile_of_the_data_set_is_kept_or_applied() -> None:
    own = icc.matrix_profile(*icc._ADOBE)
    ds = dataset(np.full((4, 4, 3), (219, 0, 0), np.uint8), ICCProfile=own)
    kept = Image.open(io.BytesIO(raw(ds, PictureOptions(media_type=PNG, icc_profile="yes"))))
    assert kept.info["icc_profile"] == own
    assert drawn(ds, PictureOptions(media_type=PNG, icc_profile="srgb"))[0, 0, 0] > 250


@pytest.mark.parametrize(
    ("sop_class_uid", "said", "is_icon"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", None, False),
        ("1.2.840.10008.5.1.4.1.1.2", "YES", True),
        ("1.2.840.10008.5.1.4.1.1.7", None, True),
        ("1.2.840.10008.5.1.4.1.1.7.4", None, True),
        ("1.2.840.10008.5.1.4.1.1.7", "NO", False),
        ("1.2.840.10008.5.1.4.1.1.6.1", None, True),
        ("1.2.840.10008.5.1.4.1.1.77.1.6", None, False),
    ],
)
def test_what_may_have_a_name_in_its_pixels_gets_an_icon(sop_class_uid: str, said: str | None, is_icon: bool) -> None:
    values = np.zeros((64, 64), np.uint8)
    values[0] = 255
    ds = dataset(values, SOPClassUID=sop_class_uid)
    if said:
        ds.BurnedInAnnotation = said
    options = PictureOptions(media_type=PNG, viewport=Viewport(64, 64), is_thumbnail=True)
    assert (drawn(ds, options)[0, 0] != 255) == is_icon


def test_an_instance_without_pixels_has_an_icon_for_a_thumbnail_only() -> None:
    ds = dataset(np.zeros((2, 2), np.uint8))
    del ds.PixelData, ds.Rows, ds.Columns
    assert drawn(ds, PictureOptions(media_type=PNG, is_thumbnail=True)).shape == (icons.SIDE, icons.SIDE)
    with pytest.raises(TranscodeError, match="no Pixel Data"):
        drawn(ds)


# Reports -----------------------------------------------------------------------------------------


def code(meaning: str) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", meaning
    return item


def content(kind: str, name: str, **more: object) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", kind
    item.ConceptNameCodeSequence = [code(name)]
    for keyword, value in more.items():
        setattr(item, keyword, value)
    return item


def report_of(*items: pydicom.Dataset) -> pydicom.Dataset:
    ds = dataset(np.zeros((2, 2), np.uint8), SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", Modality="SR")
    del ds.PixelData
    ds.ValueType = "CONTAINER"
    ds.ConceptNameCodeSequence = [code("Imaging <report>")]
    ds.ContentSequence = list(items)
    return ds


def laid_out(ds: pydicom.Dataset, media_type: str) -> str:
    return report.laid_out(Whole(encoded(ds)), EXPLICIT_VR_LITTLE_ENDIAN, media_type).decode()


def test_a_report_is_laid_out_as_text_and_as_a_page() -> None:
    measured = pydicom.Dataset()
    measured.NumericValue = "3.5"
    unit = code("millimetre")
    unit.CodeValue = "mm"
    measured.MeasurementUnitsCodeSequence = [unit]
    ds = report_of(
        content("CONTAINER", "Findings", ContentSequence=[
            content("TEXT", "Lung", TextValue="clear\r\nno <b>nodule</b>"),
            content("NUM", "Diameter", MeasuredValueSequence=[measured]),
            content("CODE", "Side", ConceptCodeSequence=[code("left")]),
            content("PNAME", "Observer", PersonName="Doe^John"),
        ]),
    )  # fmt: skip
    text = laid_out(ds, report.PLAIN)
    for line in (
        "Imaging <report>",
        "Patient: Doe, Jane",
        "Findings",
        "  Lung: clear",
        "Diameter: 3.5 mm",
        "Side: left",
    ):
        assert line in text
    page = laid_out(ds, report.HTML)
    assert "no &lt;b&gt;nodule&lt;/b&gt;" in page
    assert "<b>" not in page
    assert "<h2>Findings</h2>" in page
    assert "default-src 'none'" in page


def test_a_report_nested_too_deeply_is_refused() -> None:
    item = content("CONTAINER", "deep")
    for _ in range(report.DEPTH_MAX + 2):
        item = content("CONTAINER", "deep", ContentSequence=[item])
    with pytest.raises(TranscodeError, match="deep"):
        laid_out(report_of(item), report.PLAIN)


def test_an_image_is_no_report() -> None:
    with pytest.raises(TranscodeError, match="no structured report"):
        laid_out(dataset(np.zeros((2, 2), np.uint8)), report.HTML)


# Hostile bytes, processes ------------------------------------------------------------------------


def test_mutated_instances_are_drawn_or_refused() -> None:
    chance = random.Random(SEED)
    for ds in (frames(), dataset(colours()), dataset(levels(), WindowCenter=3, WindowWidth=9)):
        data = encoded(ds)
        for _ in range(150):
            mutated = bytearray(data)
            for _ in range(chance.randint(1, 5)):
                mutated[chance.randrange(len(data))] = chance.randrange(256)
            options = PictureOptions(media_type=chance.choice([JPEG, PNG]), frame=chance.choice([1, None]))
            try:
                picture.draw(Whole(mutated), EXPLICIT_VR_LITTLE_ENDIAN, options, decoded_bytes_max=1 << 20)
            except TranscodeError:
                pass


def test_a_frame_beyond_the_limit_is_refused_before_it_is_read() -> None:
    ds = dataset(np.zeros((2, 2), np.uint8))
    ds.Rows, ds.Columns = 60000, 60000
    with pytest.raises(TranscodeError, match="limit"):
        drawn(ds)


def test_a_renderer_draws_in_a_process() -> None:
    renderer = Renderer(processes=1)
    ds = dataset(levels())
    source = Whole(encoded(ds))

    async def work() -> None:
        there = await renderer.picture(source, EXPLICIT_VR_LITTLE_ENDIAN, PictureOptions(media_type=PNG, quality=3))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(there))), drawn(ds))
        page = await renderer.report(Whole(encoded(report_of())), EXPLICIT_VR_LITTLE_ENDIAN, report.HTML)
        assert b"Imaging &lt;report&gt;" in page
        with pytest.raises(TranscodeError, match="no Pixel Data|cannot be read"):
            await renderer.picture(Whole(struct.pack("<HH2sH", 8, 0x60, b"CS", 2) + b"CT"),
                                   EXPLICIT_VR_LITTLE_ENDIAN, PictureOptions())  # fmt: skip

    try:
        asyncio.run(work())
    finally:
        renderer.close()
