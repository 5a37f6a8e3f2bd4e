"""Blending and pseudo-colour presentation states: pixel by pixel from the words of PS3.4 N.2.4, and what is refused."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image
from pydicom.dataset import Dataset

from engine.archive.rendering import picture
from engine.archive.rendering.options import PNG, PictureOptions
from engine.archive.rendering.placement import upper_image
from engine.archive.rendering.presentation_state import BLENDING, PSEUDO_COLOUR
from engine.archive.transcoding.head import Head
from engine.dicom import elements
from engine.dicom.sources import Concatenation, Whole
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import TranscodeError
from tests.archive.rendering.made import BYTES_MAX, dataset, drawn, encoded
from tests.archive.rendering.test_presentation_state import item, read, state_of, window

CHOSEN = np.random.default_rng(20261130)
LOWER = CHOSEN.integers(0, 4096, (20, 30), np.uint16)
UPPER = CHOSEN.integers(0, 1000, (7, 9), np.uint16)
PALETTE = CHOSEN.integers(0, 256, (64, 3))
LOWER_UID, UPPER_UID = "1.2.3.1", "1.2.3.2"


def with_palette(ds: Dataset, colours: np.ndarray = PALETTE, bits: int = 8) -> Dataset:
    for number, name in enumerate(("Red", "Green", "Blue")):
        ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [len(colours), 0, bits])
        entries = np.asarray(colours[:, number])
        raw = entries.astype(np.uint8 if bits == 8 else "<u2").tobytes()
        ds.add_new(f"{name}PaletteColorLookupTableData", "OW", raw + b"\0" * (len(raw) % 2))
    return ds


def plane(ds: Dataset, origin: tuple[float, float, float], spacing: tuple[float, float], turn: float = 0.0) -> Dataset:
    """Gives an image a transverse plane, turned around its normal by an angle in degrees."""
    across, down = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    ds.FrameOfReferenceUID = "1.2.3.4"
    ds.ImagePositionPatient = [str(each) for each in origin]
    ds.ImageOrientationPatient = [f"{each:.9f}" for each in (across, down, 0.0, -down, across, 0.0)]
    ds.PixelSpacing = [str(each) for each in spacing]
    ds.SliceThickness = "3"
    return ds


def images(turn: float = 0.0) -> tuple[Dataset, Dataset]:
    lower = plane(dataset(LOWER, BitsStored=12, HighBit=11), (-10.0, -20.0, 100.0), (1.0, 0.5))
    upper = plane(dataset(UPPER, BitsStored=10, HighBit=9), (-8.0, -17.5, 101.0), (1.75, 1.5), turn)
    lower.SOPInstanceUID, upper.SOPInstanceUID = LOWER_UID, UPPER_UID
    return lower, upper


def side(position: str, ds: Dataset, **more: object) -> Dataset:
    reference = item(ReferencedSOPClassUID=ds.SOPClassUID, ReferencedSOPInstanceUID=ds.SOPInstanceUID)
    series = item(SeriesInstanceUID=ds.SeriesInstanceUID, ReferencedImageSequence=[reference])
    return item(
        BlendingPosition=position, StudyInstanceUID=ds.StudyInstanceUID, ReferencedSeriesSequence=[series], **more
    )


def blending_of(lower: Dataset, upper: Dataset, opacity: float = 0.25, **more: object) -> Dataset:
    state = state_of(lower, SOPClassUID=BLENDING, **more)
    del state.ReferencedSeriesSequence, state.PresentationLUTShape
    exact = {"VOILUTFunction": "LINEAR_EXACT"}
    state.BlendingSequence = [
        side("SUPERIMPOSED", upper, RescaleSlope="2", RescaleIntercept="-100", RescaleType="US",
             SoftcopyVOILUTSequence=window(900, 1800, **exact)),
        side("UNDERLYING", lower, SoftcopyVOILUTSequence=window(2000, 3000, **exact)),
    ]  # fmt: skip
    state.RelativeOpacity = opacity
    return with_palette(state)


def head_of(ds: Dataset) -> Head:
    source = Whole(encoded(ds))
    return Head.read(source, elements.encoding_of(source.read(0, 8), EXPLICIT_VR_LITTLE_ENDIAN))


def blended(lower: Dataset, upper: Dataset, state: Dataset) -> np.ndarray:
    content = read(state)
    assert [each.sop_instance_uid for each in content.references()] == [LOWER_UID]
    assert [each.sop_instance_uid for each in content.upper_references()] == [UPPER_UID]
    found = upper_image(head_of(lower), [head_of(upper)])
    assert found is not None
    below, above = encoded(lower), encoded(upper)
    shown = content.of(LOWER_UID)
    blending = replace(
        content.blending(shown, UPPER_UID),
        placement=found[1],
        start=len(below),
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN.uid,
    )
    options = PictureOptions(media_type=PNG, presentation=replace(shown, blending=blending))
    assert PictureOptions.of(options.as_dict()) == options
    both = Concatenation(Whole(below), Whole(above))
    raw = picture.draw(both, EXPLICIT_VR_LITTLE_ENDIAN, options, decoded_bytes_max=BYTES_MAX)
    return np.asarray(Image.open(io.BytesIO(raw)))


def twin(lower: Dataset, upper: Dataset, opacity: float) -> np.ndarray:
    """Each pixel by its place in the patient."""
    out = np.zeros((*LOWER.shape, 3))
    origin = np.array([float(each) for each in upper.ImagePositionPatient])
    turns = np.array([float(each) for each in upper.ImageOrientationPatient])
    for row in range(LOWER.shape[0]):
        for column in range(LOWER.shape[1]):
            place = np.array([-10.0 + column * 0.5, -20.0 + row * 1.0, 100.0]) - origin
            x, y = float(place @ turns[:3]) / 1.5, float(place @ turns[3:]) / 1.75
            below = min(max((float(LOWER[row, column]) - 2000) / 3000 + 0.5, 0), 1)
            out[row, column] = below * 255
            if -0.5 <= x <= UPPER.shape[1] - 0.5 and -0.5 <= y <= UPPER.shape[0] - 0.5:
                value = between(UPPER, y, x) * 2 - 100
                level = min(max((value - 900) / 1800 + 0.5, 0), 1)
                colour = PALETTE[int(level * (len(PALETTE) - 1) + 0.5)]
                out[row, column] = colour * opacity + below * 255 * (1 - opacity)
    return out


def between(values: np.ndarray, row: float, column: float) -> float:
    row, column = min(max(row, 0), values.shape[0] - 1), min(max(column, 0), values.shape[1] - 1)
    top, left = math.floor(row), math.floor(column)
    total = 0.0
    for y in (top, top + 1):
        for x in (left, left + 1):
            weight = (1 - abs(row - y)) * (1 - abs(column - x))
            total += weight * float(values[min(y, values.shape[0] - 1), min(x, values.shape[1] - 1)])
    return total


@pytest.mark.parametrize("turn", [0.0, 30.0, 180.0])
@pytest.mark.parametrize("opacity", [0.0, 0.25, 1.0])
def test_the_upper_image_lies_where_it_was_in_the_patient(turn: float, opacity: float) -> None:
    lower, upper = images(turn)
    found = blended(lower, upper, blending_of(lower, upper, opacity)).astype(float)
    expected = twin(lower, upper, opacity)
    # A value between two entries of the palette may fall to either.
    assert (np.abs(found - expected).max(2) > 1.5).mean() < 0.01
    assert np.unique(np.abs(twin(lower, upper, 1.0) - twin(lower, upper, 0.0)).max(2) > 0).tolist() == [False, True]


def test_images_without_a_plane_are_blended_pixel_by_pixel() -> None:
    values = CHOSEN.integers(0, 1000, LOWER.shape, np.uint16)
    lower, upper = dataset(LOWER, BitsStored=12, HighBit=11), dataset(values, BitsStored=10, HighBit=9)
    lower.SOPInstanceUID, upper.SOPInstanceUID = LOWER_UID, UPPER_UID
    found = blended(lower, upper, blending_of(lower, upper, 0.5)).astype(float)
    level = np.clip((values * 2.0 - 100 - 900) / 1800 + 0.5, 0, 1)
    below = np.clip((LOWER - 2000.0) / 3000 + 0.5, 0, 1) * 255
    expected = PALETTE[(level * 63 + 0.5).astype(int)] * 0.5 + below[:, :, None] * 0.5
    assert np.abs(found - expected).max() <= 1


def test_the_nearest_image_in_a_parallel_plane_is_taken_and_no_other() -> None:
    lower, upper = images()
    heads = [head_of(plane(dataset(UPPER), (0.0, 0.0, z), (1.0, 1.0))) for z in (90.0, 102.0, 100.5)]
    found = upper_image(head_of(lower), heads)
    assert found is not None and found[0] == 2
    far = plane(dataset(UPPER), (0.0, 0.0, 102.0), (1.0, 1.0))
    assert upper_image(head_of(lower), [head_of(far)]) is None, "beyond half a slice"
    upper.FrameOfReferenceUID = "1.2.3.5"
    assert upper_image(head_of(lower), [head_of(upper)]) is None, "in another frame of reference"
    upper = plane(dataset(UPPER), (-8.0, -17.5, 101.0), (1.0, 1.0))
    upper.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
    assert upper_image(head_of(lower), [head_of(upper)]) is None, "in a coronal plane"
    assert upper_image(head_of(lower), [head_of(dataset(LOWER))]) is None, "in no plane"
    plain = head_of(dataset(LOWER))
    assert upper_image(plain, [plain, plain]) is None, "one of several without a plane"
    assert upper_image(plain, [head_of(dataset(UPPER))]) is None, "of another size"


def test_wrong_planes_are_none() -> None:
    lower = head_of(images()[0])
    for turns in (["1", "0", "0", "1", "0", "0"], ["9", "0", "0", "0", "9", "0"], ["1", "0", "0", "0", "1"]):
        upper = plane(dataset(UPPER), (0.0, 0.0, 100.0), (1.0, 1.0))
        upper.ImageOrientationPatient = turns
        assert upper_image(lower, [head_of(upper)]) is None


def test_a_pseudo_colour_state_has_a_colour_for_each_level() -> None:
    image = dataset(LOWER, BitsStored=12, HighBit=11)
    for count, bits in ((64, 8), (1024, 16)):
        colours = CHOSEN.integers(256, 1 << bits, (count, 3)) if bits == 16 else CHOSEN.integers(0, 256, (count, 3))
        state = with_palette(state_of(image, SOPClassUID=PSEUDO_COLOUR), colours, bits)
        del state.PresentationLUTShape
        shown = read(state).of(image.SOPInstanceUID)
        found = drawn(image, PictureOptions(media_type=PNG, presentation=shown))
        chosen = colours[(LOWER / 4095 * (count - 1) + 0.5).astype(int)] >> (bits - 8)
        assert np.array_equal(found, chosen), count


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"RelativeOpacity": 1.5}, "Relative Opacity"),
        ({"RelativeOpacity": float("nan")}, "Relative Opacity"),
        ({"ReferencedSpatialRegistrationSequence": [item(ReferencedSOPInstanceUID="1.2")]}, "spatial registration"),
        ({"BlendingSequence": []}, "UNDERLYING"),
        ({"RedPaletteColorLookupTableDescriptor": [64, 0]}, "descriptor"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused(change: dict[str, object], word: str) -> None:
    lower, upper = images()
    state = blending_of(lower, upper)
    for keyword, value in change.items():
        setattr(state, keyword, value)
    with pytest.raises(TranscodeError, match=word):
        content = read(state)
        content.blending(content.of(LOWER_UID), UPPER_UID)


def test_a_lower_image_that_would_take_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lower, upper = images()
    monkeypatch.setattr("engine.archive.rendering.blended.SAMPLES_MAX", 599)
    with pytest.raises(TranscodeError, match="600 pixels"):
        blended(lower, upper, blending_of(lower, upper))


def test_an_upper_image_of_colour_is_refused() -> None:
    lower, _ = images()
    upper = plane(dataset(np.zeros((5, 5, 3), np.uint8)), (-8.0, -17.5, 101.0), (1.75, 1.5))
    upper.SOPInstanceUID = UPPER_UID
    with pytest.raises(TranscodeError, match="grey levels"):
        blended(lower, upper, blending_of(lower, upper))
