"""Presentation states: each part against the standard, the whole against DCMTK, and states that are wrong."""

from __future__ import annotations

import json
import random
import subprocess
from dataclasses import replace
from pathlib import Path
from shutil import which

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from engine.archive.rendering.options import PNG, PictureOptions, Viewport
from engine.archive.rendering.presentation_state import COLOUR, GRAYSCALE, PresentationState
from engine.dicom.sources import Whole
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import DataSetError, TranscodeError
from tests import samples
from tests.archive.rendering.made import dataset, drawn, encoded
from tests.corpus import corpus_files, corpus_root, needs_corpus

SEED = 20261129
VALUES = np.random.default_rng(SEED).integers(0, 4096, (20, 30), np.uint16)


def item(**more: object) -> Dataset:
    ds = Dataset()
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def state_of(image: Dataset, **more: object) -> Dataset:
    """A state for an image, which shows all of it and the whole range of its values."""
    ds = samples.instance(1, 9, 1, sop_class_uid=GRAYSCALE, modality="PR")
    del ds.PixelData
    reference = item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
    ds.ReferencedSeriesSequence = [item(SeriesInstanceUID=image.SeriesInstanceUID, ReferencedImageSequence=[reference])]
    ds.PresentationLUTShape = "IDENTITY"
    ds.DisplayedAreaSelectionSequence = [area(image)]
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def area(image: Dataset, first: tuple[int, int] = (1, 1), last: tuple[int, int] | None = None) -> Dataset:
    return item(
        DisplayedAreaTopLeftHandCorner=list(first),
        DisplayedAreaBottomRightHandCorner=list(last or (image.Columns, image.Rows)),
        PresentationSizeMode="SCALE TO FIT",
        PresentationPixelAspectRatio=[1, 1],
    )


def read(state: Dataset) -> PresentationState:
    return PresentationState.read(Whole(encoded(state)), EXPLICIT_VR_LITTLE_ENDIAN)


def shown(image: Dataset, state: Dataset, viewport: Viewport | None = None) -> np.ndarray:
    presentation = read(state).of(image.SOPInstanceUID)
    options = PictureOptions(media_type=PNG, presentation=presentation, viewport=viewport)
    assert PictureOptions.of(json.loads(json.dumps(options.as_dict()))) == options, "as it goes to the process"
    return drawn(image, options)


def window(center: float, width: float, **more: object) -> list[Dataset]:
    return [item(WindowCenter=str(center), WindowWidth=str(width), **more)]


def test_grey_levels_follow_from_the_state_alone() -> None:
    image = dataset(VALUES, BitsStored=12, HighBit=11, RescaleSlope="7", WindowCenter="3", WindowWidth="3")
    image.PhotometricInterpretation = "MONOCHROME1"
    whole = VALUES / 4095 * 255
    for shape, expected in (("IDENTITY", whole), ("INVERSE", 255 - whole)):
        assert np.abs(shown(image, state_of(image, PresentationLUTShape=shape)) - expected).max() <= 1, shape
    exact = state_of(image, SoftcopyVOILUTSequence=window(1000, 4000, VOILUTFunction="LINEAR_EXACT"))
    exact.RescaleSlope, exact.RescaleIntercept, exact.RescaleType = "2", "-500", "US"
    levels = np.clip((VALUES * 2.0 - 500 - 1000) / 4000 + 0.5, 0, 1) * 255
    assert np.abs(shown(image, exact) - levels).max() <= 1


def test_a_window_for_another_image_is_not_this_ones() -> None:
    image = dataset(VALUES, BitsStored=12, HighBit=11)
    other = item(ReferencedSOPClassUID=samples.CT, ReferencedSOPInstanceUID="1.2.3")
    own = item(ReferencedSOPClassUID=samples.CT, ReferencedSOPInstanceUID=image.SOPInstanceUID)
    windows = [*window(1, 2, ReferencedImageSequence=[other]), *window(2048, 4096, ReferencedImageSequence=[own])]
    levels = shown(image, state_of(image, SoftcopyVOILUTSequence=windows))
    assert np.array_equal(levels, shown(image, state_of(image, SoftcopyVOILUTSequence=window(2048, 4096))))


