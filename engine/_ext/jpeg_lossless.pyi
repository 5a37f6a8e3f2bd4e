"""The typed face of ext/jpeg_lossless.pyx; only archive.pixels imports it."""

from typing import Final

from typing_extensions import Buffer

REASONS: Final[dict[int, str]]

def decode(source: Buffer, target: Buffer, rows: int, columns: int, samples: int) -> int: ...
