"""Converts a data set from one uncompressed transfer syntax to another, piece by piece.

Does not compress or decompress pixels, and changes no value. A change of endianness swaps the bytes of numbers and
pixels (OW by 2, OL by 4 and so on, never OB and UN). ext/reencode.pxd says which properties are preserved, which are
not, and which errors are tolerated. A data set of any length takes a few megabytes of memory; a deflated one is
inflated up to a limit (`sources`). Standard: PS3.5 Annex A.1 to A.5.

    deflated ─ inflated (three times: its length, the lengths in it, its bytes) ─┐
    native ──────────────────────────────────────────────────────────────────────┴─ reencoded ─ deflated
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from engine.errors import DataSetError, TranscodeError

from .reencoding import Reencoding
from .sources import PIECE_BYTES, Inflated, Source, Whole
from .transfer_syntax import TransferSyntax

if TYPE_CHECKING:
    from typing_extensions import Buffer

INFLATED_BYTES_MAX: Final = 1 << 30
"""Limit for a deflated data set that is converted in memory."""
BYTES_HELD: Final = 12 << 20
"""Memory that a conversion in pieces takes at most: window, pieces, and the lengths of sequences and items."""

_DEFLATE_LEVEL: Final = 6


class Conversion:
    """The conversion of one data set to another transfer syntax."""

    def __init__(
        self,
        source: Source,
        from_syntax: TransferSyntax,
        to_syntax: TransferSyntax,
        inflated_bytes_max: int | None = None,
    ) -> None:
        """Checks all headers, so that afterwards only reading can fail. Raises TranscodeError."""
        self._from, self._to = from_syntax, to_syntax
        self._is_same = from_syntax.uid == to_syntax.uid
        for syntax in (from_syntax, to_syntax):
            if not syntax.convertible and not self._is_same:
                raise TranscodeError(f"{syntax.name} is not an uncompressed transfer syntax")
        self._source = Inflated(source, inflated_bytes_max) if from_syntax.deflated and not self._is_same else source
        self._reencoding: Reencoding | None = None
        if from_syntax.encoding != to_syntax.encoding:
            try:
                self._reencoding = Reencoding(self._source, from_syntax.encoding, to_syntax.encoding)
            except DataSetError as error:
                raise self._failure(error) from error

    @property
    def length(self) -> int | None:
        """The length of the result; None if it is known only at the end."""
        if self._to.deflated and not self._is_same:
            return None
        return self._reencoding.length if self._reencoding is not None else self._source.length

    def pieces(self, piece_bytes: int = PIECE_BYTES) -> Iterator[Buffer]:
        """The result, in pieces of about that length; each is good until the next. Once only. Raises TranscodeError."""
        pieces = self._native(piece_bytes)
        return _deflated(pieces) if self._to.deflated and not self._is_same else pieces

    def _native(self, piece_bytes: int) -> Iterator[Buffer]:
        if self._reencoding is None:
            for at in range(0, self._source.length, piece_bytes):
                yield self._source.read(at, piece_bytes)
            return
        try:
            yield from self._reencoding.pieces(piece_bytes)
        except DataSetError as error:
            raise self._failure(error) from error

    def _failure(self, error: DataSetError) -> TranscodeError:
        return TranscodeError(f"from {self._from.name} to {self._to.name}: {error}")


def convert(
    data: Buffer, source: TransferSyntax, target: TransferSyntax, *, inflated_bytes_max: int = INFLATED_BYTES_MAX
) -> bytes:
    """The whole data set in the target transfer syntax. Raises TranscodeError."""
    conversion = Conversion(Whole(data), source, target, inflated_bytes_max)
    return b"".join([bytes(piece) for piece in conversion.pieces()])


def _deflated(pieces: Iterator[Buffer]) -> Iterator[bytes]:
    """One raw deflate stream, padded to an even length (PS3.5 A.5)."""
    deflater = zlib.compressobj(_DEFLATE_LEVEL, wbits=-zlib.MAX_WBITS)
    length = 0
    for piece in pieces:
        deflated = deflater.compress(piece)
        length += len(deflated)
        if deflated:
            yield deflated
    deflated = deflater.flush()
    yield deflated + bytes((length + len(deflated)) % 2)
