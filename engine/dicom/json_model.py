"""Writes data sets as the DICOM JSON Model (PS3.18 annex F), with our choices where annex F leaves them open.

`encode` writes one instance in one pass over its bytes, in any encoding; only this module imports _ext.json_model.
`model_reader` reads the model.

    keys            8 hexadecimal digits, ascending, each once; no group lengths, no elements of groups 0000 and 0002
    text            UTF-8, without insignificant spaces; (0008,0005), if present or needed, is ISO_IR 192
    VR              from the data set; for none or UN from the dictionary; "US or SS" by Pixel Representation
    DS, IS, SV, UV  numbers if a double holds them exactly (16 digits, 32 bits, 53 bits), else the original text
    FL, FD          the double with the same value
    InlineBinary    up to BINARY_INLINE_BYTES_MAX, tables of group 0028 to TABLE_INLINE_BYTES_MAX; always little endian
    BulkDataURI     longer ones; always for top-level Pixel Data; FL and FD with NaN or infinity, which JSON lacks;
                    numbers and text beyond TEXT_INLINE_BYTES_MAX, where annex F allows it
    UN              values whose length is not a multiple of their number's, and sequences without readable items

A BulkDataURI is the caller's prefix and the path to the element: tags, and numbers of items from 1 on.

    PREFIX/7FE00010        PREFIX/54000100/1/54001010

Items of undefined length, implicit VR below UN and all other deviations that `elements` tolerates are tolerated too.
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
"""Palettes and LUTs: viewers need them for the first image, and read only the metadata."""
TEXT_INLINE_BYTES_MAX: Final = 64 << 10
"""Limit for texts and numbers: contours of RT structure sets are rarely longer."""

INFLATED_STEP_BYTES: Final = 1 << 20
"""The first step of inflating a data set: only heads of enhanced multi-frame images are longer."""

_ext.configure(tags.packed())

_LIMITS: Final = (
    BINARY_INLINE_BYTES_MAX,
    TABLE_INLINE_BYTES_MAX,
    TEXT_INLINE_BYTES_MAX,
    SCAN_LIMITS.nesting_depth_max,
    SCAN_LIMITS.element_count_max,
)


class _Writers(threading.local):
    """One writer for each thread; its buffer has the size that its last data set needed."""

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

    `data` may end within top-level Pixel Data, right after its header at the earliest; `tail` is then the part of the
    data set after Pixel Data. `bulk_data` is the prefix of BulkDataURIs, without the last slash; None puts every value
    inline, and Pixel Data then has no value. With `may_be_cut`, an instance that ends early is written up to its end.
    Raises DataSetError if `data` ends anywhere else or is not a data set.
    """
    prefix = None if bulk_data is None else _check_uri(bulk_data)
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
    """The same for a deflated data set. Inflates only as much as it needs to reach Pixel Data."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = b""
    pending = data
    step_bytes = INFLATED_STEP_BYTES
    while True:
        try:
            inflated += inflater.decompress(pending, step_bytes)
        except zlib.error as error:
            raise DataSetError(f"the deflated data set cannot be inflated: {error}") from None
        pending = inflater.unconsumed_tail
        is_all = inflater.eof or not pending or len(inflated) >= INFLATED_BYTES_MAX
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
    """A function that writes one element from tag, VR (`vr_number`) and value; for one thread at a time.

    It returns `"GGGGEEEE":{…}` for a value of the index: UTF-8, little endian, a sequence in Explicit VR Little Endian.
    Every value is inline; NaN and infinity are null. Unreadable items are left out.
    """
    return _ext.Writer(charset.decode, _LIMITS).element


def vr_number(vr: str) -> int:
    """A VR as the number that `element_writer` needs."""
    return ord(vr[0]) << 8 | ord(vr[1])


def _check_uri(bulk_data: str) -> bytes:
    if not bulk_data.isascii() or not bulk_data.isprintable() or '"' in bulk_data or "\\" in bulk_data:
        raise ValueError(f"a URI prefix that would need escapes in JSON: {bulk_data!r}")
    return bulk_data.encode("ascii")
