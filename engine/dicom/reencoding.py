"""Reencodes a data set of any length. Only this module imports _ext.reencoder.

ext/reencode.pxd says which properties are preserved, which are not, and which faults are tolerated. Holds a window of
the data set, a piece of the result, and four bytes for each sequence and item of defined length. Standard: PS3.5
section 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine._ext import reencoder as _ext
from engine.errors import DataSetError

from . import tags
from .sources import PIECE_BYTES, Source, Whole

if TYPE_CHECKING:
    from typing_extensions import Buffer

HEADER_WINDOW_BYTES = 64 << 10
"""Bytes read at a time to look for headers; longer values are skipped."""


class Reencoding:
    """The conversion of one data set into another encoding."""

    def __init__(self, source: Source, encoding: int, target_encoding: int) -> None:
        """Reads all headers once. Raises DataSetError."""
        self._source = source
        self._reencoder = _ext.Reencoder(tags.packed(), source.length, encoding, target_encoding)
        offset, count = 0, _ext.WINDOW_BYTES_MIN
        try:
            while offset >= 0:
                before = offset
                offset = self._reencoder.measure(source.read(offset, count), offset)
                # After a long value read one header; among short values read more at once.
                jumped = offset - before > count
                count = _ext.WINDOW_BYTES_MIN if jumped else min(4 * count, HEADER_WINDOW_BYTES)
        except _ext.Malformed as error:
            raise DataSetError(str(error)) from None
        self.length = self._reencoder.size
        """Of the result."""
        self.odd_offset = self._reencoder.odd_offset
        """Offset in the source of the last element, if that has a plain value of odd length; else -1."""

    def pieces(self, piece_bytes: int = PIECE_BYTES) -> Iterator[memoryview]:
        """The result, once only. A piece is valid until the next one. Raises DataSetError."""
        buffer = memoryview(bytearray(max(piece_bytes, _ext.TARGET_BYTES_MIN)))
        window_bytes = max(piece_bytes, _ext.WINDOW_BYTES_MIN)
        offset = filled = 0
        window, start = self._source.read(0, window_bytes), 0
        try:
            while offset >= 0:
                offset, count = self._reencoder.write(window, start, buffer[filled:])
                filled += count
                if offset < 0 or len(buffer) - filled < _ext.TARGET_BYTES_MIN:
                    yield buffer[:filled]
                    filled = 0
                elif offset >= 0:
                    window, start = self._source.read(offset, window_bytes), offset
        except _ext.Malformed as error:
            raise DataSetError(str(error)) from None


def reencode(data: Buffer, encoding: int, target_encoding: int) -> bytes:
    """A whole data set in another encoding. Raises DataSetError."""
    reencoding = Reencoding(Whole(data), encoding, target_encoding)
    return b"".join(
        [bytes(piece) for piece in reencoding.pieces(max(reencoding.length, 0) + 2 * _ext.TARGET_BYTES_MIN)]
    )
