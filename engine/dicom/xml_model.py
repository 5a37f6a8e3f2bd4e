"""Reads and writes the Native DICOM Model in XML (PS3.19 A.1), which has the same content as the DICOM JSON Model.

    <DicomAttribute tag="00100010" vr="PN" keyword="PatientName">      "00100010": {"vr": "PN", "Value": [
      <PersonName number="1"><Alphabetic>                                  {"Alphabetic": "Doe^John"}]}
        <FamilyName>Doe</FamilyName><GivenName>John</GivenName>
      </Alphabetic></PersonName></DicomAttribute>

Writing converts our own JSON Model, so that both have the same content; characters that XML 1.0 lacks become U+FFFD.
Reading must expect hostile input; pass its result to `model_reader.draft`, like JSON. It refuses at once: a document
type declaration, which could bring in entities and files; elements that PS3.19 does not have; depth and numbers beyond
the limits. It ignores namespace prefixes. The parser is expat, fed piece by piece.
"""

from __future__ import annotations

import re
import xml.parsers.expat
from collections.abc import Iterator, Mapping
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from engine.errors import DataSetError

from . import tags
from .model_reader import NESTING_MAX, VALUE_COUNT_MAX, Model

NAMESPACE: Final = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_DEPTH_MAX: Final = 2 * NESTING_MAX + 8
_STEP_BYTES: Final = 64 << 10
_PARTS_MAX: Final = 1000
"""Tags and values of one piece."""
_COMPONENTS: Final = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NUMBER_VRS: Final = frozenset(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"))


# writing -----------------------------------------------------------------------------------------------------------


def encode(model: Mapping[str, Any]) -> bytes:
    """Writes a data set of the JSON Model as one XML document."""
    return b"".join(pieces(model))


def pieces(model: Mapping[str, Any]) -> Iterator[bytes]:
    """The same, piece by piece; the values of a sequence may come from an iterator."""
    parts = [f'<?xml version="1.0" encoding="UTF-8"?>\n<NativeDicomModel xmlns="{NAMESPACE}" xml:space="preserve">']
    for part in _attributes(model):
        parts.append(part)
        if len(parts) >= _PARTS_MAX:
            yield "".join(parts).encode("utf-8")
            parts.clear()
    parts.append("</NativeDicomModel>")
    yield "".join(parts).encode("utf-8")


def _attributes(model: Mapping[str, Any]) -> Iterator[str]:
    for key, attribute in model.items():
        tag = int(key, 16)
        names = f'tag="{key}" vr="{attribute["vr"]}"'
        keyword = tags.keyword_of(tag)
        if tags.is_private(tag):
            creator = _creator(model, tag)
            names += f" privateCreator={quoteattr(_clean(creator))}" if creator else ""
        elif keyword != key:
            names += f' keyword="{keyword}"'
        yield f"<DicomAttribute {names}>"
        if "BulkDataURI" in attribute:
            yield f"<BulkData uri={quoteattr(attribute['BulkDataURI'])}/>"
        elif "InlineBinary" in attribute:
            yield f"<InlineBinary>{attribute['InlineBinary']}</InlineBinary>"
        for number, value in enumerate(attribute.get("Value", ()), 1):
            if attribute["vr"] == "SQ":
                yield f'<Item number="{number}">'
                yield from _attributes(value)
                yield "</Item>"
            elif attribute["vr"] == "PN":
                yield f'<PersonName number="{number}">{_person_name(value or {})}</PersonName>'
            else:
                yield f'<Value number="{number}">{"" if value is None else _escape(str(value))}</Value>'
        yield "</DicomAttribute>"


def _creator(model: Mapping[str, Any], tag: int) -> str:
    """The creator that reserves the block of a private attribute (PS3.5 7.8.1); "" if there is none."""
    if tag & 0xFFFF <= 0xFF:
        return ""
    items = model.get(f"{tag & 0xFFFF0000 | tag >> 8 & 0xFF:08X}", {}).get("Value") or [""]
    return str(items[0] or "")


def _person_name(value: Mapping[str, str]) -> str:
    parts = []
    for group in _GROUPS:
        if value.get(group):
            components = value[group].split("^", len(_COMPONENTS) - 1)
            last = len(components) - 1  # is written even if it is empty, so that no "^" is lost
            inner = "".join(
                f"<{_COMPONENTS[i]}>{_escape(text)}</{_COMPONENTS[i]}>"
                for i, text in enumerate(components)
                if text or i == last
            )
            parts.append(f"<{group}>{inner}</{group}>")
    return "".join(parts)


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def _escape(text: str) -> str:
    return escape(_clean(text), {"\r": "&#13;"})


# reading -----------------------------------------------------------------------------------------------------------


def parse(text: bytes) -> Model:
    """Reads one document as the JSON Model. Raises DataSetError."""
    reader = _Reader()
    parser = xml.parsers.expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.SetParamEntityParsing(xml.parsers.expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.XmlDeclHandler = _check_encoding
    try:
        for at in range(0, len(text), _STEP_BYTES):
            parser.Parse(text[at : at + _STEP_BYTES], False)
        parser.Parse(b"", True)
    except xml.parsers.expat.ExpatError as error:
        raise DataSetError(f"not valid XML: line {error.lineno}, column {error.offset + 1}") from None
    return reader.root


def _check_encoding(_: str, encoding: str | None, __: int) -> None:
    """Allows only the encodings that expat decodes itself: for others it would use any codec of Python."""
    if (encoding or "utf-8").lower() not in ("utf-8", "utf-16", "iso-8859-1", "us-ascii"):
        raise DataSetError("the XML document is not in UTF-8, UTF-16, ISO-8859-1 or US-ASCII")


def _refuse(*_: Any) -> None:
    raise DataSetError("the XML document has a document type declaration or declares an entity")


class _Reader:
    """Handles the start and end of each element of one document."""

    def __init__(self) -> None:
        self.root: Model = {}
        self._models: list[Model] = []
        """The open data set and items."""
        self._attributes: list[Model] = []
        """The open attribute of each."""
        self._open: list[str] = []
        self._text: list[str] = []
        self._name: dict[str, dict[str, str]] = {}
        self._count = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(" ")[2]
        parent = self._open[-1] if self._open else ""
        self._count += 1
        if len(self._open) >= _DEPTH_MAX or self._count > VALUE_COUNT_MAX:
            raise DataSetError("the XML document has too many elements, or nests them too deeply")
        if parent not in _PARENTS.get(name, ()):
            raise DataSetError(f"the XML document has <{name[:40]}> where PS3.19 does not allow it")
        self._open.append(name)
        self._text.clear()
        if name == "NativeDicomModel":
            self._models.append(self.root)
        elif name == "DicomAttribute":
            self._begin_attribute(attributes)
        elif name == "BulkData":
            self._attributes[-1]["BulkDataURI"] = attributes.get("uri", "")
        elif name == "Item":
            item: Model = {}
            self._values(attributes).append(item)
            self._models.append(item)
        elif name in ("PersonName", "Value"):
            self._name = {}
            self._values(attributes)
        elif name in _GROUPS:
            self._name[name] = {}

    def end(self, name: str) -> None:
        name = self._open.pop()
        text = "".join(self._text)
        self._text.clear()
        if name == "DicomAttribute":
            self._attributes.pop()
        elif name in ("Item", "NativeDicomModel"):
            self._models.pop()
        elif name == "InlineBinary":
            self._attributes[-1]["InlineBinary"] = text
        elif name == "Value":
            attribute = self._attributes[-1]
            attribute["Value"].append(_value(attribute["vr"], text))
        elif name == "PersonName":
            groups = {group: _join_components(components) for group, components in self._name.items()}
            self._attributes[-1]["Value"].append({group: text for group, text in groups.items() if text} or None)
        elif name in _COMPONENTS:
            self._name[self._open[-1]][name] = text
        elif name in _GROUPS and text.strip() and not self._name[name]:
            self._name[name] = {"FamilyName": text}  # a name without components

    def characters(self, text: str) -> None:
        self._text.append(text)

    def _begin_attribute(self, attributes: dict[str, str]) -> None:
        key = attributes.get("tag", "").upper()
        model = self._models[-1]
        if key in model:
            raise DataSetError(f"the XML document has {key[:8]} twice")
        model[key] = attribute = {"vr": attributes.get("vr", "")}
        self._attributes.append(attribute)

    def _values(self, attributes: dict[str, str]) -> list[Any]:
        """The values of the open attribute, filled with None up to the number of the next value."""
        items: list[Any] = self._attributes[-1].setdefault("Value", [])
        number = attributes.get("number", "")
        missing = int(number) - 1 - len(items) if number.isascii() and number.isdigit() and len(number) < 8 else 0
        if missing < 0:
            raise DataSetError("the XML document has values out of order")
        self._count += missing
        if self._count > VALUE_COUNT_MAX:
            raise DataSetError("the XML document has too many values")
        items.extend([None] * missing)
        return items


_PARENTS: Final = {
    "NativeDicomModel": ("",),
    "DicomAttribute": ("NativeDicomModel", "Item"),
    **dict.fromkeys(("Value", "PersonName", "Item", "BulkData", "InlineBinary"), ("DicomAttribute",)),
    **dict.fromkeys(_GROUPS, ("PersonName",)),
    **dict.fromkeys(_COMPONENTS, _GROUPS),
}
"""Element → its allowed parents."""


def _join_components(components: Mapping[str, str]) -> str:
    last = max((_COMPONENTS.index(name) for name in components), default=-1)
    return "^".join(components.get(name, "") for name in _COMPONENTS[: last + 1])


def _value(vr: str, text: str) -> Any:
    """A value as JSON. An invalid number stays text, which `model_reader` refuses."""
    if not text:
        return None
    if vr not in _NUMBER_VRS:
        return text
    try:
        return float(text) if vr in ("FL", "FD") else int(text)
    except ValueError:
        return text
