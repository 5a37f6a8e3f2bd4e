"""rendering.grey: the pipeline of grey levels, against pydicom's."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from engine.archive.rendering.grey import Window
from engine.archive.rendering.options import PNG, PictureOptions
from engine.errors import TranscodeError
from tests.archive.rendering.made import dataset, drawn

RAMP = np.arange(-1024, 1024, dtype=np.int16).reshape(32, 64)


def lut_item(first: int, entries: list[int], bits: int = 16) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return item


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (0, 1.5), (-600, 1500), (30.5, 80)])
def test_windows_are_those_of_the_standard(function: str, center: float, width: float) -> None:
    ds = dataset(RAMP, WindowCenter=center, WindowWidth=width, RescaleSlope=0.5, RescaleIntercept=10)
    ds.VOILUTFunction = function
    expected = apply_voi_lut(apply_modality_lut(RAMP, ds), ds)
    # pydicom's levels go from 0 to the largest value that the rescaled samples can have.
    low, high = (float(v) for v in (-32768 * 0.5 + 10, 32767 * 0.5 + 10))
    levels = (expected - low) / (high - low) * 255
    assert np.abs(drawn(ds).astype(float) - levels).max() <= 1.0


def test_a_window_that_is_asked_for_replaces_that_of_the_data_set() -> None:
    ds = dataset(RAMP, WindowCenter=0, WindowWidth=10)
    picture = drawn(ds, PictureOptions(media_type=PNG, window=(0, 2048, "LINEAR_EXACT")))
    assert (picture[0, 0], picture[-1, -1]) == (0, 255)
    assert len(np.unique(picture)) > 200


def test_without_a_window_all_values_but_padding_are_shown() -> None:
    values = np.linspace(100, 1100, 64).astype(np.uint16).reshape(8, 8)
    values[0, 0] = 63536
    picture = drawn(dataset(values, PixelPaddingValue=63536))
    assert (picture[0, 1], picture[-1, -1]) == (0, 255)


def test_padding_of_signed_samples_may_be_written_unsigned() -> None:
    values = np.linspace(-1000, 1000, 64).astype(np.int16).reshape(8, 8)
    values[0, 0] = -2000
    ds = dataset(values)
    ds.add_new("PixelPaddingValue", "US", 65536 - 2000)
    assert drawn(ds)[0, 1] == 0


def test_monochrome1_is_inverted() -> None:
    ds = dataset(RAMP)
    straight = drawn(ds).astype(int)
    ds.PhotometricInterpretation = "MONOCHROME1"
    assert np.abs(drawn(ds) + straight - 255).max() <= 1


def test_modality_and_voi_luts_are_applied() -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8)
    ds = dataset(values)
    ds.ModalityLUTSequence = [lut_item(0, [1000 - 10 * index for index in range(64)])]
    ds.VOILUTSequence = [lut_item(370, [min(65535, index * 100) for index in range(631)])]
    expected = apply_voi_lut(apply_modality_lut(values, ds), ds) / 65535 * 255
    assert np.abs(drawn(ds).astype(float) - expected).max() <= 1.0


def test_an_enhanced_frame_has_its_own_rescale_and_window() -> None:
    values = np.stack([np.arange(64, dtype=np.uint16).reshape(8, 8)] * 2)
    ds = dataset(values, NumberOfFrames=2)
    shared, groups = pydicom.Dataset(), []
    transformation = pydicom.Dataset()
    transformation.RescaleSlope, transformation.RescaleIntercept = 2, 0
    shared.PixelValueTransformationSequence = [transformation]
    for center in (16, 112):
        group, window = pydicom.Dataset(), pydicom.Dataset()
        window.WindowCenter, window.WindowWidth = center, 32
        window.VOILUTFunction = "LINEAR_EXACT"
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], groups
    first = drawn(ds, PictureOptions(media_type=PNG, frame=1)).reshape(-1)
    second = drawn(ds, PictureOptions(media_type=PNG, frame=2)).reshape(-1)
    assert (first[0], first[16], first[40]) == (0, 255, 255)
    assert (second[16], second[47], second[63]) == (0, 0, 239)


def test_a_window_that_shows_nothing_gives_way_to_the_full_range() -> None:
    assert len(np.unique(drawn(dataset(RAMP, WindowCenter=30000, WindowWidth=10)))) > 200


def test_bits_beyond_bits_stored_are_no_grey() -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8)
    straight = drawn(dataset(values, BitsStored=12, HighBit=11))
    assert np.array_equal(drawn(dataset(values | 0x8000, BitsStored=12, HighBit=11)), straight)


def test_floats_are_shown() -> None:
    ds = dataset(np.zeros((4, 4), np.uint16))
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    ds.BitsAllocated = 32
    values = np.linspace(-0.5, 0.5, 16, dtype="<f4")
    values[3] = np.nan
    ds.FloatPixelData = values.tobytes()
    picture = drawn(ds).reshape(-1)
    assert (picture[0], picture[-1]) == (0, 255)
    assert picture[3] == 0 < picture[2], "what is no number is black"


def test_single_bits_are_black_and_white_in_every_frame() -> None:
    bits = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0]], np.uint8).reshape(2, 2, 3)
    ds = dataset(bits, NumberOfFrames=2, BitsAllocated=1, BitsStored=1, HighBit=0)
    ds.PixelData = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    for number in (1, 2):
        assert np.array_equal(drawn(ds, PictureOptions(media_type=PNG, frame=number)) // 255, bits[number - 1])


@pytest.mark.parametrize(("width", "function"), [(0.5, "LINEAR"), (0, "LINEAR_EXACT"), (-3, "SIGMOID")])
def test_a_window_without_width_is_refused(width: float, function: str) -> None:
    with pytest.raises(TranscodeError, match="shows nothing"):
        Window(0, width, function)


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2"])
def test_every_value_of_an_integer_has_its_level(kind: str) -> None:
    info = np.iinfo(kind)
    values = np.arange(info.min, info.max + 1).astype(kind).reshape(16, -1)
    for part in (values, values[3:5]):
        picture = drawn(dataset(part), PictureOptions(media_type=PNG, window=(10.0, info.max / 2, "LINEAR_EXACT")))
        levels = Window(10.0, info.max / 2, "LINEAR_EXACT").apply(part.astype(np.float64))
        assert np.array_equal(picture, (levels * 255 + 0.5).astype(np.uint8))
