"""Reads the DICOM JSON Model from a peer, and encodes it in Explicit VR Little Endian (PS3.18 annex F).

`parse` returns plain dictionaries, which the caller may change; `draft` checks and encodes them. Errors name an
attribute by its path, and never repeat its value. `xml_model` makes the same dictionaries.

    Draft.pieces    bytes, BulkData, bytes, …    replace each BulkData by the header and value of its element
                                                 (`BulkData.header`)

Refused, because the result would not be what the sender meant: VRs that are not in PS3.5; values of the wrong type, out
of range, or with a backslash that would separate values. Accepted: numbers as text where annex F allows it, and NaN for
FL and FD (there is no other way to write it); person names as plain text, tags in lower case, empty strings for null,
InlineBinary in a list, unknown keys beside vr. Text is written in UTF-8. A value that is too long for the length field
of its VR gets the VR UN (PS3.5 6.2.2). Sequences that contain bulk data have undefined length.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from engine.errors import DataSetError

from . import charset, tags
from .identifier import LONG_VRS, NUMBER_BYTES, form_of
from .transfer_syntax import EXPLICIT_VR
from .values import SINGLE_VALUE_VRS

NESTING_MAX: Final = 128
"""Sequences within sequences, as for stored data sets (`elements.ScanLimits`)."""
ATTRIBUTE_COUNT_MAX: Final = 200_000
"""Attributes and items of one data set; each takes several Python objects."""
VALUE_COUNT_MAX: Final = 10 * ATTRIBUTE_COUNT_MAX
"""Values of one text: 2 MB of text become 100 MB of Python objects."""

Model: TypeAlias = "dict[str, Any]"
"""Tag as 8 hexadecimal digits → attribute as JSON."""

_ENCODING: Final = EXPLICIT_VR
_NUMBER_FORMS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_BYTES_VRS: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_TEXT_VRS: Final = frozenset((*charset.TEXT_VRS, "AE", "AS", "CS", "DA", "DT", "TM", "UI", "UR"))
_VRS: Final = frozenset((*_NUMBER_FORMS, *_BYTES_VRS, *_TEXT_VRS, "AT", "DS", "IS", "SQ"))
_NAME_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}", re.ASCII)
_UID: Final = re.compile(r"[0-9.]{0,64}", re.ASCII)
_INTEGER: Final = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_SPECIAL_FLOATS: Final = {
    "nan": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf, "-infinity": -math.inf,
}  # fmt: skip
_DECIMAL_CHARACTERS_MAX: Final = 16
_SEQUENCE_END: Final = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_ITEM_END: Final = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
_CONTROLS: Final = re.compile(r"[\0\x1b]")


class BulkData(NamedTuple):
    """A value that is not in the model itself; its URI says where it is."""

    tag: int
    vr: str
    uri: str

    def header(self, length: int) -> bytes:
        """The header of the element for a value of `length` bytes, an even number."""
        start = struct.pack("<HH", self.tag >> 16, self.tag & 0xFFFF)
        if self.vr in LONG_VRS:
            return start + self.vr.encode("ascii") + struct.pack("<2xI", length)
        if length <= 0xFFFE:
            return start + self.vr.encode("ascii") + struct.pack("<H", length)
        return start + b"UN" + struct.pack("<2xI", length)


@dataclass(frozen=True, slots=True)
class Draft:
    """A data set in Explicit VR Little Endian, with gaps where bulk data belongs."""

    pieces: tuple[bytes | BulkData, ...]
    """In order; adjacent bytes are one piece."""
    file_meta: Mapping[int, bytes]
    """The model's elements of group 0002, which is not part of a data set: values by tag."""

    @property
    def bulk_data(self) -> list[BulkData]:
        """The gaps."""
        return [piece for piece in self.pieces if isinstance(piece, BulkData)]

    def whole(self, value_of: Callable[[BulkData], bytes]) -> bytes:
        """The data set with its gaps filled; values of odd length are padded."""
        parts: list[bytes] = []
        for piece in self.pieces:
            if isinstance(piece, bytes):
                parts.append(piece)
                continue
            value = value_of(piece)
            value += _padding(piece.vr) * (len(value) % 2)
            parts += [piece.header(len(value)), value]
        return b"".join(parts)


