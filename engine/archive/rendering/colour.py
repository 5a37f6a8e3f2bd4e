"""Converts samples to RGB of 8 bits: palettes, YCbCr, more bits (PS3.3 C.7.6.3.1.2, C.7.9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from engine.archive.rendering.look_up_table import PaletteChannel, palette_of
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from engine.archive.transcoding.head import Head, ImagePixel

    Samples: TypeAlias = np.ndarray[Any, np.dtype[Any]]

PALETTE: Final = "PALETTE COLOR"
YBR: Final = frozenset({"YBR_FULL", "YBR_FULL_422"})

_ENTRIES_MAX: Final = 1 << 16

_FROM_YBR: Final = np.array([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]], np.float32)
"""ITU-R BT.601, full range: rows R, G, B; columns Y, Cb - 128, Cr - 128."""


def rgb(samples: Samples, head: Head, image: ImagePixel) -> Samples:
    """One frame (rows, columns[, 3]) in RGB of 8 bits. Raises TranscodeError."""
    if image.photometric_interpretation == PALETTE:
        return _from_palette(samples, head, image)
    if image.samples_per_pixel < 3:
        raise TranscodeError(f"{image.photometric_interpretation} has {image.samples_per_pixel} samples a pixel")
    if samples.dtype.itemsize > 1:
        samples = (samples >> max(image.bits_stored - 8, 0)).astype(np.uint8)
    samples = samples[:, :, :3]
    if image.photometric_interpretation in YBR:
        shifted = samples.astype(np.float32) - np.array((0, 128, 128), np.float32)
        levels: Samples = np.clip(shifted @ _FROM_YBR.T + 0.5, 0, 255).astype(np.uint8)
        return levels
    return samples


def _from_palette(samples: Samples, head: Head, image: ImagePixel) -> Samples:
    is_signed = image.pixel_representation == 1
    table = np.zeros((_ENTRIES_MAX, 3), np.uint8)
    channels = palette_of(head)
    for number, channel in enumerate(channels):
        entries = _entries(channel)
        table[: len(entries), number] = entries
        table[len(entries) :, number] = entries[-1]
    first = channels[-1].descriptor[1]
    first = first - (1 << 16) if is_signed and first >= 1 << 15 else first
    index = np.clip(samples.astype(np.int32) - first, 0, _ENTRIES_MAX - 1)
    return table[index]


def palette_table(channels: Sequence[PaletteChannel]) -> Samples:
    """The colours of a palette, (entries, 3), which stand for black to white. Raises TranscodeError."""
    columns = [_entries(channel) for channel in channels]
    if len({len(column) for column in columns}) != 1:
        raise TranscodeError("the colours of a palette have different numbers of entries")
    return np.stack(columns, axis=1)


def _entries(channel: PaletteChannel) -> Samples:
    """A channel's entries in 8 bits. Raises TranscodeError."""
    count = (channel.descriptor[0] & 0xFFFF) or _ENTRIES_MAX
    bits, raw, order = channel.descriptor[2], channel.data, ">" if channel.is_big_endian else "<"
    if not raw and channel.segments:
        segments = channel.segments[: len(channel.segments) // 2 * 2]
        words = _expanded(np.frombuffer(segments, order + "u2").astype(np.int64), count)
    elif len(raw) >= 2 * count:
        words = np.frombuffer(raw, order + "u2", count).astype(np.int64)
    elif len(raw) >= count:
        return np.frombuffer(raw, np.uint8, count)
    else:
        raise TranscodeError(f"a palette has {len(raw)} bytes for {count} entries")
    # Some devices write 8 significant bits into entries of 16.
    is_low = bits <= 8 or int(words.max(initial=0)) < 1 << 8
    return (words if is_low else words >> 8).astype(np.uint8)


def _expanded(words: Samples, count: int) -> Samples:
    """Expands a segmented palette (PS3.3 C.7.9.2): discrete, linear and indirect segments. Raises TranscodeError."""
    out: list[int] = []
    starts: list[int] = []
    at = 0

    def take(number: int) -> list[int]:
        nonlocal at
        if at + number > len(words):
            raise TranscodeError("a segmented palette is truncated")
        values = [int(value) for value in words[at : at + number]]
        at += number
        return values

    def expand(operation: int, length: int) -> None:
        if operation == 0:
            out.extend(take(length))
        elif operation == 1 and out:
            (end,) = take(1)
            out.extend(int(value) for value in np.linspace(out[-1], end, length + 1)[1:].round())
        else:
            raise TranscodeError("a segmented palette has an invalid segment")

    while at < len(words) and len(out) < count:
        starts.append(at)
        operation, length = take(2)
        if operation != 2:
            expand(operation, length)
            continue
        low, high = take(2)
        resume, at = at, (high << 16 | low) // 2
        if at not in starts[:-1] or length > len(starts):
            raise TranscodeError("a segmented palette refers to a segment that does not precede")
        for _ in range(length):
            expand(*take(2))
            if len(out) > count:
                break
        at = resume
    if not out:
        raise TranscodeError("a palette is empty")
    return np.array((out + [out[-1]] * count)[:count], np.int64)
