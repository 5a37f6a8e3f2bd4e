"""The slow, obvious twin of ext/elements.pyx: recursive, on bytes and lists, with no thought for speed.

It follows the rules written in dicom.elements, ext/dataset.pxd and ext/reencode.pxd and shares no code with them but
the dictionary and the tables of attributes. Broken means what Malformed means there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.dicom import attributes, tags
from engine.dicom.transfer_syntax import BIG_ENDIAN, EXPLICIT_VR

UNDEFINED = 0xFFFFFFFF
LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
SHORT = {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM"}
SHORT |= {"UI", "UL", "US"}
LETTERS = frozenset(range(0x41, 0x5B))
UNITS = {
    **dict.fromkeys(("US", "SS", "OW", "AT", "US or SS"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OF", "OL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


class Broken(Exception):
    """No data set. `early`: it ends within an element."""

    def __init__(self, early: bool) -> None:
        super().__init__("ends early" if early else "misplaced")
        self.early = early


@dataclass
class Header:
    tag: int
    vr: str
    length: int
    value: int


@dataclass
class Head:
    character_set: bytes = b""
    levels: list[bytes] = field(default_factory=list)
    uids: list[bytes] = field(default_factory=list)
    pixel_data_offset: int = -1
    is_cut: bool = False


def is_long(vr: str) -> bool:
    """Whether a length of four bytes follows: all but those of PS3.5 that have two, those to come too."""
    return vr not in SHORT


def odd_length_bytes(data: bytes, offset: int, encoding: int) -> int:
    """How long the length is behind two characters that are no VR; 0 where nothing stands for one."""
    letters = data[offset + 4 : offset + 6]
    if letters in (b"ox", b"lt"):
        return 4
    if number(data[offset : offset + 2], encoding) == 0x7FE0:
        return 0
    if letters == b"\0\0":
        return 0 if encoding & BIG_ENDIAN or data[offset + 6 : offset + 8] == b"\0\0" else 2
    text = letters.decode("latin-1")
    is_twice = letters[0] == letters[1] and 0x20 <= letters[0] <= 0x7E
    return 2 if is_twice or (text.isascii() and text.isalnum()) else 0


def number(data: bytes, encoding: int) -> int:
    return int.from_bytes(data, "big" if encoding & BIG_ENDIAN else "little")


def header_at(data: bytes, offset: int, end: int, encoding: int) -> Header:
    if end - offset < 8:
        raise Broken(True)
    tag = number(data[offset : offset + 2], encoding) << 16 | number(data[offset + 2 : offset + 4], encoding)
    letters = data[offset + 4 : offset + 6]
    implicit = Header(tag, "", number(data[offset + 4 : offset + 8], encoding), offset + 8)
    if not encoding & EXPLICIT_VR or tag >> 16 == 0xFFFE:
        return implicit
    vr = letters.decode() if set(letters) <= LETTERS else ""
    length_bytes = (4 if is_long(vr) else 2) if vr else odd_length_bytes(data, offset, encoding)
    if length_bytes == 0:
        return implicit
    if length_bytes == 2:
        return Header(tag, vr, number(data[offset + 6 : offset + 8], encoding), offset + 8)
    if end - offset < 12:
        raise Broken(True)
    return Header(tag, vr, number(data[offset + 8 : offset + 12], encoding), offset + 12)


def says_explicit(data: bytes, offset: int, end: int, encoding: int) -> bool:
    return end - offset >= 8 and (
        set(data[offset + 4 : offset + 6]) <= LETTERS or odd_length_bytes(data, offset, encoding) > 0
    )


def agreement(data: bytes, offset: int, end: int | None, encoding: int, look: int) -> str:
    """Whether what looks like an explicit element at the beginning of a data set is one: what follows it tells."""
    seen = data[: min(len(data), offset + look)]
    try:
        first = header_at(seen, offset, len(seen), encoding | EXPLICIT_VR)
    except Broken:
        return "unseen"
    at = first.value
    if at == offset + 12 and seen[offset + 6 : offset + 8] != b"\0\0":
        return "no"
    if first.length == UNDEFINED or (first.vr == "SQ" and first.length):
        if len(seen) < at + 4:
            return "unseen"
        return "yes" if number(seen[at : at + 2], encoding) == 0xFFFE else "no"
    if first.length > (0x20000000 if end is None else end - at):
        return "no"
    at += first.length
    if len(seen) < at + 8:
        return "yes" if at == len(seen) < offset + look else "unseen"
    second = number(seen[at : at + 2], encoding) << 16 | number(seen[at + 2 : at + 4], encoding)
    if second >> 16 == 0xFFFE:
        return "yes" if second == ITEM_END else "no"
    if seen[at + 4 : at + 6].decode("latin-1") in LONG | SHORT:
        return "yes" if second > first.tag else "perhaps"
    if second <= first.tag or second >> 16 != first.tag >> 16:
        return "no"
    return "perhaps" if says_explicit(seen, at, len(seen), encoding) else "no"


def sniff_root(data: bytes, encoding: int) -> int:
    if len(data) < 8:
        return encoding
    if not set(data[4:6]) <= LETTERS:
        looks_explicit = encoding & EXPLICIT_VR and says_explicit(data, 0, len(data), encoding)
        return encoding if looks_explicit else encoding & ~EXPLICIT_VR
    answer = agreement(data, 0, None, encoding, 24 if encoding & EXPLICIT_VR else 112)
    if encoding & EXPLICIT_VR:
        return encoding & ~EXPLICIT_VR if answer == "no" and not encoding & BIG_ENDIAN else encoding
    is_short = data[4:6].decode() in SHORT
    return encoding | EXPLICIT_VR if answer == "yes" or (answer == "unseen" and is_short) else encoding


def sniff_item(data: bytes, offset: int, end: int | None, encoding: int) -> int:
    """`end` is None within items that nothing of defined length is around."""
    if not encoding & EXPLICIT_VR or (len(data) if end is None else end) - offset < 8:
        return encoding
    implicit = header_at(data, offset, len(data), encoding & ~EXPLICIT_VR)
    if implicit.tag >> 16 == 0xFFFE:
        return encoding
    if not says_explicit(data, offset, len(data), encoding):
        return encoding & ~EXPLICIT_VR
    if encoding & BIG_ENDIAN or (end is not None and implicit.length > end - implicit.value):
        return encoding
    return encoding & ~EXPLICIT_VR if agreement(data, offset, end, encoding, 24) == "no" else encoding


def end_of_sequence(data: bytes, offset: int, end: int, encoding: int) -> int:
    """After the delimiter of the sequence whose first item is at the offset."""
    while True:
        header = header_at(data, offset, end, encoding)
        if header.tag == SEQUENCE_END:
            return header.value
        if header.tag != ITEM:
            raise Broken(False)
        if header.length == UNDEFINED:
            offset = end_of_item(data, header.value, end, sniff_item(data, header.value, None, encoding))
        else:
            offset = after(header, end)


def end_of_item(data: bytes, offset: int, end: int, encoding: int) -> int:
    while True:
        header = header_at(data, offset, end, encoding)
        if header.tag == ITEM_END:
            return header.value
        if header.length == UNDEFINED and header.tag >> 16 == 0xFFFE:
            raise Broken(False)
        if header.length == UNDEFINED:
            offset = end_of_sequence(data, header.value, end, encoding)
        else:
            offset = after(header, end)


def after(header: Header, end: int) -> int:
    if header.length > end - header.value:
        raise Broken(True)
    return header.value + header.length


def elements(data: bytes, encoding: int) -> list[tuple[int, str, int, int]]:
    """(tag, VR on the wire, value offset, value length) of a data set's top level."""
    found = []
    offset = 0
    while len(data) - offset >= 8:
        header = header_at(data, offset, len(data), encoding)
        if header.length == UNDEFINED:
            offset = end_of_sequence(data, header.value, len(data), encoding)
            length = offset - 8 - header.value
        else:
            offset, length = after(header, len(data)), header.length
        found.append((header.tag, header.vr, header.value, length))
    return found


