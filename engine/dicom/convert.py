"""Brings a whole data set from one uncompressed transfer syntax into another.

Does not compress, decompress or change a value: pixels keep their bytes but for the byte order that a change of
endianness turns round (OW by 2, OL by 4 and so on, never OB and UN). What is kept and what cannot be is told in
ext/reencode.pxd. A deflated data set is inflated up to a limit. Standard: PS3.5 Annex A.1 to A.5.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from engine.errors import DataSetError, TranscodeError

from . import elements
from .transfer_syntax import TransferSyntax

if TYPE_CHECKING:
    from typing_extensions import Buffer

INFLATED_BYTES_MAX: Final = 2 << 30
"""Of a deflated data set: what 32-bit offsets allow one native image to be, and far below what a bomb would give."""

_DEFLATE_LEVEL: Final = 6


def convert(
    data: Buffer, source: TransferSyntax, target: TransferSyntax, *, inflated_bytes_max: int = INFLATED_BYTES_MAX
) -> bytes:
    """The data set in the target transfer syntax; TranscodeError if it cannot be."""
    for syntax in (source, target):
        if not syntax.convertible:
            raise TranscodeError(f"{syntax.name} is no uncompressed transfer syntax")
    if source.uid == target.uid:
        return bytes(data)
    native = _inflated(data, inflated_bytes_max) if source.deflated else data
    if source.encoding != target.encoding:
        try:
            native = elements.reencode(native, source.encoding, target.encoding)
        except DataSetError as error:
            raise TranscodeError(f"from {source.name} to {target.name}: {error}") from error
    return _deflated(native) if target.deflated else bytes(native)


def _inflated(data: Buffer, bytes_max: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, bytes_max)
    except zlib.error as error:
        raise TranscodeError(f"the deflated data set cannot be inflated: {error}") from None
    if inflater.unconsumed_tail:
        raise TranscodeError(f"the deflated data set has more than {bytes_max} bytes")
    if not inflater.eof:
        raise TranscodeError("the deflated data set ends early")
    return inflated


def _deflated(data: Buffer) -> bytes:
    """One raw deflate stream, padded to an even length (PS3.5 A.5)."""
    deflater = zlib.compressobj(_DEFLATE_LEVEL, wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(data) + deflater.flush()
    return deflated + bytes(len(deflated) % 2)
