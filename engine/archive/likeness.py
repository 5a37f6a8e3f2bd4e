"""Tells whether two instances of one UID have the same content, by `dicom.comparison`, decoding them if necessary.

    native, or both in one syntax         element by element; fragments by their bytes
    others, compressed without loss       the rest of the data set first, then both with decoded pixels
    others, compressed with loss          not the same
    unreadable, or cannot be decoded      not the same

The reason of a tombstone that retires a version records the result, so that the same bytes need not be stored and
compared again when they are re-sent: "the same content as the version of stamp STAMP; sha256 DIGEST".

"Same" means that everything has been read and compared. Memory is bounded, whatever the lengths are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from engine.dicom.comparison import Comparison
from engine.dicom.content import ELEMENTS_MAX, PIXEL_DATA, Contents
from engine.dicom.sources import Source
from engine.dicom.transfer_syntax import TransferSyntax
from engine.errors import DataSetError, TranscodeError
from engine.index.format.types import Instance

if TYPE_CHECKING:
    from typing_extensions import Buffer

BY: Final = "resent"
"""The actor in the tombstones of retired versions."""

LOSSLESS: Final = frozenset(
    {
        "1.2.840.10008.1.2.1.98",
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.201",
        "1.2.840.10008.1.2.4.202",
        "1.2.840.10008.1.2.5",
    }
)
"""Transfer syntaxes of lossless compression, which are decoded here."""

OF_PIXELS: Final = frozenset({PIXEL_DATA, 0x00280004, 0x00280006, 0x7FE00001, 0x7FE00002})
"""Attributes that depend on the compression: Pixel Data and the description of its samples and offsets."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of two data sets, not deflated."""

    source: Source
    syntax: TransferSyntax

    def contents(self, elements_max: int = ELEMENTS_MAX) -> Contents:
        """Its elements."""
        return Contents(self.source, self.syntax, elements_max=elements_max)


Decode: TypeAlias = Callable[[Side], Side]
"""The same data set with native pixels. Raises TranscodeError."""


def may_be_same(left: Instance, right: Instance) -> bool:
    """Whether their index entries show no difference."""
    return (left.sop_class_uid, left.sop_instance_uid, left.series_instance_uid, left.study_instance_uid) == (
        right.sop_class_uid,
        right.sop_instance_uid,
        right.series_instance_uid,
        right.study_instance_uid,
    )


def is_same(left: Side, right: Side, *, decode: Decode | None = None, elements_max: int = ELEMENTS_MAX) -> bool:
    """Whether both have the same content. Without `decode` nothing is decoded. Raises what reading them raises."""
    try:
        return _is_same(left, right, decode, elements_max)
    except (DataSetError, TranscodeError):
        return False


def _is_same(left: Side, right: Side, decode: Decode | None, elements_max: int) -> bool:
    def has_same_content(one: Side, other: Side, without: frozenset[int] = frozenset()) -> bool:
        return Comparison(one.contents(elements_max), other.contents(elements_max), without=without).is_same

    if has_same_content(left, right):
        return True
    packed = [side for side in (left, right) if side.syntax.encapsulated]
    if decode is None or not packed or any(side.syntax.uid not in LOSSLESS for side in packed):
        return False
    if not has_same_content(left, right, OF_PIXELS):
        return False
    left, right = [decode(side) if side.syntax.encapsulated else side for side in (left, right)]
    return has_same_content(left, right)


_REASON: Final = re.compile(r"the same content as the version of stamp (\d+); sha256 ([0-9a-f]{64})")


def digest_of(transfer_syntax_uid: str, pieces: Iterable[Buffer]) -> str:
    """The SHA-256 of a data set's bytes and its transfer syntax."""
    digest = hashlib.sha256(transfer_syntax_uid.encode() + b"\0")
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def reason_of(stamp: int, digest: str) -> str:
    """The reason for retiring a version whose content is that of the version with this stamp."""
    return f"the same content as the version of stamp {stamp}; sha256 {digest}"


def read_reason(by: bytes, reason: bytes) -> tuple[int, str] | None:
    """The stamp and digest in a tombstone that retired a version; None for any other tombstone."""
    match = _REASON.fullmatch(reason.decode("utf-8", "replace")) if by == BY.encode() else None
    return (int(match[1]), match[2]) if match is not None else None