def head_of(data: bytes, encoding: int) -> Head:
    encoding = sniff_root(data, encoding)
    beside = {tags.SpecificCharacterSet, tags.SamplesPerPixel}
    wanted = {tag for level in attributes.LEVELS for tag in level} | beside
    found: dict[int, tuple[Header, bytes]] = {}
    head = Head()
    offset = highest = before = 0
    while True:
        try:
            header = header_at(data, offset, len(data), encoding)
        except Broken:
            head.is_cut = is_cut_header(data[offset:], before, head.pixel_data_offset >= 0, encoding)
            break
        if header.tag == ITEM_END:
            break
        is_behind = head.pixel_data_offset >= 0
        if is_behind and not may_follow_pixels(header, before, encoding):
            break
        is_pixels = header.tag in attributes.PIXEL_DATA
        if is_pixels and not is_behind:
            head.pixel_data_offset = offset
        before, highest = header.tag, max(highest, header.tag)
        try:
            if header.length == UNDEFINED:
                offset = end_of_sequence(data, header.value, len(data), encoding)
                value = data[header.value : offset - 8]
            else:
                offset = after(header, len(data))
                value = data[header.value : offset]
        except Broken as error:
            if error.early:
                head.is_cut = True
            elif head.pixel_data_offset < 0 and highest <= max(wanted):
                raise
            break
        if header.tag in wanted and head.pixel_data_offset < 0:
            found[header.tag] = (header, value)
    values = kept_values(found, encoding)
    head.character_set = values.get(tags.SpecificCharacterSet, b"")
    identifying = (tags.SOPClassUID, tags.SOPInstanceUID, tags.StudyInstanceUID, tags.SeriesInstanceUID)
    head.uids = [values.get(tag, b"") for tag in identifying]
    head.levels = [blob({tag: values[tag] for tag in level if tag in values}) for level in attributes.LEVELS]
    return head


