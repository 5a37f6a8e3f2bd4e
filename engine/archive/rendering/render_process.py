"""The process in which pictures are drawn and reports are laid out, started by `transcoding.process_pool`.

drawing          an instance → a picture      {syntax, options: PictureOptions}
laying out       a report → HTML or text      {syntax, media_type}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.archive.rendering import picture, report
from engine.archive.rendering.options import PictureOptions
from engine.archive.transcoding.job_process import serve
from engine.dicom import transfer_syntax

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.archive.transcoding.process_pool import Options
    from engine.dicom.sources import Source


def draw(source: Source, options: Options, bytes_max: int) -> Iterator[Buffer]:
    """Draws an instance."""
    picture_options = PictureOptions.of(options["options"])
    yield picture.draw(source, transfer_syntax.of(options["syntax"]), picture_options, decoded_bytes_max=bytes_max)


def lay_out(source: Source, options: Options, bytes_max: int) -> Iterator[Buffer]:
    """Lays out a report."""
    yield report.laid_out(source, transfer_syntax.of(options["syntax"]), options["media_type"])


if __name__ == "__main__":
    serve({"drawing": draw, "laying out": lay_out})
