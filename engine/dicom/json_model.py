"""Data sets as the DICOM JSON Model (PS3.18 annex F), and what annex F leaves open; the door to _ext.json_model.

`encode` writes one instance in one pass over its bytes, in whatever encoding they are. Reading is `json_reader`'s.

    keys            8 hexadecimal digits, ascending, each once; no group lengths, nothing of groups 0000 and 0002
    text            UTF-8, without the spaces that do not count; (0008,0005), where it is or is needed, says ISO_IR 192
    VR              on the wire; the dictionary's where there is none, or UN; "US or SS" by Pixel Representation
    DS, IS, SV, UV  numbers where a double has them exactly (16 digits, 32 bits, 53 bits), else the text as it stands
    FL, FD          the double that has the same value
    InlineBinary    up to BINARY_INLINE_BYTES_MAX, tables of group 0028 to TABLE_INLINE_BYTES_MAX; little endian always
    BulkDataURI     longer ones; Pixel Data of the top level always; FL and FD with NaN or infinity in them, for which
                    JSON has no number; numbers and text beyond TEXT_INLINE_BYTES_MAX, where annex F allows it
    UN              values whose length is no multiple of their number's, and sequences in which no items are

A BulkDataURI is the prefix that the caller gives, and the way to the element: tags, and numbers of items from 1 on.

    PREFIX/7FE00010        PREFIX/54000100/1/54001010

Items of undefined length, implicit VR below UN and what else `elements` forgives is forgiven here too.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from engine._ext import json_model as _ext
from engine.errors import DataSetError

from . import charset, tags
from .elements import INFLATED_BYTES_MAX, SCAN_LIMITS
from .transfer_syntax import TransferSyntax

if TYPE_CHECKING:
    from typing_extensions import Buffer

BINARY_INLINE_BYTES_MAX: Final = 1 << 10
TABLE_INLINE_BYTES_MAX: Final = 4 << 10
"""Palettes and LUTs, which viewers need for the first image, and read from the metadata alone."""
TEXT_INLINE_BYTES_MAX: Final = 64 << 10
"""Of what is text or a number: contours of RT structure sets are seldom longer."""

INFLATED_STEP_BYTES: Final = 1 << 20
"""Of a deflated data set, at first: heads are shorter, but for enhanced multi-frame images."""

_ext.configure(tags.packed())

_LIMITS: Final = (
    BINARY_INLINE_BYTES_MAX,
    TABLE_INLINE_BYTES_MAX,
    TEXT_INLINE_BYTES_MAX,
    SCAN_LIMITS.nesting_depth_max,
    SCAN_LIMITS.element_count_max,
)


class _Writers(threading.local):
    """One writer a thread, with the room that its last data set needed."""

    def __init__(self) -> None:
        self.writer = _ext.Writer(charset.decode, _LIMITS)


_writers: Final = _Writers()


def encode(
    data: Buffer,
    transfer_syntax: TransferSyntax,
    bulk_data: str | None,
    *,
    tail: Buffer = b"",
    may_be_cut: bool = False,
) -> bytes:
    """An instance as one JSON object.

    `data` may end within top-level Pixel Data, its header is enough; `tail` is then what follows it. `bulk_data` is
    what BulkDataURIs begin with, without the last slash; None puts every value inline, but for Pixel Data, which has
    no value then. `may_be_cut`: an instance that ends early is written as far as it goes. Raises DataSetError where
    `data` ends anywhere else or is no data set.
    """
    prefix = None if bulk_data is None else _checked(bulk_data)
    if transfer_syntax.deflated:
        return _encode_deflated(data, transfer_syntax, prefix, tail, may_be_cut)
    return _encode(data, transfer_syntax, prefix, tail, may_be_cut)


def _encode(
    data: Buffer, transfer_syntax: TransferSyntax, prefix: bytes | None, tail: Buffer, may_be_cut: bool
) -> bytes:
    try:
        return _writers.writer.data_set(data, transfer_syntax.encoding, prefix, tail, may_be_cut)
    except _ext.Malformed as error:
        raise DataSetError(str(error)) from None


def _encode_deflated(
    data: Buffer, transfer_syntax: TransferSyntax, prefix: bytes | None, tail: Buffer, may_be_cut: bool
) -> bytes:
    """The same of a deflated data set, of which no more is inflated than is needed to reach Pixel Data."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = b""
    rest = data
    step_bytes = INFLATED_STEP_BYTES
    while True:
        try:
            inflated += inflater.decompress(rest, step_bytes)
        except zlib.error as error:
            raise DataSetError(f"the deflated data set cannot be inflated: {error}") from None
        rest = inflater.unconsumed_tail
        is_all = inflater.eof or not rest or len(inflated) >= INFLATED_BYTES_MAX
        try:
            encoded = _encode(inflated, transfer_syntax, prefix, tail, may_be_cut and is_all)
        except DataSetError:
            if is_all:
                raise
        else:
            if inflater.eof or (may_be_cut and is_all) or _writers.writer.has_pixel_data:
                return encoded
            if is_all:
                raise DataSetError(f"no Pixel Data and no end within {len(inflated)} inflated bytes")
        step_bytes = 3 * len(inflated)


def element_writer() -> Callable[[int, int, Buffer], bytes]:
    """What writes elements one by one, from tag, VR (`vr_number`) and value; for one thread at a time.

    It gives `"GGGGEEEE":{…}` of a value as the index has it: UTF-8, little endian, a sequence in Explicit VR Little
    Endian. Every value is inline; NaN and infinity are null. Items that cannot be read are left out.
    """
    return _ext.Writer(charset.decode, _LIMITS).element


def vr_number(vr: str) -> int:
    """A VR as `element_writer` takes it."""
    return ord(vr[0]) << 8 | ord(vr[1])


def _checked(bulk_data: str) -> bytes:
    if not bulk_data.isascii() or not bulk_data.isprintable() or '"' in bulk_data or "\\" in bulk_data:
        raise ValueError(f"no URI that JSON could hold as it is: {bulk_data!r}")
    return bulk_data.encode("ascii")