def is_cut_header(rest: bytes, before: int, is_behind_pixels: bool, encoding: int) -> bool:
    if not rest.strip(b"\0") or (before >> 16 > 0x20 and not rest.strip(b" \r\n")):
        return False
    tag = number(rest[:2], encoding) << 16 | number(rest[2:4], encoding) if len(rest) >= 4 else 0
    if len(rest) >= 4 and tag <= before:
        return False
    return not is_behind_pixels or tag in (0xFFFAFFFA, 0xFFFCFFFC)


def may_follow_pixels(header: Header, before: int, encoding: int) -> bool:
    if header.tag <= before:
        return False
    if header.tag >> 16 == 0x7FE0 or header.tag in (0xFFFAFFFA, 0xFFFCFFFC):
        return bool(header.vr) or not encoding & EXPLICIT_VR
    return header.vr in LONG | SHORT if header.vr else header.tag >> 16 == 0x7FE1


def blob(values: dict[int, bytes]) -> bytes:
    return b"".join(
        tag.to_bytes(4, "little") + len(values[tag]).to_bytes(4, "little") + values[tag] for tag in sorted(values)
    )


def kept_values(found: dict[int, tuple[Header, bytes]], encoding: int) -> dict[int, bytes]:
    """What blobs hold of the values, all together within their bound."""
    for value_share, sequence_share in ((1, 1), (1, 8), (8, 8), (32, 32), (128, 128)):
        bounds = attributes.VALUE_BYTES_MAX // value_share, attributes.SEQUENCE_BYTES_MAX // sequence_share
        every = {tag: kept(header, value, encoding, bounds) for tag, (header, value) in found.items()}
        values = {tag: value for tag, value in every.items() if value is not None}
        if sum(8 + len(value) for value in values.values()) <= attributes.BLOBS_BYTES_MAX:
            break
    return values


def kept(header: Header, value: bytes, encoding: int, bounds: tuple[int, int]) -> bytes | None:
    """What a blob holds of a value; None if it is of no use."""
    listed = tags.dictionary_vr(header.tag)
    if listed == "SQ":
        if header.vr not in ("SQ", "UN", ""):
            return None
        return sequence_bytes(value, encoding & ~EXPLICIT_VR if header.vr == "UN" else encoding, bounds[1])
    if header.length == UNDEFINED:
        return None
    wire = listed if header.vr in ("", "UN") else header.vr
    if wire in ("SQ", "OB") or (wire in UNITS) != (listed in UNITS):
        return None
    value = value[: bounds[0]]
    if listed not in UNITS:
        return value.rstrip(b" \0")
    return swapped(value, UNITS[wire]) if encoding & BIG_ENDIAN else value


def swapped(value: bytes, unit: int) -> bytes:
    whole = len(value) - len(value) % unit
    return b"".join(value[i : i + unit][::-1] for i in range(0, whole, unit)) + value[whole:]


