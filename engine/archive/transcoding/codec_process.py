"""The process in which data sets and single frames are decoded and encoded, started by `process_pool`.

decode     a data set → with native Pixel Data        {syntax}
encode     a data set → with encapsulated Pixel Data  {syntax, target}
frame      the codestream, or the native bytes, of one frame → the same frame in another syntax
           {syntax, target, image}; target "" is native
picture    a PNG or GIF file → its native frames behind a head (`raster`)  {samples}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.archive.transcoding import compress, decompress, raster
from engine.archive.transcoding.head import ImagePixel
from engine.archive.transcoding.job_process import serve
from engine.dicom import transfer_syntax

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.archive.transcoding.process_pool import Options
    from engine.dicom.sources import Source


def decode(source: Source, options: Options, bytes_max: int) -> Iterator[Buffer]:
    """Decodes a data set."""
    return decompress.decompressed(source, transfer_syntax.of(options["syntax"]), decoded_bytes_max=bytes_max)


def encode(source: Source, options: Options, bytes_max: int) -> Iterator[Buffer]:
    """Encodes a data set."""
    syntax, target = transfer_syntax.of(options["syntax"]), transfer_syntax.of(options["target"])
    return compress.compressed(source, syntax, target, decoded_bytes_max=bytes_max)


def frame(source: Source, options: Options, bytes_max: int) -> Iterator[Buffer]:
    """Converts a frame."""
    image = ImagePixel(**options["image"])
    yield compress.frame_in(source, options["syntax"], options["target"], image, decoded_bytes_max=bytes_max)


def picture(source: Source, options: Options, bytes_max: int) -> Iterator[Buffer]:
    """Decodes a picture."""
    return raster.pictures(bytes(source.read(0, source.length)), options["samples"], bytes_max)


if __name__ == "__main__":
    serve({"decoding": decode, "encoding": encode, "frame conversion": frame, "picture": picture})
