"""Mask subtraction of multi-frame images and of presentation states, against a slow twin, and what makes no sense."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from engine.archive.rendering.options import GIF, PNG, PictureOptions
from engine.archive.rendering.presentation_state import XA_XRF, PresentationState
from engine.dicom.sources import Whole
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import DataSetError, TranscodeError
from tests.archive.rendering.made import dataset, drawn, encoded, raw
from tests.archive.rendering.test_presentation_state import item, read, shown, state_of, table, window
from tests.oracle.subtraction import difference

COUNT = 6
FRAMES = np.random.default_rng(20261130).integers(0, 1024, (COUNT, 12, 14), np.uint16)
WIDE = (0.0, 2048.0, "LINEAR_EXACT")
"""A window in which each difference of these frames has a level of its own."""


def angiography(**more: object) -> Dataset:
    ds = dataset(FRAMES, NumberOfFrames=COUNT, BitsStored=10, HighBit=9)
    ds.RecommendedViewingMode = "SUB"
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def masked(operation: str, **more: object) -> Dataset:
    return item(MaskOperation=operation, **more)


def levels_of(values: np.ndarray | None, low: float = -1024.0, high: float = 1024.0) -> np.ndarray:
    assert values is not None
    return np.clip((values - low) / (high - low), 0, 1) * 255


def picture_of(ds: Dataset, number: int, wide: tuple[float, float, str] | None = WIDE) -> np.ndarray:
    return drawn(ds, PictureOptions(media_type=PNG, frame=number, window=wide)).astype(float)


ITEMS = [
    masked("AVG_SUB", MaskFrameNumbers=1),
    masked("AVG_SUB", MaskFrameNumbers=[1, 2, 4], MaskSubPixelShift=[1.0, -2.0]),
    masked("AVG_SUB", MaskFrameNumbers=2, MaskSubPixelShift=[-0.25, 1.5], ContrastFrameAveraging=2),
    masked("AVG_SUB", MaskFrameNumbers=2, ApplicableFrameRange=[3, 4, 6, 6], ContrastFrameAveraging=3),
    masked("AVG_SUB", MaskFrameNumbers=2, MaskSubPixelShift=[100.0, -100.0]),
    masked("TID"),
    masked("TID", TIDOffset=2, MaskSubPixelShift=[0.5, 0.5]),
    masked("TID", TIDOffset=-1),
    masked("TID", TIDOffset=3, ApplicableFrameRange=[5, 5]),
    masked("REV_TID", TIDOffset=1, ApplicableFrameRange=[4, 6]),
]


@pytest.mark.parametrize("mask", ITEMS, ids=range(len(ITEMS)))
def test_each_frame_is_what_the_slow_twin_makes_of_it(mask: Dataset) -> None:
    ds = angiography(MaskSubtractionSequence=[mask], RescaleSlope="0.5", RescaleIntercept="-7", RescaleType="US")
    plain = angiography(RescaleSlope="0.5", RescaleIntercept="-7", RescaleType="US")
    subtracted = 0
    for number in range(1, COUNT + 1):
        expected = difference(FRAMES, mask, number, lambda value: value * 0.5 - 7)
        found = picture_of(ds, number)
        if expected is None:
            assert np.array_equal(found, picture_of(plain, number)), "a frame without a mask is shown as it is"
        else:
            assert np.abs(found - levels_of(expected)).max() <= 1, number
            subtracted += 1
    assert subtracted


def test_the_first_item_that_is_for_a_frame_counts() -> None:
    early = masked("AVG_SUB", MaskFrameNumbers=1, ApplicableFrameRange=[2, 3])
    late = masked("AVG_SUB", MaskFrameNumbers=2, ApplicableFrameRange=[4, 6])
    ds = angiography(MaskSubtractionSequence=[early, late, masked("NONE")])
    assert np.abs(picture_of(ds, 3) - levels_of(difference(FRAMES, early, 3))).max() <= 1
    assert np.abs(picture_of(ds, 5) - levels_of(difference(FRAMES, late, 5))).max() <= 1


@pytest.mark.parametrize("mode", ["NAT", "", "SUB"])
def test_an_image_is_subtracted_if_it_recommends_that(mode: str) -> None:
    ds = angiography(MaskSubtractionSequence=[masked("TID")], RecommendedViewingMode=mode)
    is_subtracted = not np.array_equal(picture_of(ds, 3), picture_of(angiography(), 3))
    assert is_subtracted == (mode == "SUB")


def test_the_display_of_a_range_of_frames_counts_more_and_may_leave_a_part_of_the_mask() -> None:
    mask = masked("AVG_SUB", MaskFrameNumbers=1)
    displayed = [
        item(StartTrim="1", StopTrim="2", RecommendedViewingMode="NAT"),
        item(StartTrim="3", StopTrim="6", RecommendedViewingMode="SUB", MaskVisibilityPercentage=25.0),
    ]
    ds = angiography(MaskSubtractionSequence=[mask], RecommendedViewingMode="NAT", FrameDisplaySequence=displayed)
    assert np.array_equal(picture_of(ds, 2), picture_of(angiography(), 2))
    expected = levels_of(difference(FRAMES, mask, 4, visibility=0.25))
    assert np.abs(picture_of(ds, 4) - expected).max() <= 1


def test_each_frame_of_an_enhanced_image_may_have_its_shift() -> None:
    mask = masked("AVG_SUB", MaskFrameNumbers=1, SubtractionItemID=7)
    shifts = [(float(number), -0.5 * number) for number in range(COUNT)]
    groups = [
        item(
            FramePixelShiftSequence=[
                item(SubtractionItemID=7, MaskSubPixelShift=list(shift)),
                item(SubtractionItemID=8, MaskSubPixelShift=[9.0, 9.0]),
            ]
        )
        for shift in shifts
    ]
    ds = angiography(MaskSubtractionSequence=[mask], PerFrameFunctionalGroupsSequence=groups)
    for number in (2, 5):
        mask.MaskSubPixelShift = list(shifts[number - 1])
        expected = levels_of(difference(FRAMES, mask, number))
        del mask.MaskSubPixelShift
        assert np.abs(picture_of(ds, number) - expected).max() <= 1


def test_a_window_for_frames_without_subtraction_is_not_used() -> None:
    mask = masked("AVG_SUB", MaskFrameNumbers=1)
    values = difference(FRAMES, mask, 3)
    assert values is not None
    extent = np.abs(values).max()
    for more in ({}, {"WindowCenter": "512", "WindowWidth": "1024"}):
        ds = angiography(MaskSubtractionSequence=[mask], **more)
        assert np.abs(picture_of(ds, 3, None) - levels_of(values, -extent, extent)).max() <= 1
    ds = angiography(MaskSubtractionSequence=[mask], WindowCenter="100", WindowWidth="400")
    ds.VOILUTFunction = "LINEAR_EXACT"
    assert np.abs(picture_of(ds, 3, None) - levels_of(values, -100, 300)).max() <= 1
    ds.PhotometricInterpretation = "MONOCHROME1"
    assert np.abs(picture_of(ds, 3, None) - (255 - levels_of(values, -100, 300))).max() <= 1


def test_an_animation_has_one_range_for_all_frames() -> None:
    ds = angiography(MaskSubtractionSequence=[masked("TID")])
    moving = Image.open(io.BytesIO(raw(ds, PictureOptions(media_type=GIF, frame=None))))
    assert getattr(moving, "n_frames", 1) == COUNT
    middle = difference(FRAMES, masked("TID"), 4)
    assert middle is not None
    extent = np.abs(middle).max()
    for number in (2, 4):
        moving.seek(number - 1)
        expected = levels_of(difference(FRAMES, masked("TID"), number), -extent, extent)
        assert np.abs(np.asarray(moving.convert("L")).astype(float) - expected).max() <= 2


@pytest.mark.parametrize(
    "mask",
    [
        masked("AVG_SUB"),
        masked("AVG_SUB", MaskFrameNumbers=99),
        masked("REV_TID"),
        masked("REV_TID", TIDOffset=1, ApplicableFrameRange=[1, 6]),
        masked("MAGIC", MaskFrameNumbers=1),
        masked("AVG_SUB", MaskFrameNumbers=1, MaskSubPixelShift=[float("nan"), 1.0]),
        masked("AVG_SUB", MaskFrameNumbers=1, MaskSubPixelShift=[1e30, 1.0]),
        masked("AVG_SUB", MaskFrameNumbers=[1] * 101),
        masked("AVG_SUB", MaskFrameNumbers=1, ContrastFrameAveraging=65535),
        masked("TID", TIDOffset=30000, ApplicableFrameRange=[1, 6]),
        masked("TID", ApplicableFrameRange=[1, 2, 3]),
    ],
    ids=range(11),
)
def test_an_image_whose_mask_makes_no_sense_is_shown_as_stored_and_a_state_is_refused(mask: Dataset) -> None:
    assert np.array_equal(picture_of(angiography(MaskSubtractionSequence=[mask]), 3), picture_of(angiography(), 3))
    with pytest.raises(TranscodeError, match=r"(?i)mask|ApplicableFrameRange"):
        presented(angiography(), mask)


def presented(ds: Dataset, mask: Dataset, number: int = 3, **more: object) -> np.ndarray:
    """A frame as a state shows it that has one mask."""
    state = state_of(ds, MaskSubtractionSequence=[mask], RecommendedViewingMode="SUB", **more)
    options = PictureOptions(media_type=PNG, frame=number, presentation=read(state).of(ds.SOPInstanceUID))
    return drawn(ds, PictureOptions.of(options.as_dict())).astype(float)


def test_a_state_has_its_own_mask_and_the_whole_range_without_a_window() -> None:
    mask = masked("AVG_SUB", MaskFrameNumbers=[1, 2], MaskSubPixelShift=[0.5, -1.0])
    values = difference(FRAMES, mask, 3)
    ds = angiography(MaskSubtractionSequence=[masked("TID")], WindowCenter="1", WindowWidth="2")
    assert np.abs(presented(ds, mask) - levels_of(values, -1023, 1023)).max() <= 1
    narrow = window(50, 500, VOILUTFunction="LINEAR_EXACT")
    expected = levels_of(values, -200, 300)
    assert np.abs(presented(ds, mask, SoftcopyVOILUTSequence=narrow) - expected).max() <= 1
    inverse = presented(ds, mask, SoftcopyVOILUTSequence=narrow, PresentationLUTShape="INVERSE")
    assert np.abs(inverse - (255 - expected)).max() <= 1


def test_a_state_without_a_mask_shows_the_frame_as_stored() -> None:
    ds = angiography(MaskSubtractionSequence=[masked("TID")])
    assert np.abs(shown(ds, state_of(ds)).astype(float) - levels_of(FRAMES[0], 0, 1023)).max() <= 1


def test_regions_of_an_xa_state_have_shifts_and_the_last_one_counts() -> None:
    ds = angiography()
    regions = [
        item(VerticesOfTheRegion=[1, 1, 1, 8, 7, 8, 7, 1], MaskSubPixelShift=[1.0, 0.0]),
        item(VerticesOfTheRegion=[5, 5, 5, 12, 11, 12, 11, 5], MaskSubPixelShift=[0.0, -1.5]),
    ]
    own = item(ReferencedSOPClassUID=ds.SOPClassUID, ReferencedSOPInstanceUID=ds.SOPInstanceUID)
    other = item(ReferencedSOPClassUID=ds.SOPClassUID, ReferencedSOPInstanceUID="1.2.3")
    mask = masked("AVG_SUB", MaskFrameNumbers=1, ReferencedImageSequence=[own])
    mask.PixelShiftSequence = [
        item(PixelShiftFrameRange=[1, 2], RegionPixelShiftSequence=[item(MaskSubPixelShift=[4.0, 4.0])]),
        item(PixelShiftFrameRange=[3, 6], RegionPixelShiftSequence=regions),
    ]
    foreign = masked("TID", ReferencedImageSequence=[other])
    state = state_of(ds, SOPClassUID=XA_XRF, MaskSubtractionSequence=[foreign, mask])
    presentation = read(state).of(ds.SOPInstanceUID)
    found = drawn(ds, PictureOptions(media_type=PNG, frame=3, presentation=presentation)).astype(float)
    expected = levels_of(difference(FRAMES, mask, 3, region_shifts=regions), -1023, 1023)
    assert np.abs(found - expected).max() <= 1


def test_tables_of_an_xa_state_make_values_logarithmic() -> None:
    ds = angiography()
    entries = np.round(np.log1p(np.arange(1024)) / np.log(1024) * 4095).astype(np.uint16)
    tables = [table(0, entries, 12)[0]]
    tables[0].LUTFunction = "TO_LOG"
    mask = masked("AVG_SUB", MaskFrameNumbers=2)
    state = state_of(ds, SOPClassUID=XA_XRF, PixelIntensityRelationshipLUTSequence=tables)
    state.MaskSubtractionSequence = [mask]
    presentation = read(state).of(ds.SOPInstanceUID)
    found = drawn(ds, PictureOptions(media_type=PNG, frame=5, presentation=presentation)).astype(float)

    def log(value: float) -> float:
        return float(entries[int(value)])

    assert np.abs(found - levels_of(difference(FRAMES, mask, 5, log), -4095, 4095)).max() <= 1
    state.MultiFramePresentationSequence = [
        item(FrameDisplaySequence=[item(StartTrim="1", StopTrim="6", RecommendedViewingMode="NAT")])
    ]
    presentation = read(state).of(ds.SOPInstanceUID)
    found = drawn(ds, PictureOptions(media_type=PNG, frame=5, presentation=presentation)).astype(float)
    assert np.abs(found - levels_of(entries[FRAMES[4]], 0, 4095)).max() <= 1


def test_shutters_of_single_frames_are_refused() -> None:
    ds = angiography()
    state = state_of(ds, SOPClassUID=XA_XRF, FrameDisplayShutterSequence=[item(ShutterShape="CIRCULAR")])
    with pytest.raises(TranscodeError, match="shutters of single frames"):
        read(state).of(ds.SOPInstanceUID)


def test_wrong_bytes_in_a_mask_are_a_picture_or_an_error() -> None:
    chosen = np.random.default_rng(7)
    mask = masked("AVG_SUB", MaskFrameNumbers=[1, 2], MaskSubPixelShift=[0.5, 0.5], ApplicableFrameRange=[1, 6])
    state = state_of(angiography(), MaskSubtractionSequence=[mask])
    whole = encoded(state)
    start = whole.index(b"\x28\x00\x00\x61")
    ds = angiography()
    for _ in range(100):
        torn = bytearray(whole)
        torn[start + int(chosen.integers(0, 120)) % (len(torn) - start)] = int(chosen.integers(0, 256))
        try:
            content = PresentationState.read(Whole(bytes(torn)), EXPLICIT_VR_LITTLE_ENDIAN)
            drawn(ds, PictureOptions(media_type=PNG, frame=3, presentation=content.of(ds.SOPInstanceUID)))
        except (TranscodeError, DataSetError):
            continue


def test_a_positive_shift_moves_the_mask_down_and_to_the_left() -> None:
    frames = np.full((2, 12, 14), 100, np.uint16)
    frames[0, 5, 6] = 300
    ds = dataset(frames, NumberOfFrames=2, BitsStored=10, HighBit=9)
    ds.RecommendedViewingMode = "SUB"
    ds.MaskSubtractionSequence = [masked("AVG_SUB", MaskFrameNumbers=1, MaskSubPixelShift=[2.0, 3.0])]
    darkest = np.unravel_index(np.argmin(picture_of(ds, 2)), (12, 14))
    assert tuple(map(int, darkest)) == (7, 3)