def parse(text: bytes | bytearray | memoryview) -> list[Model]:
    """The data sets of a JSON text: an array of objects, or one object. Raises DataSetError."""
    text = bytes(text)
    if sum(map(text.count, (b",", b"[", b"{"))) > VALUE_COUNT_MAX:
        raise DataSetError(f"the JSON text has more than {VALUE_COUNT_MAX} values")
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataSetError(f"not valid JSON: line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise DataSetError("the JSON text nests too deeply") from None
    models = document if isinstance(document, list) else [document]
    if not all(isinstance(model, dict) for model in models):
        raise DataSetError("the JSON text is neither an object nor an array of objects")
    return models


def draft(model: Mapping[str, Any]) -> Draft:
    """Encodes a data set. Raises DataSetError, which names the faulty attribute by its path."""
    encoder = _Encoder()
    pieces = encoder.data_set(model, "", 0)
    return Draft(_merge(pieces), encoder.file_meta)


def _merge(pieces: Sequence[bytes | BulkData]) -> tuple[bytes | BulkData, ...]:
    merged: list[bytes | BulkData] = []
    run: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            run.append(piece)
            continue
        if run:
            merged.append(b"".join(run))
            run.clear()
        merged.append(piece)
    if run:
        merged.append(b"".join(run))
    return tuple(merged)


class _Encoder:
    """Encodes one data set."""

    def __init__(self) -> None:
        self.file_meta: dict[int, bytes] = {}
        self._count = 0
        self._has_text_beyond_ascii = False

    def data_set(self, model: Mapping[str, Any], path: str, depth: int) -> list[bytes | BulkData]:
        pieces: list[bytes | BulkData] = []
        for tag, attribute in self._in_order(model, path):
            element = self._element(tag, attribute, f"{path}{tag:08X}", depth)
            if tag >> 16 == 2:
                if depth == 0 and isinstance(element[0], bytes):
                    self.file_meta[tag] = _value_of(element[0])
            elif tag & 0xFFFF and tag != tags.SpecificCharacterSet:
                pieces += element
        declares = "00080005" in model
        if depth == 0 and (self._has_text_beyond_ascii or declares):
            self._insert_character_set(pieces)
        return pieces

    def _in_order(self, model: Mapping[str, Any], path: str) -> list[tuple[int, Mapping[str, Any]]]:
        attributes: dict[int, Mapping[str, Any]] = {}
        for key, attribute in model.items():
            self._count_attribute(path)
            if not _TAG.fullmatch(key):
                raise DataSetError(f"{path}: {key[:40]!r} is not a tag")
            tag = int(key, 16)
            if tag in attributes or tag >> 16 in (0, 0xFFFE):
                raise DataSetError(f"{path}{key}: occurs twice, or cannot be in a data set")
            if not isinstance(attribute, dict):
                raise DataSetError(f"{path}{key}: is not an object")
            attributes[tag] = attribute
        return sorted(attributes.items())

    def _count_attribute(self, path: str) -> None:
        self._count += 1
        if self._count > ATTRIBUTE_COUNT_MAX:
            raise DataSetError(f"{path}: there are more than {ATTRIBUTE_COUNT_MAX} attributes")

    def _element(self, tag: int, attribute: Mapping[str, Any], path: str, depth: int) -> list[bytes | BulkData]:
        vr = attribute.get("vr")
        if not isinstance(vr, str) or vr not in _VRS:
            raise DataSetError(f"{path}: has no vr, or one that is not in PS3.5")
        kinds = [kind for kind in ("Value", "BulkDataURI", "InlineBinary") if attribute.get(kind) is not None]
        if len(kinds) > 1:
            raise DataSetError(f"{path}: has {' and '.join(kinds)}; only one of them is allowed")
        if kinds == ["BulkDataURI"]:
            return [_bulk_data(tag, vr, attribute["BulkDataURI"], path)]
        if kinds == ["InlineBinary"]:
            return [form_of(tag, vr, _ENCODING).element(_inline(vr, attribute["InlineBinary"], path))]
        items = attribute.get("Value") or []
        if not isinstance(items, list):
            raise DataSetError(f"{path}: its Value is not an array")
        if vr == "SQ":
            return self._sequence(tag, items, path, depth + 1)
        if vr in _BYTES_VRS and items:
            raise DataSetError(f"{path}: a value of {vr} must be InlineBinary or BulkDataURI")
        return [form_of(tag, vr, _ENCODING).element(self._value(vr, items, path))]

    def _sequence(self, tag: int, items: list[Any], path: str, depth: int) -> list[bytes | BulkData]:
        if depth > NESTING_MAX:
            raise DataSetError(f"{path[:80]}: more than {NESTING_MAX} sequences within each other")
        encoded: list[list[bytes | BulkData]] = []
        for number, item in enumerate(items, 1):
            self._count_attribute(path)
            if item is not None and not isinstance(item, dict):
                raise DataSetError(f"{path}/{number}: an item is not an object")
            encoded.append(self.data_set(item or {}, f"{path}/{number}/", depth))
        start = struct.pack("<HH2s2x", tag >> 16, tag & 0xFFFF, b"SQ")
        plain = [b"".join(part for part in item if isinstance(part, bytes)) for item in encoded]
        if sum(map(len, encoded)) == sum(isinstance(part, bytes) for item in encoded for part in item):
            value = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in plain)
            return [start + struct.pack("<I", len(value)) + value]
        pieces: list[bytes | BulkData] = [start + b"\xff\xff\xff\xff"]
        for item in encoded:
            pieces += [struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF), *item, _ITEM_END]
        return [*pieces, _SEQUENCE_END]

    def _value(self, vr: str, values: list[Any], path: str) -> bytes:
        if vr in _NUMBER_FORMS:
            return b"".join(_number(vr, value, path) for value in values)
        if vr == "AT":
            return b"".join(_tag(value, path) for value in values)
        if vr in SINGLE_VALUE_VRS and len(values) > 1:
            raise DataSetError(f"{path}: {vr} allows only one value")
        texts = [_text(vr, value, path) for value in values]
        text = "\\".join(texts)
        if not text.isascii():
            if vr not in charset.TEXT_VRS:
                raise DataSetError(f"{path}: {vr} allows only ASCII")
            self._has_text_beyond_ascii = True
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError:
            raise DataSetError(f"{path}: contains half of a surrogate pair") from None

    def _insert_character_set(self, pieces: list[bytes | BulkData]) -> None:
        element = form_of(tags.SpecificCharacterSet, "CS", _ENCODING).element(charset.UTF_8)
        at = next((i for i, piece in enumerate(pieces) if _tag_of(piece) > tags.SpecificCharacterSet), len(pieces))
        pieces.insert(at, element)


