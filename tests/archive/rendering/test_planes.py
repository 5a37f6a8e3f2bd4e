"""Overlay planes and shutters of an image itself: every place that bits may have, and DCMTK's pictures of the same."""

from __future__ import annotations

import io
import random
import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from engine.archive.rendering import picture
from engine.archive.rendering.options import PNG, PictureOptions, Viewport
from engine.dicom import part10, transfer_syntax
from engine.dicom.sources import Whole
from engine.errors import TranscodeError
from tests.archive.rendering.made import BYTES_MAX, dataset, drawn, encoded
from tests.corpus import corpus_root, needs_corpus

SEED = 20261130
ROWS, COLUMNS = 20, 30
MASK = np.random.default_rng(SEED).random((ROWS, COLUMNS)) < 0.3
PNG_OPTIONS = PictureOptions(media_type=PNG)


def plane(ds: Dataset, mask: np.ndarray, group: int = 0x6000, **more: object) -> Dataset:
    """Adds an overlay plane: (rows, columns) or (frames, rows, columns)."""
    ds.add_new((group, 0x0010), "US", mask.shape[-2])
    ds.add_new((group, 0x0011), "US", mask.shape[-1])
    if mask.ndim == 3:
        ds.add_new((group, 0x0015), "IS", str(mask.shape[0]))
    ds.add_new((group, 0x0040), "CS", "G")
    ds.add_new((group, 0x0050), "SS", more.get("origin", [1, 1]))
    if "first_frame" in more:
        ds.add_new((group, 0x0051), "US", more["first_frame"])
    ds.add_new((group, 0x0100), "US", 1)
    ds.add_new((group, 0x0102), "US", 0)
    packed = np.packbits(mask.reshape(-1), bitorder="little").tobytes()
    ds.add_new((group, 0x3000), "OW", packed + b"\0" * (len(packed) % 2))
    return ds


def black(**more: object) -> Dataset:
    return dataset(np.zeros((ROWS, COLUMNS), np.uint8), **more)


def test_planes_of_an_image_are_drawn_in_white_and_in_no_thumbnail() -> None:
    ds = plane(plane(black(), MASK), ~MASK, 0x601E)
    del ds[0x601E, 0x3000]
    assert np.array_equal(drawn(ds), np.where(MASK, 255, 0))
    thumbnail = PictureOptions(media_type=PNG, viewport=Viewport(COLUMNS, ROWS), is_thumbnail=True)
    assert not drawn(ds, thumbnail).any(), "a plane may name the patient"
    colour = plane(dataset(np.full((ROWS, COLUMNS, 3), 7, np.uint8)), MASK)
    assert np.array_equal(drawn(colour), np.where(MASK[:, :, None], 255, np.full(3, 7)))


def test_of_a_region_the_outline_is_drawn() -> None:
    """A plane may be the whole area of the image, which must not become white."""
    region, outline = np.zeros((2, ROWS, COLUMNS), np.bool_)
    region[3:9, 5:12] = True
    outline[3:9, 5:12] = True
    outline[4:8, 6:11] = False
    ds = plane(black(), region)
    ds[0x6000, 0x0040].value = "R"
    assert np.array_equal(drawn(ds), np.where(outline, 255, 0))
    whole = plane(black(), np.ones((ROWS, COLUMNS), np.bool_))
    whole[0x6000, 0x0040].value = "R"
    assert not drawn(whole)[1:-1, 1:-1].any()


@pytest.mark.parametrize("origin", [(3, 4), (-2, -5), (15, 25), (40, 1), (-30, -30)])
def test_a_plane_lies_where_its_origin_is(origin: tuple[int, int]) -> None:
    whole = np.zeros((200, 200), np.uint8)
    at = 100 + origin[0] - 1, 100 + origin[1] - 1
    whole[at[0] : at[0] + ROWS, at[1] : at[1] + COLUMNS] = MASK * 255
    levels = drawn(plane(black(), MASK, origin=list(origin)))
    assert np.array_equal(levels, whole[100 : 100 + ROWS, 100 : 100 + COLUMNS])


def test_each_frame_has_its_plane_or_all_have_the_same() -> None:
    odd = np.random.default_rng(SEED).random((2, 5, 5)) < 0.5  # the second plane begins within a byte
    ds = dataset(np.zeros((4, 5, 5), np.uint8), NumberOfFrames=4)
    plane(ds, odd, first_frame=2)
    expected = [np.zeros((5, 5)), odd[0] * 255, odd[1] * 255, np.zeros((5, 5))]
    for number, levels in enumerate(expected, 1):
        assert np.array_equal(drawn(ds, PictureOptions(media_type=PNG, frame=number)), levels), number
    same = plane(dataset(np.zeros((2, 5, 5), np.uint8), NumberOfFrames=2), odd[0])
    for number in (1, 2):
        assert np.array_equal(drawn(same, PictureOptions(media_type=PNG, frame=number)), odd[0] * 255)