def sequence_bytes(value: bytes, encoding: int, bytes_max: int) -> bytes | None:
    """The items in Explicit VR Little Endian; shortened, the leading ones that have room; None if none or malformed."""
    looked_at = value[: 16 * attributes.SEQUENCE_BYTES_MAX]
    is_all = len(looked_at) == len(value)
    for brief in (False, True):
        kept_items = b""
        is_full = False
        try:
            for item in items_of(looked_at, 0, len(looked_at), encoding, brief):
                if len(kept_items) + len(item) > bytes_max:
                    is_full = True
                    break
                kept_items += item
        except Broken as error:
            if is_all or not error.early:
                # The longer form may have been left before it came to what is broken.
                if not brief:
                    continue
                return None
            is_full = True
        if not is_full:
            return kept_items if not brief else kept_items or None
    return kept_items or None


def items_of(data: bytes, offset: int, end: int, encoding: int, brief: bool = False) -> Iterator[bytes]:
    """Each item of a sequence value, in Explicit VR Little Endian, its own header included."""
    while offset < end:
        header = header_at(data, offset, end, encoding)
        if header.tag == SEQUENCE_END:
            offset = header.value
            continue
        if header.tag != ITEM:
            raise Broken(False)
        if header.length == UNDEFINED:
            within = sniff_item(data, header.value, end, encoding)
            offset = end_of_item(data, header.value, end, within)
            body = data_set_bytes(data, header.value, offset - 8, within, brief)
            yield wrap(ITEM, "", body, True) + b"\xfe\xff\x0d\xe0" + bytes(4)
        else:
            offset = after(header, end)
            within = sniff_item(data, header.value, offset, encoding)
            yield wrap(ITEM, "", data_set_bytes(data, header.value, offset, within, brief), False)


def data_set_bytes(data: bytes, offset: int, end: int, encoding: int, brief: bool = False) -> bytes:
    """The elements of data[offset:end] in Explicit VR Little Endian; brief: no sequences, private and long ones."""
    out = b""
    while offset < end:
        header = header_at(data, offset, end, encoding)
        undefined = header.length == UNDEFINED
        if header.tag >> 16 == 0xFFFE or not header.tag & 0xFFFF:
            if undefined:
                raise Broken(False)
            offset = after(header, end)
            continue
        if undefined:
            if not brief and (header.vr in ("OB", "OW") or header.tag == tags.PixelData):
                raise Broken(False)
            offset = end_of_sequence(data, header.value, end, encoding)
            value = data[header.value : offset - 8]
        else:
            offset = after(header, end)
            value = data[header.value : offset]
        is_items = header.vr == "SQ" or undefined or (not header.vr and is_sequence(header, value, encoding))
        if brief and (is_items or header.tag & 0x10000 or header.length > 256):
            continue
        if is_items:
            body = b"".join(items_of(value, 0, len(value), encoding))
            out += wrap(header.tag, "SQ", body, undefined)
            if undefined:
                out += b"\xfe\xff\xdd\xe0" + bytes(4)
        else:
            vr = header.vr or plain_vr(header.tag)
            out += wrap(header.tag, vr, swapped(value, UNITS.get(vr, 1)) if encoding & BIG_ENDIAN else value, False)
    return out


def is_sequence(header: Header, value: bytes, encoding: int) -> bool:
    if tags.dictionary_vr(header.tag) != "SQ":
        return False
    return not value or (len(value) >= 8 and header_at(value, 0, len(value), encoding).tag == ITEM)


def plain_vr(tag: int) -> str:
    """Of an implicit element that is no sequence, where nothing decides the open choices."""
    vr = tags.vr_of(tag)
    return "UN" if vr == "SQ" else vr


def wrap(tag: int, vr: str, value: bytes, undefined: bool) -> bytes:
    start = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    length = UNDEFINED if undefined else len(value)
    if not vr:
        return start + length.to_bytes(4, "little") + value
    if not is_long(vr) and length > 0xFFFF:
        vr = "UN"
    if is_long(vr):
        return start + vr.encode() + b"\0\0" + length.to_bytes(4, "little") + value
    return start + vr.encode() + length.to_bytes(2, "little") + value