def _tag_of(piece: bytes | BulkData) -> int:
    if isinstance(piece, BulkData):
        return piece.tag
    group, element = struct.unpack_from("<HH", piece)
    return int(group << 16 | element)


def _value_of(element: bytes) -> bytes:
    """The value of an encoded element, without its padding."""
    return element[12 if element[4:6].decode("ascii") in LONG_VRS else 8 :].rstrip(b" \0")


def _padding(vr: str) -> bytes:
    return b" " if vr in _TEXT_VRS - {"UI"} or vr in ("DS", "IS") else b"\0"


def _bulk_data(tag: int, vr: str, uri: Any, path: str) -> BulkData:
    if not isinstance(uri, str) or not uri or len(uri) > 4096 or vr == "SQ":
        raise DataSetError(f"{path}: its BulkDataURI is not a text, or replaces a sequence")
    return BulkData(tag, vr, uri)


def _inline(vr: str, value: Any, path: str) -> bytes:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if vr not in _BYTES_VRS or not isinstance(value, str):
        raise DataSetError(f"{path}: InlineBinary must be a text, and is for binary VRs only")
    try:
        data = base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise DataSetError(f"{path}: its InlineBinary is not valid base64") from None
    unit = NUMBER_BYTES.get(vr, 1)
    if len(data) % unit:
        raise DataSetError(f"{path}: the length of its InlineBinary is not a multiple of {unit} bytes")
    return data