def test_a_plane_may_lie_in_unused_bits_of_the_samples() -> None:
    ds = dataset((MASK.astype(np.uint16) << 13) | 100, BitsStored=12, HighBit=11, WindowCenter="100", WindowWidth="200")
    ds.add_new(0x60020010, "US", ROWS)
    ds.add_new(0x60020011, "US", COLUMNS)
    ds.add_new(0x60020100, "US", 16)
    ds.add_new(0x60020102, "US", 13)
    levels = drawn(ds)
    assert (levels[MASK] == 255).all()
    assert (levels[~MASK] == 128).all()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2"])
def test_planes_are_read_in_every_encoding(syntax: str) -> None:
    ds = plane(black(), MASK, 0x6004)
    big = syntax.endswith(".2.2")
    if big:
        words = np.frombuffer(ds[0x6004, 0x3000].value, "<u2")
        ds[0x6004, 0x3000].value = words.astype(">u2").tobytes()
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, implicit_vr=not big, little_endian=not big, force_encoding=True)
    data = out.getvalue()[part10.read_file_meta(out.getvalue()).data_set_offset :]
    drawing = picture.draw(Whole(data), transfer_syntax.of(syntax), PNG_OPTIONS, decoded_bytes_max=BYTES_MAX)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(drawing))), np.where(MASK, 255, 0))


def test_the_shutters_of_an_image_are_applied_unless_they_make_no_sense() -> None:
    white = dataset(np.full((ROWS, COLUMNS), 255, np.uint8))
    white.ShutterShape = "RECTANGULAR"
    white.ShutterLeftVerticalEdge, white.ShutterRightVerticalEdge = "3", "20"
    white.ShutterUpperHorizontalEdge, white.ShutterLowerHorizontalEdge = "5", "10"
    white.ShutterPresentationValue = 0x2000
    levels = np.full((ROWS, COLUMNS), 0x20)
    levels[4:10, 2:20] = 255
    assert np.array_equal(drawn(white), levels)
    del white.ShutterLeftVerticalEdge
    assert (drawn(white) == 255).all()
    white.ShutterShape, white.ShutterOverlayGroup = "BITMAP", 0x6000
    assert np.array_equal(drawn(plane(white, MASK)), np.where(MASK, 0x20, 255))


def test_wrong_bytes_of_planes_are_a_picture_or_an_error() -> None:
    data = encoded(plane(plane(black(), MASK), MASK, 0x6002, origin=[3, 3]))
    rng = random.Random(SEED)
    start, outcomes = data.index(b"\x00\x60\x10\x00"), set()
    for _ in range(300):
        wrong = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            wrong[rng.randrange(start, len(wrong))] = rng.randrange(256)
        try:
            picture.draw(
                Whole(bytes(wrong)), transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN, PNG_OPTIONS, decoded_bytes_max=BYTES_MAX
            )
            outcomes.add("drawn")
        except TranscodeError:
            outcomes.add("refused")
    assert outcomes == {"drawn", "refused"}, f"seed {SEED}"


@needs_corpus("sc", "series")
@pytest.mark.skipif(not which("dcm2pnm"), reason="no DCMTK")
@pytest.mark.parametrize("name", ["sc/ovly_p01.dcm", "series/ct-philips-head/S21610-S4010-I10.dcm"])
def test_dcmtk_draws_the_same_planes(tmp_path: Path, name: str) -> None:
    root = corpus_root()
    assert root is not None
    raw = (root / name).read_bytes()
    meta = part10.read_file_meta(raw)
    syntax = transfer_syntax.of(meta.transfer_syntax_uid)
    drawing = picture.draw(Whole(raw[meta.data_set_offset :]), syntax, PNG_OPTIONS, decoded_bytes_max=BYTES_MAX)
    ours = np.asarray(Image.open(io.BytesIO(drawing))) == 255
    levels = {}
    for overlays in (("+O", "0"), ("-O",)):
        out = tmp_path / "out.pgm"
        subprocess.run(["dcm2pnm", *overlays, "+op", "+Wm", root / name, out], check=True, capture_output=True)
        levels[overlays[0]] = np.asarray(Image.open(out)).astype(int)
    planes = levels["+O"] != levels["-O"]
    assert planes.any()
    assert ours[planes].all()
