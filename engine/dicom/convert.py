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

INFLATED_BYTES_MAX: Final = 1 << 30
"""Of a deflated data set, when it is worth it: see the next two."""
INFLATED_FREELY_BYTES: Final = 32 << 20
"""So much may come out of however little."""
INFLATED_RATIO_MAX: Final = 20
"""What comes out beyond that may be so many times what went in. Images give 2 to 4, masks and text 10; deflate reaches
1 032, so half a megabyte could stand for half a gigabyte, which is what bombs are made of."""

_STEP_BYTES: Final = 64 << 10
_PIECE_BYTES: Final = 1 << 20
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
    """In small steps on both sides, so that no more comes out than is allowed and nothing is copied again and again."""
    view = memoryview(data).cast("B")
    bytes_max = min(bytes_max, max(INFLATED_FREELY_BYTES, INFLATED_RATIO_MAX * len(view)))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pieces: list[bytes] = []
    length = 0
    try:
        for at in range(0, len(view), _STEP_BYTES):
            rest: Buffer = view[at : at + _STEP_BYTES]
            is_full = False
            # A full piece may leave output behind though it took all input.
            while (rest or is_full) and not inflater.eof:
                pieces.append(inflater.decompress(rest, _PIECE_BYTES))
                is_full = len(pieces[-1]) == _PIECE_BYTES
                length += len(pieces[-1])
                if length > bytes_max:
                    raise TranscodeError(f"the deflated data set has more than {bytes_max} bytes")
                rest = inflater.unconsumed_tail
    except zlib.error as error:
        raise TranscodeError(f"the deflated data set cannot be inflated: {error}") from None
    if not inflater.eof:
        raise TranscodeError("the deflated data set ends early")
    return b"".join(pieces)


def _deflated(data: Buffer) -> bytes:
    """One raw deflate stream, padded to an even length (PS3.5 A.5)."""
    deflater = zlib.compressobj(_DEFLATE_LEVEL, wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(data) + deflater.flush()
    return deflated + bytes(len(deflated) % 2)
