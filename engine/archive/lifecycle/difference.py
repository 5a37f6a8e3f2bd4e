"""Describes the differences between a version and the current instance of its UID: `filmroom quarantine diff`.

    element       path of keywords, from the root down: RequestAttributesSequence[1].RequestedProcedureID
    what          "another value", "only in the version", "only in the current one", "pixels", "same pixels"
    version, current    the values; for a sequence the number of items, for bytes the number and the first of them

Pixels are decoded if both compressions are lossless, and compared sample by sample once both are native. The output
shows the contents of the data sets, names included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from engine.archive import likeness
from engine.archive.archive import Archive
from engine.archive.lifecycle.quarantine import KEPT_ASIDE, QuarantineItem
from engine.archive.lifecycle.resent import Judge
from engine.archive.likeness import OF_PIXELS, Side
from engine.dicom import charset, plain_values, tags
from engine.dicom.comparison import PIECE_BYTES, Comparison, Difference, is_pixels
from engine.dicom.content import Contents, Element
from engine.dicom.identifier import BINARY_VRS
from engine.errors import QuarantineError, TranscodeError

TEXT_BYTES_MAX: Final = 1024
"""Limit for the text of a value."""
BYTES_SHOWN: Final = 16


@dataclass(frozen=True, slots=True)
class Differs:
    """A difference in one element; `current` or `version` is "" if it lacks the element."""

    element: str
    vr: str
    what: str
    current: str
    version: str


def differences(archive: Archive, item: QuarantineItem, judge: Judge) -> Iterator[Differs]:
    """All differences, in the order of the tags. Raises QuarantineError, DataSetError, CorruptRecord."""
    if item.kind != KEPT_ASIDE:
        raise QuarantineError("unparseable bytes are no version of an instance: there is nothing to compare")
    current = archive.parts.index.locate(item.instance.sop_instance_uid.encode())
    if current is None:
        raise QuarantineError("this SOP Instance UID has no current instance: there is nothing to compare with")
    try:
        left, right = [judge.side(archive.retrieval.open(instance), instance) for instance in (current, item.instance)]
    except TranscodeError as error:
        raise QuarantineError(f"the versions cannot be compared: {error}") from error
    rows = list(Comparison(left.contents(), right.contents()).differences())
    packed = [side for side in (left, right) if side.syntax.encapsulated]
    can_decode = packed and all(side.syntax.uid in likeness.LOSSLESS for side in packed)
    if not can_decode or not any(is_pixels(difference) for difference in rows):
        yield from _described(rows, left, right)
        return
    try:
        native = [judge.decoded(side) if side.syntax.encapsulated else side for side in (left, right)]
    except TranscodeError:
        yield from _described(rows, left, right)
        return
    rest = [row for row in rows if row.path or _tag(row) not in OF_PIXELS]
    yield from _described(rest, left, right)
    of_pixels = [
        row
        for row in Comparison(native[0].contents(), native[1].contents()).differences()
        if not row.path and _tag(row) in OF_PIXELS
    ]
    yield from _described(of_pixels, *native)
    if not any(is_pixels(row) for row in of_pixels):
        yield Differs("PixelData", "OW", "same pixels", left.syntax.name, right.syntax.name)


# Inside ------------------------------------------------------------------------------------------


def _tag(difference: Difference) -> int:
    element = difference.left or difference.right
    return element.tag if element is not None else 0


def _described(rows: list[Difference], left: Side, right: Side) -> Iterator[Differs]:
    first, second = left.contents(), right.contents()
    for difference in rows:
        element = difference.left or difference.right
        kind = "another value"
        if difference.left is None and difference.right is None:
            kind = "bytes after the end"
        elif difference.left is None:
            kind = "only in the version"
        elif difference.right is None:
            kind = "only in the current one"
        texts = [_text(contents, side) for contents, side in ((first, difference.left), (second, difference.right))]
        if is_pixels(difference) and difference.left is not None and difference.right is not None:
            kind = "pixels"
            texts = [*_pixels(first, difference.left, second, difference.right)] or texts
        yield Differs(difference.name, element.vr if element is not None else "", kind, texts[0], texts[1])


def _text(contents: Contents, element: Element | None) -> str:
    """A value as text for people."""
    if element is None:
        return ""
    if element.has_fragments:
        return f"{len(contents.fragments(element)) - 1} fragments, {element.length} bytes"
    if element.has_items:
        count = sum(1 for _ in contents.items(element))
        return f"{count} item{'s' * (count != 1)}"
    value = contents.value(element, 0, TEXT_BYTES_MAX)
    if element.vr in ("OB", "OW", "OF", "OD", "OL", "OV", "UN"):
        return f"{element.length} bytes: {value[:BYTES_SHOWN].hex(' ')}{' …' * (element.length > BYTES_SHOWN)}"
    if element.vr in BINARY_VRS:
        return plain_values.text_of(element.tag, value)
    more = "…" if element.length > TEXT_BYTES_MAX else ""
    return charset.decode(value, _character_set(contents), element.vr).rstrip(" \0") + more


def _character_set(contents: Contents) -> bytes:
    for element in contents.root()[0]:
        if element.tag == tags.SpecificCharacterSet:
            return contents.value(element, 0, TEXT_BYTES_MAX)
    return b""


def _pixels(left: Contents, left_element: Element, right: Contents, right_element: Element) -> tuple[str, ...]:
    """Number of different samples, and the largest difference; empty if samples cannot be compared one by one."""
    bits = {_number(left, tags.BitsAllocated), _number(right, tags.BitsAllocated)}
    if (
        left_element.has_fragments
        or right_element.has_fragments
        or left_element.length != right_element.length
        or len(bits) != 1
        or not bits <= {8, 16}
    ):
        return ()
    import numpy as np

    is_signed = _number(left, tags.PixelRepresentation) == 1
    kind = np.dtype(("<i" if is_signed else "<u") + str(bits.pop() // 8))
    count = largest = 0
    whole = left_element.length - left_element.length % kind.itemsize
    for at in range(0, whole, PIECE_BYTES):
        length = min(PIECE_BYTES, whole - at)
        first, second = [
            np.frombuffer(contents.value(element, at, length), kind).astype(np.int32)
            for contents, element in ((left, left_element), (right, right_element))
        ]
        difference = np.abs(first - second)
        count += int(np.count_nonzero(difference))
        largest = max(largest, int(difference.max(initial=0)))
    return f"{whole // kind.itemsize} samples", f"{count} samples differ, by {largest} at most"


def _number(contents: Contents, tag: int) -> int:
    for element in contents.root()[0]:
        if element.tag == tag and element.length >= 2:
            return int.from_bytes(contents.value(element, 0, 2), "little")
    return -1
