"""Reads the boxes of MP4 files (ISO 14496-12) that say which video is in them: H.264 or HEVC. Decodes nothing.

moov/trak/mdia     mdhd has the ticks a second and the duration, hdlr the kind of track
…/minf/stbl        stsd has the kind of stream with its size, stsz the number of frames
…/stsd/avc1, hvc1  avcC or hvcC: profile and level (ISO 14496-15)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from engine.dicom.sources import Part
from engine.errors import DataSetError

if TYPE_CHECKING:
    from engine.dicom.sources import Source

BOXES_MAX: Final = 200
"""In one box, and before the movie box: a film has some ten."""
FRAME_MS_MAX: Final = 60_000
_ENTRY_HEAD_BYTES: Final = 78
"""Of a visual sample entry, before its boxes."""

_ROOT: Final = "1.2.840.10008.1.2.4."
_H264: Final = frozenset((b"avc1", b"avc3"))
_HEVC: Final = frozenset((b"hvc1", b"hev1"))
_CONSTRAINED_BASELINE, _MAIN, _HIGH, _STEREO_HIGH = 66, 77, 100, 128
_HEVC_MAIN, _HEVC_MAIN_10 = 1, 2


@dataclass(frozen=True, slots=True)
class Movie:
    """The video of a file."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    bits_stored: int
    frame_count: int
    frame_ms: float
    """How long each frame is shown; 0: not known."""
    lossy_method: str
    """Lossy Image Compression Method (0028,2114)."""


class _Box(NamedTuple):
    kind: bytes
    content: Source


def describe(source: Source) -> Movie:
    """Reads the first track of video of an MP4 file. Raises DataSetError for any other file."""
    try:
        movie = next(_inside(source, b"moov"), None)
        if movie is None:
            raise DataSetError("the video is no MP4 file with a movie box")
        for track in _inside(movie, b"trak"):
            media = next(_inside(track, b"mdia"), None)
            handler = None if media is None else next(_inside(media, b"hdlr"), None)
            if media is not None and handler is not None and _bytes(handler, 8, 4) == b"vide":
                return _movie(media)
    except struct.error:
        raise DataSetError("the MP4 file ends within a box") from None
    raise DataSetError("the MP4 file has no video")


def _movie(media: Source) -> Movie:
    table = media
    for kind in (b"minf", b"stbl"):
        table = _required(table, kind)
    description = _required(table, b"stsd")
    entry = next(_boxes(Part(description, 8)), None)
    if entry is None:
        raise DataSetError("the MP4 file does not say what its video is")
    columns, rows = struct.unpack(">HH", _bytes(entry.content, 24, 4))
    extensions = Part(entry.content, _ENTRY_HEAD_BYTES, max(entry.content.length, _ENTRY_HEAD_BYTES))
    if entry.kind in _H264:
        uid, bits, method = _h264(_bytes(_required(extensions, b"avcC"), 0, 4)), 8, "ISO_14496_10"
    elif entry.kind in _HEVC:
        uid, bits = _hevc(_bytes(_required(extensions, b"hvcC"), 0, 13))
        method = "ISO_23008_2"
    else:
        raise DataSetError("the video is neither H.264 nor HEVC")
    (frame_count,) = struct.unpack(">I", _bytes(_required(table, b"stsz"), 8, 4))
    ticks_per_s, duration = _times(_required(media, b"mdhd"))
    frame_ms = 1000 * duration / ticks_per_s / frame_count if ticks_per_s and frame_count else 0.0
    if not rows * columns * frame_count:
        raise DataSetError("the MP4 file has no frames")
    frame_ms = round(frame_ms, 3) if frame_ms <= FRAME_MS_MAX else 0.0
    return Movie(uid, rows, columns, bits, frame_count, frame_ms, method)


def _h264(configuration: bytes) -> str:
    """The transfer syntax of a profile and level (PS3.5 8.2.7 to 8.2.9)."""
    _, profile, constraints, level = configuration
    is_within_high = profile in (_MAIN, _HIGH) or (profile == _CONSTRAINED_BASELINE and constraints & 0x40)
    if is_within_high and level <= 41:
        return _ROOT + "102"
    if is_within_high and level <= 42:
        return _ROOT + "104"
    if profile == _STEREO_HIGH and level <= 42:
        return _ROOT + "106"
    raise DataSetError(f"no transfer syntax is for H.264 of profile {profile} at level {level / 10}")


def _hevc(configuration: bytes) -> tuple[str, int]:
    """Transfer syntax and bits of a profile and level (PS3.5 8.2.10, 8.2.11)."""
    profile, level = configuration[1] & 0x1F, configuration[12]
    if profile in (_HEVC_MAIN, _HEVC_MAIN_10) and level <= 153:
        return (_ROOT + "107", 8) if profile == _HEVC_MAIN else (_ROOT + "108", 10)
    raise DataSetError(f"no transfer syntax is for HEVC of profile {profile} at level {level / 30:g}")


def _times(header: Source) -> tuple[int, int]:
    """Ticks a second, and the duration in ticks."""
    if _bytes(header, 0, 1) == b"\1":
        ticks, duration = struct.unpack(">IQ", _bytes(header, 20, 12))
    else:
        ticks, duration = struct.unpack(">II", _bytes(header, 12, 8))
    return ticks, duration


def _boxes(source: Source) -> Iterator[_Box]:
    at = 0
    for _ in range(BOXES_MAX):
        if at + 8 > source.length:
            return
        length, kind = struct.unpack(">I4s", _bytes(source, at, 8))
        head = 8
        if length == 1:
            (length,) = struct.unpack(">Q", _bytes(source, at + 8, 8))
            head = 16
        end = source.length if length == 0 else min(at + length, source.length)
        if end < at + head:
            raise DataSetError("a box of the MP4 file is shorter than its header")
        yield _Box(kind, Part(source, at + head, end))
        at = end


def _inside(source: Source, kind: bytes) -> Iterator[Source]:
    return (box.content for box in _boxes(source) if box.kind == kind)


def _required(source: Source, kind: bytes) -> Source:
    content = next(_inside(source, kind), None)
    if content is None:
        raise DataSetError(f"the MP4 file has no box {kind.decode()} for its video")
    return content


def _bytes(source: Source, offset: int, count: int) -> bytes:
    """These bytes. Raises struct.error if there are fewer."""
    data = bytes(source.read(offset, count))
    if len(data) < count:
        raise struct.error
    return data