def _number(vr: str, value: Any, path: str) -> bytes:
    """Encodes a number of a binary VR; accepts text where annex F allows it."""
    if vr in ("FL", "FD"):
        if isinstance(value, str):
            value = _SPECIAL_FLOATS.get(value.strip().lower().removeprefix("+"))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataSetError(f"{path}: a value is not a number")
    else:
        if isinstance(value, str) and vr in ("SV", "UV") and _INTEGER.fullmatch(value.strip()):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise DataSetError(f"{path}: a value is not a whole number")
    try:
        return struct.pack("<" + _NUMBER_FORMS[vr], value)
    except (struct.error, OverflowError):
        raise DataSetError(f"{path}: a value is out of the range of {vr}") from None


def _tag(value: Any, path: str) -> bytes:
    if not isinstance(value, str) or not _TAG.fullmatch(value):
        raise DataSetError(f"{path}: a value is not a tag")
    number = int(value, 16)
    return struct.pack("<HH", number >> 16, number & 0xFFFF)


def _text(vr: str, value: Any, path: str) -> str:
    """One value as DICOM text."""
    if value is None:
        return ""
    if vr == "PN" and isinstance(value, dict):
        return _person_name(value, path)
    if vr in ("DS", "IS") and isinstance(value, int | float) and not isinstance(value, bool):
        return _decimal(vr, value, path)
    if not isinstance(value, str):
        raise DataSetError(f"{path}: a value is not a text")
    if vr not in SINGLE_VALUE_VRS and "\\" in value:
        raise DataSetError(f"{path}: a backslash in a value would separate it")
    if _CONTROLS.search(value):
        raise DataSetError(f"{path}: a value contains a NUL or an escape")
    if vr == "UI" and not _UID.fullmatch(value):
        raise DataSetError(f"{path}: a value is not a UID")
    return value


def _person_name(value: Mapping[str, Any], path: str) -> str:
    groups = [value.get(name) or "" for name in _NAME_GROUPS]
    if not {*value} <= {*_NAME_GROUPS} or not all(isinstance(group, str) for group in groups):
        raise DataSetError(f"{path}: the groups of a person name must be texts named {', '.join(_NAME_GROUPS)}")
    if any("=" in group for group in groups[:2]):
        raise DataSetError(f"{path}: an equals sign would separate a group of a person name")
    while groups and not groups[-1]:
        groups.pop()
    return _text("PN", "=".join(groups), path)


def _decimal(vr: str, value: int | float, path: str) -> str:
    """A number in as many characters as its VR allows; a DS is rounded to fit."""
    if vr == "IS":
        if value != int(value) or not -(1 << 31) <= value < 1 << 31:
            raise DataSetError(f"{path}: a value is not a whole number of 32 bits")
        return str(int(value))
    for digits in range(17, 0, -1):
        text = repr(value) if digits == 17 else f"{value:.{digits}g}"
        text = text.removesuffix(".0")
        if len(text) <= _DECIMAL_CHARACTERS_MAX:
            return text
    raise DataSetError(f"{path}: a value is out of the range of DS")
