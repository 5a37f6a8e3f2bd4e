"""Joins compressed pieces to a gzip stream (RFC 1951, RFC 1952), and extends pieces.

A piece is raw deflate that ends at a byte, has no final block, and refers to nothing before its own beginning, so
pieces may follow one another in any order. `joined` frames them and computes the checksum without inflating them.

    header │ piece │ stored block │ piece │ … │ final block │ crc32, length

It makes one member only, since many clients stop after the first member.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

LEVEL: Final = 6
WINDOW_BYTES: Final = 32 << 10
"""How far deflate refers back (RFC 1951 2.1)."""

_HEADER: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_FINAL: Final = b"\x03\0"
"""An empty final block."""
_POLYNOMIAL: Final = 0xEDB88320
_INFLATED_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Piece:
    """Compressed text, and its length and checksum."""

    data: bytes
    length: int
    """Bytes of the text."""
    crc: int
    """CRC-32 of the text."""
    window: bytes = b""
    """The end of the text, to which added text may refer back."""


EMPTY: Final = Piece(b"", 0, 0)


class Growing:
    """Adds text to a piece; the result is little larger than if all were compressed at once."""

    def __init__(self, piece: Piece = EMPTY) -> None:
        self._parts = [piece.data]
        self._length, self._crc, self._window = piece.length, piece.crc, piece.window
        self._deflate = (
            zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=piece.window)
            if piece.window
            else zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        )

    @property
    def length(self) -> int:
        """Bytes of the text."""
        return self._length

    def add(self, text: bytes) -> None:
        """Appends text."""
        self._parts.append(self._deflate.compress(text))
        self._length += len(text)
        self._crc = zlib.crc32(text, self._crc)
        self._window = text[-WINDOW_BYTES:] if len(text) >= WINDOW_BYTES else (self._window + text)[-WINDOW_BYTES:]

    def finish(self) -> Piece:
        """Returns the piece. Add nothing afterwards."""
        self._parts.append(self._deflate.flush(zlib.Z_SYNC_FLUSH))
        return Piece(b"".join(self._parts), self._length, self._crc, self._window)


def stored(text: bytes) -> Piece:
    """A short text, uncompressed in a stored block (RFC 1951 3.2.4)."""
    length = len(text)
    return Piece(b"\0" + struct.pack("<HH", length, length ^ 0xFFFF) + text, length, zlib.crc32(text))


def joined(pieces: Iterable[Piece]) -> list[bytes]:
    """The consecutive parts of a gzip stream of these pieces."""
    parts, crc, length = [_HEADER], 0, 0
    for piece in pieces:
        parts.append(piece.data)
        crc = combined(crc, piece.crc, piece.length)
        length += piece.length
    parts.append(_FINAL + struct.pack("<II", crc, length & 0xFFFFFFFF))
    return parts


def text_of(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """The text of these pieces, some 256 KiB at a time. Raises zlib.error if one is damaged."""
    for piece in pieces:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        rest = piece.data
        while text := inflate.decompress(rest, _INFLATED_BYTES):
            yield text
            rest = inflate.unconsumed_tail


def combined(crc: int, crc_behind: int, length_behind: int) -> int:
    """The CRC-32 of two concatenated texts, from that of each.

    Appending n zero bytes to a text is a linear map of its CRC. The maps for powers of two are known, so this takes as
    many steps as the length has bits.
    """
    bit = 0
    while length_behind:
        if length_behind & 1:
            crc = _mapped(_zeros(bit), crc)
        length_behind >>= 1
        bit += 1
    return crc ^ crc_behind


def _mapped(matrix: tuple[int, ...], vector: int) -> int:
    count = at = 0
    while vector:
        if vector & 1:
            count ^= matrix[at]
        vector >>= 1
        at += 1
    return count


_MATRICES: Final[list[tuple[int, ...]]] = []
"""The effect of 1, 2, 4, … zero bytes on a CRC."""


def _zeros(bit: int) -> tuple[int, ...]:
    while len(_MATRICES) <= bit:
        if _MATRICES:
            last = _MATRICES[-1]
        else:
            last = (_POLYNOMIAL, *(1 << at for at in range(31)))  # one zero bit
            for _ in range(2):
                last = tuple([_mapped(last, row) for row in last])  # two, four
        _MATRICES.append(tuple([_mapped(last, row) for row in last]))
    return _MATRICES[bit]