@pytest.mark.parametrize("flip", ["N", "Y"])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_an_area_is_turned_clockwise_and_then_flipped(rotation: int, flip: str) -> None:
    image = dataset(VALUES, BitsStored=12, HighBit=11)
    plain = shown(image, state_of(image))
    cut = plain[1:7, 2:10]
    for first, last in (((3, 2), (10, 7)), ((10, 7), (3, 2)), ((10, 2), (3, 7))):
        state = state_of(image, ImageRotation=rotation, ImageHorizontalFlip=flip)
        state.DisplayedAreaSelectionSequence = [area(image, first, last)]
        turned = np.rot90(cut, -rotation // 90)
        assert np.array_equal(shown(image, state), np.fliplr(turned) if flip == "Y" else turned)
    beyond = state_of(image)
    beyond.DisplayedAreaSelectionSequence = [area(image, (-5, -5), (1000, 1000))]
    assert np.array_equal(shown(image, beyond), plain)


def test_a_viewport_is_fitted_to_what_is_shown() -> None:
    image = dataset(VALUES, BitsStored=12, HighBit=11)
    assert shown(image, state_of(image), Viewport(60, 60)).shape == (40, 60)
    assert shown(image, state_of(image, ImageRotation=90), Viewport(60, 60)).shape == (60, 40)
    tall = state_of(image)
    tall.DisplayedAreaSelectionSequence[0].PresentationPixelAspectRatio = [2, 1]
    assert shown(image, tall, Viewport(60, 400)).shape == (80, 60)


def test_shutters_hide_what_is_outside_of_all_of_them() -> None:
    image = dataset(np.full((20, 30), 4095, np.uint16), BitsStored=12, HighBit=11)
    state = state_of(image, ShutterShape=["RECTANGULAR", "CIRCULAR"], ShutterPresentationValue=0x4000)
    state.ShutterLeftVerticalEdge, state.ShutterRightVerticalEdge = "5", "20"
    state.ShutterUpperHorizontalEdge, state.ShutterLowerHorizontalEdge = "3", "12"
    state.CenterOfCircularShutter, state.RadiusOfCircularShutter = ["8", "20"], "6"
    levels = shown(image, state)
    y, x = np.mgrid[1:21, 1:31]
    is_open = (x >= 5) & (x <= 20) & (y >= 3) & (y <= 12)
    distance = np.hypot(y - 8, x - 20)
    assert set(np.unique(levels)) == {0x40, 255}
    assert (levels[is_open & (distance < 5)] == 255).all()
    assert (levels[~is_open | (distance > 7)] == 0x40).all()
    polygon = state_of(image, ShutterShape="POLYGONAL", VerticesOfThePolygonalShutter=["3", "3", "3", "9", "9", "9"])
    levels = shown(image, polygon)
    assert levels[3, 6] == 255 and levels[7, 3] == levels[15, 15] == 0


def table(first: int, entries: np.ndarray, bits: int) -> list[Dataset]:
    ds = item(LUTData=entries.astype("<u2").tobytes())
    ds.add_new("LUTDescriptor", "US", [len(entries) % (1 << 16), first, bits])
    ds["LUTData"].VR = "OW"
    return [ds]


RISING = np.sort(np.random.default_rng(SEED).integers(0, 1 << 10, 1 << 12))
FALLING = 255 - np.arange(256) ** 2 // 256


def test_tables_take_the_place_of_rescale_window_and_shape() -> None:
    image = dataset(VALUES, BitsStored=12, HighBit=11)
    state = state_of(image, ModalityLUTSequence=table(0, RISING, 10))
    assert np.abs(shown(image, state) - RISING[VALUES] / 1023 * 255).max() <= 1
    state.SoftcopyVOILUTSequence = [item(VOILUTSequence=table(100, FALLING, 8))]
    voi = FALLING[np.clip(RISING[VALUES] - 100, 0, 255)]
    assert np.abs(shown(image, state) - voi.astype(float)).max() <= 1
    del state.PresentationLUTShape
    state.PresentationLUTSequence = table(0, FALLING, 8)
    assert np.abs(shown(image, state) - FALLING[voi].astype(float)).max() <= 1


def test_the_first_value_of_a_table_may_be_below_zero() -> None:
    image = dataset(VALUES, BitsStored=12, HighBit=11)
    state = state_of(image, RescaleSlope="1", RescaleIntercept="-1000", RescaleType="HU")
    state.SoftcopyVOILUTSequence = [item(VOILUTSequence=table((1 << 16) - 1000, RISING, 10))]
    assert np.abs(shown(image, state) - RISING[VALUES] / 1023 * 255).max() <= 1


def plane(
    ds: Dataset, group: int, mask: np.ndarray, layer: str | None = None, origin: tuple[int, int] = (1, 1)
) -> None:
    """Adds an overlay plane to an image or a state."""
    for number, vr, value in (
        (0x10, "US", mask.shape[0]),
        (0x11, "US", mask.shape[1]),
        (0x40, "CS", "G"),
        (0x50, "SS", list(origin)),
        (0x100, "US", 1),
        (0x102, "US", 0),
        (0x3000, "OW", np.packbits(mask.reshape(-1), bitorder="little").tobytes()),
    ):
        ds.add_new((group, number), vr, value)
    if layer is not None:
        ds.add_new((group, 0x1001), "CS", layer)


def masks(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(SEED + number).random((20, 32)) < 0.3 for number in range(count)]


def test_planes_are_shown_that_a_layer_has_in_its_grey_level() -> None:
    image = dataset(np.zeros((20, 32), np.uint16), BitsStored=12, HighBit=11)
    of_image, hidden, of_state, above = masks(4)
    plane(image, 0x6000, of_image)
    plane(image, 0x6002, hidden)
    state = state_of(image)
    state.add_new((0x6000, 0x1001), "CS", "UPPER")
    assert np.array_equal(shown(image, state) == 255, of_image), "the layer is not described"
    plane(state, 0x6004, above, "UPPER")
    plane(state, 0x6006, of_state, "LOWER")
    plane(state, 0x6008, hidden)
    state.GraphicLayerSequence = [
        item(GraphicLayer=name, GraphicLayerOrder=order, GraphicLayerRecommendedDisplayGrayscaleValue=level << 8)
        for name, order, level in (("UPPER", 2, 200), ("LOWER", 1, 100))
    ]
    levels = np.where(of_image | above, 200, np.where(of_state, 100, 0))
    del state[0x6000, 0x1001]
    assert np.array_equal(shown(image, state), np.where(above, 200, np.where(of_state, 100, 0)))
    plane(state, 0x6000, of_image, "UPPER")
    assert np.array_equal(shown(image, state), levels), "a plane of the state replaces that of the image"
    state.ImageRotation = 90
    assert np.array_equal(shown(image, state), np.rot90(levels, -1))


def test_a_bitmap_hides_what_its_plane_has() -> None:
    image = dataset(np.full((20, 32), 4095, np.uint16), BitsStored=12, HighBit=11)
    (mask,) = masks(1)
    state = state_of(image, ShutterShape="BITMAP", ShutterOverlayGroup=0x6002, ShutterPresentationValue=0x3000)
    plane(state, 0x6002, mask, "LAYER")
    assert np.array_equal(shown(image, state), np.where(mask, 0x30, 255))


def test_graphics_have_the_grey_level_of_their_layer() -> None:
    image = dataset(np.zeros((40, 60), np.uint16), BitsStored=12, HighBit=11)
    line = item(GraphicAnnotationUnits="PIXEL", GraphicType="POLYLINE", GraphicData=[10.0, 5.0, 30.0, 5.0])
    state = state_of(image, GraphicAnnotationSequence=[item(GraphicLayer="A", GraphicObjectSequence=[line])])
    state.GraphicLayerSequence = [
        item(GraphicLayer="A", GraphicLayerOrder=1, GraphicLayerRecommendedDisplayGrayscaleValue=0x9000)
    ]
    assert shown(image, state).max() == 0x90


@pytest.mark.parametrize("flip", ["N", "Y"])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_graphics_lie_where_their_points_of_the_image_have_come_to(rotation: int, flip: str) -> None:
    image = dataset(np.zeros((40, 60), np.uint16), BitsStored=12, HighBit=11)
    line = item(
        GraphicAnnotationUnits="PIXEL", GraphicDimensions=2, NumberOfGraphicPoints=2, GraphicType="POLYLINE",
        GraphicData=[10.0, 5.0, 30.0, 5.0], GraphicFilled="N",
    )  # fmt: skip
    state = state_of(image, ImageRotation=rotation, ImageHorizontalFlip=flip)
    state.GraphicAnnotationSequence = [item(GraphicLayer="A", GraphicObjectSequence=[line])]
    plain = np.zeros((40, 60))
    plain[5, 10:30] = 1
    turned = np.rot90(plain, -rotation // 90)
    expected = np.argwhere(np.fliplr(turned) if flip == "Y" else turned)
    found = np.argwhere(shown(image, state) == 255)
    assert np.abs(found.min(0) - expected.min(0)).max() <= 1
    assert np.abs(found.max(0) - expected.max(0)).max() <= 1


def test_texts_ellipses_and_shares_of_the_area_are_drawn() -> None:
    image = dataset(np.zeros((200, 300), np.uint16), BitsStored=12, HighBit=11)
    text = item(
        AnchorPointAnnotationUnits="DISPLAY", AnchorPoint=[0.5, 0.5], AnchorPointVisibility="N",
        UnformattedTextValue="12 mm\r\nliver",
    )  # fmt: skip
    ellipse = item(
        GraphicAnnotationUnits="DISPLAY", GraphicDimensions=2, NumberOfGraphicPoints=4, GraphicType="ELLIPSE",
        GraphicData=[0.1, 0.2, 0.3, 0.2, 0.2, 0.1, 0.2, 0.3], GraphicFilled="Y",
    )  # fmt: skip
    state = state_of(image)
    state.GraphicAnnotationSequence = [
        item(GraphicLayer="A", TextObjectSequence=[text], GraphicObjectSequence=[ellipse])
    ]
    levels = shown(image, state)
    assert levels[40, 60] == 255 and levels[40, 35] == 255 and levels[40, 95] == 0
    lit = np.argwhere(levels[:, 150:] > 60)
    assert lit.min(0)[0] >= 100 and len(lit) > 20


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"ModalityLUTSequence": [item(LUTExplanation="x")]}, "ModalityLUTSequence"),
        ({"PresentationLUTSequence": [item(LUTExplanation="x")]}, "PresentationLUTSequence"),
        ({"SoftcopyVOILUTSequence": [item(VOILUTSequence=[item(LUTExplanation="x")])]}, "VOILUTSequence"),
        ({"MaskSubtractionSequence": [item(MaskOperation="AVG_SUB")]}, "mask subtraction"),
        ({"ShutterShape": "BITMAP"}, "bitmap shutter names the overlay group 0000"),
        ({"ShutterShape": "STAR"}, "shape STAR"),
        ({"ShutterShape": "CIRCULAR"}, "circular shutter has 0"),
        ({"ImageRotation": 45}, "45"),
        ({"SoftcopyVOILUTSequence": window(1, 0)}, "window"),
        ({"DisplayedAreaSelectionSequence": [item(
            DisplayedAreaTopLeftHandCorner=[100, 100], DisplayedAreaBottomRightHandCorner=[200, 200],
        )]}, "outside"),
    ],
)  # fmt: skip
def test_what_is_not_applied_is_named(more: dict[str, object], word: str) -> None:
    image = dataset(VALUES, BitsStored=12, HighBit=11)
    with pytest.raises(TranscodeError, match=word):
        shown(image, state_of(image, **more))


