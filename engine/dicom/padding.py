"""Pads a data set of odd length (PS3.5 7.1.1) before it is sent.

Receivers take a NUL at the end of the data set for the start of another element; DCMTK fails there. So this pads the
last value of odd length. Standard: PS3.5 6.2 for the padding of each VR.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.errors import DataSetError

from . import charset, tags
from .identifier import LONG_VRS
from .reencoding import Reencoding
from .sources import Concatenation, Part, Source, Whole
from .transfer_syntax import BIG_ENDIAN, EXPLICIT_VR

if TYPE_CHECKING:
    from typing import Literal

_PADDED_WITH_SPACE: Final = charset.TEXT_VRS | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UR"}


def padded(source: Source, encoding: int) -> Source:
    """A native data set, made even by padding the last top-level value of odd length if that is necessary."""
    if source.length % 2 == 0:
        return source
    try:
        offset = Reencoding(source, encoding, encoding).odd_offset
    except DataSetError:
        return source
    if offset < 0:
        return source
    order: Literal["big", "little"] = "big" if encoding & BIG_ENDIAN else "little"
    header = bytes(source.read(offset, 12))
    tag = int.from_bytes(header[:2], order) << 16 | int.from_bytes(header[2:4], order)
    vr, at, width, header_bytes = tags.vr_of(tag), 4, 4, 8
    if encoding & EXPLICIT_VR and header[4:6].isalpha() and header[4:6].isupper():
        vr = header[4:6].decode("ascii")
        at, width, header_bytes = (8, 4, 12) if vr in LONG_VRS else (6, 2, 8)
    length = int.from_bytes(header[at : at + width], order)
    after = offset + header_bytes + length
    if length % 2 == 0 or after > source.length:
        return source
    new_header = header[:at] + (length + 1).to_bytes(width, order) + header[at + width : header_bytes]
    padding = b" " if vr in _PADDED_WITH_SPACE else b"\0"
    before, value = Part(source, 0, offset), Part(source, offset + header_bytes, after)
    return Concatenation(before, Whole(new_header), value, Whole(padding), Part(source, after))
