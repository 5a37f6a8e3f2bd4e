"""Describes what differs between a version and the current instance of its UID: `filmroom quarantine diff`.

    element       path of keywords, from the root down: RequestAttributesSequence[1].RequestedProcedureID
    what          "another value", "only in the version", "only in the current one", "pixels", "same pixels"
    version, current    the values; of a sequence how many items, of bytes how many and the first of them

Pixels are decoded if both compressions are lossless, and compared sample by sample once both are native. The output
shows the contents of the data sets, names included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from engine.archive import likeness
from engine.archive.archive import Archive
from engine.archive.lifecycle.quarantine import KEPT_ASIDE, Kept
from engine.archive.lifecycle.resent import Judge
from engine.archive.likeness import OF_PIXELS, Side
from engine.dicom import charset, plain_values, tags
from engine.dicom.comparison import PIECE_BYTES, Comparison, Difference, is_pixels
from engine.dicom.content import Contents, Element
from engine.dicom.identifier import BINARY_VRS
from engine.errors import QuarantineError, TranscodeError

TEXT_BYTES_MAX: Final = 1024
"""Limit for a value that is shown."""
BYTES_SHOWN: Final = 16


@dataclass(frozen=True, slots=True)
class Differs:
    """One element that differs; `current` or `version` is "" if it lacks the element."""

    element: str
    vr: str
    what: str
    current: str
    version: str


def differences(archive: Archive, kept: Kept, judge: Judge) -> Iterator[Differs]:
    """All differences, in the order of the tags. Raises QuarantineError, DataSetError, CorruptRecord."""
    if kept.kind != KEPT_ASIDE:
        raise QuarantineError("bytes that could not be parsed are no version of anything: there is nothing to compare")
    current = archive.parts.index.locate(kept.instance.sop_instance_uid.encode())
    if current is None:
        raise QuarantineError("no instance of this SOP Instance UID is current: there is nothing to compare with")
    try:
        left, right = [judge.side(archive.retrieval.open(each), each) for each in (current, kept.instance)]
    except TranscodeError as error:
        raise QuarantineError(f"it cannot be compared: {error}") from error
    rows = list(Comparison(left.contents(), right.contents()).differences())
    packed = [side for side in (left, right) if side.syntax.encapsulated]
    can_decode = packed and all(side.syntax.uid in likeness.LOSSLESS for side in packed)
    if not can_decode or not any(is_pixels(difference) for difference in rows):
        yield from _shown(rows, left, right)
        return
    try:
        native = [judge.decoded(side) if side.syntax.encapsulated else side for side in (left, right)]
    except TranscodeError:
        yield from _shown(rows, left, right)
        return
    rest = [each for each in rows if each.path or _tag(each) not in OF_PIXELS]
    yield from _shown(rest, left, right)
    of_pixels = [
        each
        for each in Comparison(native[0].contents(), native[1].contents()).differences()
        if not each.path and _tag(each) in OF_PIXELS
    ]
    yield from _shown(of_pixels, *native)
    if not any(is_pixels(each) for each in of_pixels):
        yield Differs("PixelData", "OW", "same pixels", left.syntax.name, right.syntax.name)


# Inside ------------------------------------------------------------------------------------------


def _tag(difference: Difference) -> int:
    element = difference.left or difference.right
    return element.tag if element is not None else 0


def _shown(found: list[Difference], left: Side, right: Side) -> Iterator[Differs]:
    first, second = left.contents(), right.contents()
    for each in found:
        element = each.left or each.right
        what = "another value"
        if each.left is None and each.right is None:
            what = "bytes behind the end"
        elif each.left is None:
            what = "only in the version"
        elif each.right is None:
            what = "only in the current one"
        texts = [_text(contents, side) for contents, side in ((first, each.left), (second, each.right))]
        if is_pixels(each) and each.left is not None and each.right is not None:
            what = "pixels"
            texts = [*_pixels(first, each.left, second, each.right)] or texts
        yield Differs(each.name, element.vr if element is not None else "", what, texts[0], texts[1])


def _text(contents: Contents, element: Element | None) -> str:
    """A value as a person reads it."""
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


def _pixels(left: Contents, here: Element, right: Contents, there: Element) -> tuple[str, ...]:
    """How many samples differ and by how much at most; empty if the two cannot be compared sample by sample."""
    bits = {_number(left, tags.BitsAllocated), _number(right, tags.BitsAllocated)}
    if (
        here.has_fragments
        or there.has_fragments
        or here.length != there.length
        or len(bits) != 1
        or not bits <= {8, 16}
    ):
        return ()
    import numpy as np

    is_signed = _number(left, tags.PixelRepresentation) == 1
    kind = np.dtype(("<i" if is_signed else "<u") + str(bits.pop() // 8))
    count = largest = 0
    whole = here.length - here.length % kind.itemsize
    for at in range(0, whole, PIECE_BYTES):
        length = min(PIECE_BYTES, whole - at)
        first, second = [
            np.frombuffer(contents.value(element, at, length), kind).astype(np.int32)
            for contents, element in ((left, here), (right, there))
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
