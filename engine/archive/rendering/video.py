"""Encodes frames as MP4 (H.264), which every browser plays. Needs the extra `video`: PyAV has encoders under the
GPL."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from types import ModuleType
from typing import IO, TYPE_CHECKING, Final

import numpy as np

from engine.errors import TranscodeError

if TYPE_CHECKING:
    from PIL import Image

QUALITY_CRF: Final = "18"
"""CRF of libx264: lower is better; 18 counts as visually lossless."""


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
