"""Converts samples to grey levels of 8 bits: modality, VOI, presentation (PS3.3 C.11.1, C.11.2; PS3.4 N.2).

    stored values ─ rescale or Modality LUT ─ (`subtraction`) ─ window or VOI LUT ─ MONOCHROME1 inverted ─► 0 to 255

Integers go through one table of all their values, made once for a frame, so each sample costs one look-up. Attributes
may be at the top level or in the functional groups of an enhanced object (PS3.3 C.7.6.16).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from engine.dicom import tags
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from engine.archive.rendering.look_up_table import LookUpTable
    from engine.archive.rendering.presentation_state import Presentation
    from engine.archive.rendering.subtraction import FrameValues
    from engine.archive.transcoding.head import Head, ImagePixel

    Samples: TypeAlias = np.ndarray[Any, np.dtype[Any]]
    Modal: TypeAlias = Callable[[Samples], Samples]
    """What a Modality LUT makes of values."""

LINEAR: Final = "LINEAR"
LINEAR_EXACT: Final = "LINEAR_EXACT"
SIGMOID: Final = "SIGMOID"
FUNCTIONS: Final = (LINEAR, LINEAR_EXACT, SIGMOID)

LUT_ENTRIES_MAX: Final = 1 << 16
_EXPONENT_MAX: Final = 700.0


@dataclass(frozen=True, slots=True)
class Window:
    """Window Center and Width with VOI LUT Function (PS3.3 C.11.2.1.2)."""

    center: float
    width: float
    function: str = LINEAR

    def __post_init__(self) -> None:
        """Raises TranscodeError."""
        least = 1.0 if self.function == LINEAR else 0.0
        if self.width < least or (self.width == 0.0):
            raise TranscodeError(f"a window of width {self.width:g} shows nothing")

    def apply(self, values: Samples) -> Samples:
        """The level of each value, from 0 to 1."""
        if self.function == SIGMOID:
            exponent = np.clip(-4.0 * (values - self.center) / self.width, -_EXPONENT_MAX, _EXPONENT_MAX)
            level: Samples = 1.0 / (1.0 + np.exp(exponent))
            return level
        if self.function == LINEAR_EXACT:
            return np.clip((values - self.center) / self.width + 0.5, 0.0, 1.0)
        if self.width == 1.0:
            return (values > self.center - 0.5).astype(np.float64)
        return np.clip((values - (self.center - 0.5)) / (self.width - 1.0) + 0.5, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Lut:
    """A Modality or VOI LUT (PS3.3 C.11.1.1.1): entry 0 is for the value `first`."""

    first: int
    entries: Samples
    entry_max: int
    """The largest value that an entry of its bits may have."""

    def apply(self, values: Samples) -> Samples:
        """The entry of each value; values beyond the ends get the first or last entry."""
        index = np.clip(np.nan_to_num(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        levels: Samples = self.entries[index]
        return levels


def lut(descriptor: Sequence[float], raw: bytes, order: str, *, is_signed: bool) -> Lut:
    """A table from its LUT Descriptor and LUT Data in a byte order. Raises TranscodeError."""
    if len(descriptor) != 3:
        raise TranscodeError("LUT Descriptor (0028,3002) does not have three values")
    count, first, bits = (int(number) for number in descriptor)
    count = (count & 0xFFFF) or LUT_ENTRIES_MAX
    if is_signed and first >= 1 << 15:
        first -= 1 << 16
    if len(raw) >= 2 * count:
        entries = np.frombuffer(raw, order + "u2", count)
    elif len(raw) >= count:
        entries = np.frombuffer(raw, np.uint8, count)
    else:
        raise TranscodeError(f"LUT Data (0028,3006) has {len(raw)} bytes for {count} entries")
    bits = bits if 0 < bits <= 16 else 16
    return Lut(first, entries.astype(np.float64), (1 << bits) - 1)


class Groups:
    """Finds the attributes of a frame: in its own functional groups, in the shared ones, or at the top level."""

    def __init__(self, head: Head, number: int) -> None:
        """`number`: the frame, from 0."""
        frame_groups = head.item(tags.PerFrameFunctionalGroupsSequence, number)
        shared_groups = head.item(tags.SharedFunctionalGroupsSequence)
        self._head = head
        self._groups = [group for group in (frame_groups, shared_groups) if group is not None]

    def of(self, group_tag: int, *tags_of_group: int) -> Head:
        """The item of a functional group that has one of these attributes, else the top level."""
        for group in self._groups:
            item = group.item(group_tag)
            if item is not None and any(tag in item for tag in tags_of_group):
                return item
        return self._head


def modality(head: Head, image: ImagePixel, number: int) -> Modal:
    """The Modality LUT of a frame, from 0, or its slope and intercept."""
    table = next(_luts(head, tags.ModalityLUTSequence, image.pixel_representation == 1), None)
    if table is not None:
        return table.apply
    item = Groups(head, number).of(tags.PixelValueTransformationSequence, tags.RescaleSlope, tags.RescaleIntercept)
    slope = next(iter(item.numbers(tags.RescaleSlope)), 1.0) or 1.0
    intercept = next(iter(item.numbers(tags.RescaleIntercept)), 0.0)
    return lambda values: values * slope + intercept


def presented_modality(image: ImagePixel, presentation: Presentation) -> Modal:
    """The Modality LUT of a presentation state, or its slope and intercept. Raises TranscodeError."""
    if presentation.modality_lut is not None:
        return table_modality(image, presentation.modality_lut)
    return lambda values: values * presentation.slope + presentation.intercept


def table_modality(image: ImagePixel, table: LookUpTable) -> Modal:
    """A table for the stored values of an image. Raises TranscodeError."""
    return _lut(table, is_signed=image.pixel_representation == 1).apply


def difference_levels(
    values: Samples, extent: float, head: Head, image: ImagePixel, number: int, window: Window | None = None
) -> Samples:
    """A frame from which a mask was subtracted, in 8 bits. Raises TranscodeError.

    What has not changed is 0. So a window of the image that has 0 not within its ends is one for frames without
    subtraction; then 0 is shown as middle grey, and `extent` above it as white.
    """
    voi = _voi(head, Groups(head, number), True, window)
    if voi is None or (window is None and not 0.0 < float(_levels(voi, np.zeros(1))[0]) < 1.0):
        voi = _around_zero(extent)
    levels = np.nan_to_num(np.clip(_levels(voi, values), 0.0, 1.0), nan=0.0)
    if image.photometric_interpretation == "MONOCHROME1":
        levels = 1.0 - levels
    shown: Samples = (levels * 255.0 + 0.5).astype(np.uint8)
    return shown


def _around_zero(extent: float) -> Window:
    return Window(0.0, 2 * extent or 1.0, LINEAR_EXACT)


def grey_levels(
    samples: Samples,
    head: Head,
    image: ImagePixel,
    number: int,
    window: Window | None = None,
    range_of: Samples | None = None,
) -> Samples:
    """A frame in 8 bits, black to white. Raises TranscodeError.

    `window` replaces the data set's own. Without any, samples of up to 8 bits are shown unchanged, and those of more
    bits by their range: in this frame, or in `range_of`.
    """
    if image.bits_allocated == 1:
        return samples * np.uint8(255)
    groups = Groups(head, number)
    is_signed = image.pixel_representation == 1
    is_inverse = image.photometric_interpretation == "MONOCHROME1"
    modality_lut = next(_luts(head, tags.ModalityLUTSequence, is_signed), None)
    modal = modality(head, image, number)
    voi = _voi(head, groups, is_signed, window)
    if isinstance(voi, Window) and window is None and modality_lut is None and not _has_values(voi, samples, modal):
        voi = None  # it would show all black or all white
    if voi is None and image.bits_stored <= 8 and not is_signed:
        voi = _full_range(np.array([0, (1 << image.bits_stored) - 1], samples.dtype), modal)
    if voi is None:
        voi = _full_range(_without_padding(samples if range_of is None else range_of, head), modal)

    def level(values: Samples) -> Samples:
        levels = _levels(voi, modal(values))
        if is_inverse:
            levels = 1.0 - levels
        # NaN becomes black.
        clipped: Samples = np.nan_to_num(np.clip(levels, 0.0, 1.0), nan=0.0)
        return (clipped * 255.0 + 0.5).astype(np.uint8)

    return _mapped(samples, level)


def presented_levels(
    samples: Samples,
    image: ImagePixel,
    presentation: Presentation,
    subtracted: FrameValues | None = None,
    top: int = 255,
) -> Samples:
    """A frame as a presentation state has it: nothing of the image's own description counts (PS3.4 N.2).

    `subtracted`: its values after the Modality LUT, instead of the samples. `top`: the level of white.
    Raises TranscodeError.
    """
    least, bits = -(1 << (image.bits_stored - 1)) if image.pixel_representation else 0, image.bits_stored
    is_float = samples.dtype.kind == "f"
    ends = samples if is_float else np.array([least, least + (1 << bits) - 1], np.int64)
    modal = presented_modality(image, presentation)
    is_table = presentation.modality_lut is not None
    is_below_zero = not is_table and float(modal(ends).min(initial=0.0)) < 0
    if subtracted is not None:
        is_below_zero = subtracted.is_difference or is_below_zero
    voi: Window | Lut | None = _table(presentation.voi_lut, is_signed=is_below_zero)
    if voi is None and presentation.window is not None:
        voi = Window(*presentation.window)
    if voi is None and subtracted is not None:
        voi = _around_zero(subtracted.high) if subtracted.is_difference else _over(subtracted.low, subtracted.high)
    if voi is None and presentation.modality_lut is not None:
        entry_max = _lut(presentation.modality_lut, is_signed=False).entry_max
        voi = Window(entry_max / 2, entry_max, LINEAR_EXACT)
    voi = voi or _full_range(ends, modal)
    shape = _table(presentation.presentation_lut, is_signed=False)

    def level(values: Samples) -> Samples:
        levels = np.clip(_levels(voi, values), 0.0, 1.0)
        if shape is not None:
            levels = _levels(shape, np.nan_to_num(levels) * (len(shape.entries) - 1) + shape.first + 0.5)
        levels = np.nan_to_num(1.0 - levels if presentation.is_inverse else levels, nan=0.0)
        shown: Samples = (np.clip(levels, 0.0, 1.0) * top + 0.5).astype(np.uint8 if top < 256 else np.uint16)
        return shown

    if subtracted is not None:
        return level(subtracted.values)
    return _mapped(samples, lambda values: level(modal(values)))


def _table(table: LookUpTable | None, *, is_signed: bool) -> Lut | None:
    """A table of a presentation state. Raises TranscodeError."""
    return None if table is None else _lut(table, is_signed=is_signed)


def _lut(table: LookUpTable, *, is_signed: bool) -> Lut:
    return lut(table.descriptor, table.data, ">" if table.is_big_endian else "<", is_signed=is_signed)


def _levels(voi: Window | Lut, values: Samples) -> Samples:
    """What a window or a table makes of values, from 0 to 1."""
    levels = voi.apply(values)
    return levels / voi.entry_max if isinstance(voi, Lut) else levels


def _mapped(samples: Samples, level: Callable[[Samples], Samples]) -> Samples:
    """The level of each sample; of integers by a table."""
    if samples.dtype.kind == "f" or samples.dtype.itemsize > 2:
        return level(samples.astype(np.float64))
    low, high = int(samples.min()), int(samples.max())
    table = level(np.arange(low, high + 1, dtype=np.float64))
    if samples.dtype.itemsize == 1:
        return np.take(_by_pattern(table, low, 1 << 8), samples.view(np.uint8))
    return np.take(_by_pattern(table, low, 1 << 16), samples.view(np.uint16))


def _by_pattern(table: Samples, low: int, count: int) -> Samples:
    """The levels of the values from `low` on, by the bits of a value as an unsigned number: none is converted."""
    levels = np.zeros(count, table.dtype)
    levels[np.arange(low, low + len(table)) & (count - 1)] = table
    return levels


def _luts(head: Head, tag: int, is_signed: bool) -> Iterator[Lut]:
    for item in head.items(tag):
        try:
            yield lut(item.numbers(tags.LUTDescriptor), item.raw(tags.LUTData), item.order, is_signed=is_signed)
        except TranscodeError:
            continue  # ignore an unreadable one


def _voi(head: Head, groups: Groups, is_signed: bool, window: Window | None) -> Window | Lut | None:
    if window is not None:
        return window
    item = groups.of(tags.FrameVOILUTSequence, tags.WindowCenter)
    center = next(iter(item.numbers(tags.WindowCenter)), None)
    width = next(iter(item.numbers(tags.WindowWidth)), None)
    if center is not None and width is not None:
        function = item.text(tags.VOILUTFunction)
        try:
            return Window(center, width, function if function in FUNCTIONS else LINEAR)
        except TranscodeError:
            pass
    return next(_luts(head, tags.VOILUTSequence, is_signed), None)


def _has_values(window: Window, samples: Samples, modal: Any) -> bool:
    """Whether a window has values between its ends, or on both sides."""
    ends = modal(np.array([samples.min(), samples.max()], np.float64))
    levels = window.apply(ends)
    return bool(levels.max() > 0.0 and levels.min() < 1.0)


def _without_padding(samples: Samples, head: Head) -> Samples:
    """The samples that are not padding (PS3.3 C.7.5.1.1.2); all samples if there are no others."""
    padding = head.numbers(tags.PixelPaddingValue)
    if not padding:
        return samples
    limit = head.numbers(tags.PixelPaddingRangeLimit) or padding
    low, high = sorted((_as_stored(padding[0], samples), _as_stored(limit[0], samples)))
    unpadded = samples[(samples < low) | (samples > high)]
    return unpadded if unpadded.size else samples


def _as_stored(value: float, samples: Samples) -> float:
    """Converts Pixel Padding Value of signed samples, which may be written unsigned."""
    if samples.dtype.kind == "i" and samples.dtype.itemsize == 2 and value >= 1 << 15:
        return value - (1 << 16)
    return value


def _full_range(samples: Samples, modal: Any) -> Window:
    finite = samples[np.isfinite(samples)] if samples.dtype.kind == "f" else samples
    if not finite.size:
        return Window(0.0, 1.0)
    ends = modal(np.array([finite.min(), finite.max()], np.float64))
    return _over(float(ends.min()), float(ends.max()))


def _over(low: float, high: float) -> Window:
    """The window from one value to another."""
    if low == high:
        return Window(low + 0.5, 1.0, LINEAR_EXACT)  # black
    return Window((low + high) / 2, high - low, LINEAR_EXACT)
