"""Encodes frames as MP4 (H.264), which every browser plays, and takes a picture from a stored video. Needs the extra
`video`: PyAV has encoders under the GPL."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from engine.errors import TranscodeError

if TYPE_CHECKING:
    from engine.dicom.sources import Source

QUALITY_CRF: Final = "18"
"""CRF of libx264: lower is better; 18 counts as visually lossless."""


_ONLY: Final = {"format_whitelist": "mpegts,mpeg,mpegvideo,mov,h264,hevc", "protocol_whitelist": "none"}
"""What a stored video may be (PS3.5 8.2.5 to 8.2.10). Playlists, for one, would open the files that they name."""


class _File:
    """A source as a file that is read only."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._at = 0

    def read(self, count: int = -1) -> bytes:
        count = self._source.length - self._at if count < 0 else count
        piece = bytes(self._source.read(self._at, count))
        self._at += len(piece)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.length}[whence]
        self._at = min(max(start + offset, 0), self._source.length)
        return self._at

    def tell(self) -> int:
        return self._at


def still(source: Source, bytes_max: int) -> Image.Image:
    """A picture from the middle of a video stream, or its first one where it cannot be searched.

    `bytes_max`: the most bytes of the picture. Raises TranscodeError.
    """
    try:
        import av
    except ImportError as error:
        raise TranscodeError("a picture of a video needs the extra `video`: pip install 'filmroom[video]'") from error
    try:
        for is_from_middle in (True, False):
            with av.open(_File(source), "r", options=_ONLY) as container:
                picture = _picture(av, container, bytes_max, is_from_middle=is_from_middle)
            if picture is not None:
                return picture
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise TranscodeError(f"the video cannot be decoded: {error}") from error
    raise TranscodeError("the video has no picture")


def _picture(av: ModuleType, container: Any, bytes_max: int, *, is_from_middle: bool) -> Image.Image | None:
    """The first picture that can be decoded from there on; None if there is none, as when only the first is whole."""
    stream = container.streams.video[0]
    stream.thread_count = 1
    if 3 * stream.width * stream.height > bytes_max:
        raise TranscodeError(f"a picture has {stream.height} rows and {stream.width} columns")
    if is_from_middle:
        if not container.duration:
            return None
        with suppress(av.FFmpegError):
            container.seek((container.start_time or 0) + container.duration // 2)
    frame = next(container.decode(stream), None)
    return None if frame is None else Image.fromarray(frame.to_ndarray(format="rgb24"))


def mp4(pictures: Iterable[Image.Image], seconds: float) -> bytes:
    """The animation, with each frame shown for this long. Raises TranscodeError."""
    try:
        import av
    except ImportError as error:
        raise TranscodeError("MP4 needs the extra `video`: pip install 'filmroom[video]'") from error
    rate = Fraction(1 / seconds).limit_denominator(1000)
    frames = iter(pictures)
    first = next(frames)
    width, height = (side + side % 2 for side in first.size)  # 4:2:0 needs even sides
    with _memory_file() as file:
        _write(av, f"/proc/self/fd/{file.fileno()}", chain((first,), frames), (width, height), rate)
        file.seek(0)
        return file.read()


def _memory_file() -> IO[bytes]:
    """A file in memory, since a second pass moves the index to the front of an MP4."""
    return os.fdopen(os.memfd_create("mp4"), "r+b")


def _write(av: ModuleType, path: str, pictures: Iterable[Image.Image], size: tuple[int, int], rate: Fraction) -> None:
    with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": QUALITY_CRF, "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.thread_count = 1
        for picture in pictures:
            rgb = picture.convert("RGB")
            if rgb.size != size:
                rgb = rgb.crop((0, 0, *size))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(rgb), format="rgb24")))
        container.mux(stream.encode())