def test_a_state_is_for_images_of_its_kind() -> None:
    image = dataset(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(TranscodeError, match="for images of grey levels"):
        shown(image, state_of(image))
    grey = dataset(np.zeros((8, 8), np.uint8))
    with pytest.raises(TranscodeError, match="for images of colour"):
        shown(grey, state_of(grey, SOPClassUID=COLOUR))


RED = [35580, 53663, 50858]
"""CIELab 54.29, 80.80, 69.89 as DICOM codes it: the red of sRGB."""


def test_a_colour_state_keeps_the_colours_and_has_some_for_its_layers_and_shutters() -> None:
    values = np.random.default_rng(SEED).integers(0, 256, (40, 60, 3), np.uint8)
    image = dataset(values)
    line = item(GraphicAnnotationUnits="PIXEL", GraphicType="POLYLINE", GraphicData=[10.0, 5.0, 30.0, 5.0])
    state = state_of(image, SOPClassUID=COLOUR, ImageRotation=90)
    assert np.array_equal(shown(image, state), np.rot90(values, -1))
    state.ImageRotation = 0
    state.GraphicAnnotationSequence = [item(GraphicLayer="A", GraphicObjectSequence=[line])]
    state.GraphicLayerSequence = [
        item(GraphicLayer="A", GraphicLayerOrder=1, GraphicLayerRecommendedDisplayCIELabValue=RED)
    ]
    levels = shown(image, state)
    assert np.abs(levels[5, 12:28].astype(int) - (255, 0, 0)).max() <= 3
    del state.GraphicAnnotationSequence
    state.ShutterShape, state.ShutterPresentationColorCIELabValue = "RECTANGULAR", RED
    state.ShutterLeftVerticalEdge, state.ShutterRightVerticalEdge = "11", "20"
    state.ShutterUpperHorizontalEdge, state.ShutterLowerHorizontalEdge = "1", "40"
    levels = shown(image, state)
    assert np.array_equal(levels[:, 10:20], values[:, 10:20])
    assert np.abs(levels[:, 20:].astype(int) - (255, 0, 0)).max() <= 3


def test_a_state_with_wrong_bytes_is_a_picture_or_an_error() -> None:
    image = dataset(VALUES, BitsStored=12, HighBit=11)
    state = state_of(image, ShutterShape="RECTANGULAR", SoftcopyVOILUTSequence=window(2048, 4096))
    state.ShutterLeftVerticalEdge = state.ShutterUpperHorizontalEdge = "2"
    state.ShutterRightVerticalEdge = state.ShutterLowerHorizontalEdge = "9"
    graphic = item(GraphicAnnotationUnits="PIXEL", GraphicType="CIRCLE", GraphicData=[5.0, 5.0, 9.0, 5.0])
    text = item(AnchorPointAnnotationUnits="PIXEL", AnchorPoint=[3.0, 3.0], UnformattedTextValue="a")
    state.GraphicAnnotationSequence = [item(GraphicObjectSequence=[graphic], TextObjectSequence=[text])]
    data = encoded(state)
    rng = random.Random(SEED)
    outcomes = set()
    for number in range(400):
        wrong = bytearray(data)
        for _ in range(rng.randrange(1, 6)):
            wrong[rng.randrange(len(wrong))] = rng.randrange(256)
        if number % 4 == 0:
            del wrong[rng.randrange(len(wrong)) :]
        try:
            source = PresentationState.read(Whole(bytes(wrong)), EXPLICIT_VR_LITTLE_ENDIAN)
            source.references()
            presentation = source.of(image.SOPInstanceUID)
            drawn(image, PictureOptions(media_type=PNG, presentation=presentation, viewport=Viewport(40, 40)))
            outcomes.add("drawn")
        except (TranscodeError, DataSetError):
            outcomes.add("refused")
    assert outcomes == {"drawn", "refused"}, f"seed {SEED}"


def test_a_long_state_is_not_read() -> None:
    image = dataset(VALUES)
    with pytest.raises(TranscodeError, match="bytes is not applied"):
        read(state_of(image, UnformattedTextValue="x" * (5 << 20)))


# DCMTK -------------------------------------------------------------------------------------------


def by_dcmtk(folder: Path, image: Path, state: Path) -> np.ndarray:
    out = folder / "out.pgm"
    done = subprocess.run(["dcmp2pgm", "-p", state, image, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.asarray(Image.open(out))


def saved(ds: Dataset, path: Path) -> Path:
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path


@pytest.mark.skipif(not which("dcmp2pgm"), reason="no DCMTK")
@pytest.mark.parametrize("number", range(8))
def test_dcmtk_shows_the_same(tmp_path: Path, number: int) -> None:
    rng = random.Random(SEED + number)
    image = dataset(VALUES, BitsStored=12, HighBit=11, RescaleSlope="3", RescaleIntercept="5")
    state = state_of(image, PresentationLUTShape=rng.choice(("IDENTITY", "INVERSE")))
    state.ContentLabel, state.InstanceNumber, state.ContentCreatorName = "LABEL", 1, "Doe"
    state.PresentationCreationDate, state.PresentationCreationTime = "20260101", "101010"
    state.ImageRotation, state.ImageHorizontalFlip = rng.choice((0, 90, 180, 270)), rng.choice("NY")
    state.SoftcopyVOILUTSequence = window(rng.randrange(1000, 3000), rng.randrange(500, 4000))
    if number > 5:
        state.ModalityLUTSequence = table(0, RISING, 10)
        state.ModalityLUTSequence[0].ModalityLUTType = "US"
        state.SoftcopyVOILUTSequence = window(500, 700)
    elif number > 3:
        state.SoftcopyVOILUTSequence = [item(VOILUTSequence=table(1000, RISING, 10))]
    elif number > 1:
        del state.PresentationLUTShape
        state.PresentationLUTSequence = table(0, RISING, 10)
    if number % 2 and number < 6:
        state.RescaleSlope, state.RescaleIntercept, state.RescaleType = "1.5", "-100", "US"
    ours = shown(image, state).astype(int)
    theirs = by_dcmtk(tmp_path, saved(image, tmp_path / "image"), saved(state, tmp_path / "state")).astype(int)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 2, number


@needs_corpus("series/cr-with-pr", "synthetic")
def test_the_states_of_the_corpus_are_applied_to_their_images(tmp_path: Path) -> None:
    root = corpus_root()
    assert root is not None
    uids = {}
    for path in corpus_files("series/cr-with-pr", "ct", "series", "codec-only"):
        ds = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=["SOPInstanceUID"])
        uids.setdefault(str(ds.get("SOPInstanceUID")), path)
    applied = 0
    for path in (root / "series/cr-with-pr/PR000000.dcm", root / "synthetic/gsps-window.dcm"):
        state = pydicom.dcmread(path)
        (reference,) = read(state).references()
        image = pydicom.dcmread(uids[reference.sop_instance_uid])
        presentation = read(state).of(reference.sop_instance_uid)
        assert presentation.window is not None
        if "PixelData" not in image:
            assert [mark.kind for mark in presentation.marks] == ["ELLIPSE", "TEXT"]
            continue
        if image.file_meta.TransferSyntaxUID.is_compressed:
            image.decompress()
        if which("dcmp2pgm"):
            theirs = by_dcmtk(tmp_path, saved(image, tmp_path / "image"), path)
            assert np.abs(shown(image, state).astype(int) - theirs.astype(int)).max() <= 2, path.name
        applied += 1
    assert applied == 1


def test_options_without_a_state_stay_as_they_were() -> None:
    options = PictureOptions(media_type=PNG, frame=2)
    assert PictureOptions.of(options.as_dict()) == options == replace(options, presentation=None)
