r"""A message as text: segments, fields, repetitions, components, subcomponents. Splits only what is asked for.

    MSH|^~\&|APP|FAC|…        MSH-1 is the separator itself, MSH-2 the others, so MSH-3 is the second field of the line
    PID|1||4711^^^HOSP^MR~…   PID-3 has repetitions, PID-3.4 is HOSP, PID-3.4.1 too

Segments end with CR; LF, CR LF and empty segments are taken too. A line that does not begin as a segment does belongs
to the segment before it: somebody put a CR into a text. A value that is not there is "", and so is a field beyond the
end; `""` (two quotation marks) is a value that says "delete": `NULL`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.errors import MessageUnreadable
from engine.hl7.character_set import decode
from engine.hl7.escape import unescape
from engine.hl7.separators import Separators

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NULL = '""'
SEGMENTS_MAX = 100_000
PADDING = b"\xef\xbb\xbf\r\n\x0b\x00 \t"
BATCH = (b"FHS", b"BHS", b"BTS", b"FTS")
"""A message of 16 MiB that consists of CR alone must not cost gigabytes."""
HEADER_CHARACTERS_MAX = 16 << 10
"""Of MSH, which answers repeat. A real one has some hundred."""

_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}(?=[^A-Za-z0-9]|$)")


class Message:
    """One message; `parse` makes it."""

    def __init__(
        self, raw: bytes, codec: str, separators: Separators, lines: Sequence[str], oddities: tuple[str, ...] = ()
    ) -> None:
        self.raw = raw
        """As it came."""
        self.codec = codec
        self.oddities = oddities
        self.separators = separators
        self._lines = lines
        self.names = tuple([line[:3] for line in lines])
        """The names of all segments, in order."""
        self.header = Segment(self, lines[0], 0)
        """MSH."""
        self._segments: dict[int, Segment] = {0: self.header}

    def __len__(self) -> int:
        return len(self._lines)

    def segment_at(self, number: int) -> Segment:
        """The segment of this number, from 0."""
        segment = self._segments.get(number)
        if segment is None:
            segment = self._segments[number] = Segment(self, self._lines[number], number)
        return segment

    def __iter__(self) -> Iterator[Segment]:
        return (self.segment_at(number) for number in range(len(self._lines)))

    def all(self, name: str) -> list[Segment]:
        """The segments of a name, in order."""
        return [self.segment_at(number) for number, each in enumerate(self.names) if each == name]

    def first(self, name: str) -> Segment | None:
        """The first segment of a name."""
        try:
            return self.segment_at(self.names.index(name))
        except ValueError:
            return None

    def without_content(self) -> Message:
        """MSH alone: all that an answer needs, for those who answer later."""
        return Message(b"", self.codec, self.separators, self._lines[:1])

    def text(self, name: str, field: int, component: int = 1, subcomponent: int = 1) -> str:
        """A value of the first segment of a name."""
        segment = self.first(name)
        return segment.text(field, component, subcomponent) if segment is not None else ""

    @property
    def kind(self) -> str:
        """MSH-9 as TYPE^EVENT, without the structure."""
        code, event = self.header.text(9), self.header.text(9, 2)
        return f"{code}^{event}" if event else code

    @property
    def control_id(self) -> str:
        """MSH-10, exactly as it came."""
        return self.header.raw(10)

    @property
    def version(self) -> str:
        """MSH-12."""
        return self.header.text(12)

    def unescape(self, text: str) -> str:
        """A text without its escapes."""
        return unescape(text, self.separators, self._bytes_as_text)

    def _bytes_as_text(self, data: bytes) -> str:
        return data.decode(self.codec, "replace") if self.codec != "ascii" else decode(data, "").text


class Segment:
    """One segment."""

    __slots__ = ("_fields", "_message", "line", "name", "number")

    def __init__(self, message: Message, line: str, number: int) -> None:
        self._message = message
        self.line = line
        self.number = number
        """In the message, from 0."""
        self.name = line[:3]
        self._fields: list[str] | None = None

    @property
    def fields(self) -> list[str]:
        """The fields with their escapes; the number of a field in the standard is its place here."""
        if self._fields is None:
            separator = self._message.separators.field
            fields = self.line.split(separator)
            if self.name in ("MSH", "FHS", "BHS"):
                fields.insert(1, separator)
            self._fields = fields
        return self._fields

    def raw(self, field: int) -> str:
        """A whole field, with its separators and escapes."""
        fields = self.fields
        return fields[field] if field < len(fields) else ""

    def repetitions(self, field: int) -> list[Value]:
        """The repetitions of a field; none if it is empty."""
        raw = self.raw(field)
        if not raw:
            return []
        separator = self._message.separators.repetition
        if separator not in raw or (self.name == "MSH" and field == 2):
            return [Value(self._message, raw)]
        return [Value(self._message, each) for each in raw.split(separator)]

    def value(self, field: int) -> Value:
        """The first repetition of a field."""
        raw = self.raw(field)
        if self.name == "MSH" and field <= 2:
            return Value(self._message, raw)
        return Value(self._message, raw.split(self._message.separators.repetition, 1)[0])

    def text(self, field: int, component: int = 1, subcomponent: int = 1) -> str:
        """A subcomponent of the first repetition."""
        return self.value(field).text(component, subcomponent)


class Value:
    """One repetition of a field."""

    __slots__ = ("_message", "raw")

    def __init__(self, message: Message, raw: str) -> None:
        self._message = message
        self.raw = raw

    @property
    def is_null(self) -> bool:
        """Whether it says "delete"."""
        return self.raw == NULL

    def component(self, number: int) -> str:
        """A component with its subcomponents and escapes."""
        separator = self._message.separators.component
        if separator not in self.raw:
            return self.raw if number == 1 else ""
        parts = self.raw.split(separator, number)
        return parts[number - 1] if number <= len(parts) else ""

    def components(self) -> list[str]:
        """The first subcomponent of each component, as text."""
        separators = self._message.separators
        parts = self.raw.split(separators.component)
        if separators.subcomponent in self.raw:
            parts = [part.split(separators.subcomponent, 1)[0] for part in parts]
        return [self._message.unescape(part) for part in parts] if separators.escape in self.raw else parts

    def subcomponents(self, component: int) -> list[str]:
        """The subcomponents of a component, as text; one at least."""
        separators = self._message.separators
        part = self.component(component)
        parts = part.split(separators.subcomponent)
        return [self._message.unescape(each) for each in parts] if separators.escape in part else parts

    def text(self, component: int = 1, subcomponent: int = 1) -> str:
        """A subcomponent as text; NULL stays NULL."""
        separators = self._message.separators
        part = self.component(component)
        if separators.subcomponent in part:
            parts = part.split(separators.subcomponent)
            part = parts[subcomponent - 1] if subcomponent <= len(parts) else ""
        elif subcomponent > 1:
            return ""
        return self._message.unescape(part) if separators.escape in part else part

    def part(self, component: int, subcomponent: int = 0) -> Value:
        """A component as a value of its own, whose components are its subcomponents; or one of these."""
        separators = self._message.separators
        raw = self.component(component)
        if subcomponent:
            parts = raw.split(separators.subcomponent)
            return Value(self._message, parts[subcomponent - 1] if subcomponent <= len(parts) else "")
        return Value(self._message, raw.replace(separators.subcomponent, separators.component))

    def whole(self) -> str:
        """All of it as one text, for a field that has no components: somebody forgot to escape the separators."""
        return self._message.unescape(self.raw)


def parse(data: bytes, *, default: str = "iso8859_1", override: str = "") -> Message:
    """A message of its bytes. `default`, `override`: codecs, see `character_set.decode`. Raises MessageUnreadable."""
    start = data.find(b"MSH")
    if start < 0 or data[:start].strip(PADDING):
        if data.lstrip(PADDING)[:3] in BATCH:
            raise MessageUnreadable("a batch is not taken: each of its messages needs a block of its own")
        raise MessageUnreadable("the message does not begin with MSH")
    declared = _declared(data[start : start + 4096])
    decoded = decode(data[start:], declared, default, override=override)
    text = decoded.text
    if not text.startswith("MSH"):
        raise MessageUnreadable(f"the message does not begin with MSH in the character set {decoded.codec}")
    oddities = [decoded.oddity] if decoded.oddity else []
    if "\n" in text:
        oddities.append("LF for CR")
        text = text.replace("\r\n", "\r").replace("\n", "\r")
    separators = _separators(text)
    lines = text.split("\r", SEGMENTS_MAX)
    if len(lines) > SEGMENTS_MAX:
        raise MessageUnreadable(f"more than {SEGMENTS_MAX} segments")
    segments = _joined(lines, separators)
    if len(segments[0]) > HEADER_CHARACTERS_MAX:
        raise MessageUnreadable(f"MSH is longer than {HEADER_CHARACTERS_MAX} characters")
    return Message(data, decoded.codec, separators, segments, tuple(oddities))


def _joined(lines: list[str], separators: Separators) -> list[str]:
    """The segments: without empty lines, and with each line that is none joined to the one before."""
    segments: list[str] = []
    mark = separators.escape
    joint = f"{mark}.br{mark}" if mark else " "
    joined: list[str] = []
    for line in lines:
        if not line:
            continue
        if _SEGMENT.match(line) and line[3:4] in ("", separators.field):
            start = line
        elif stripped := line.strip("\x00\x1a \t"):
            if not (_SEGMENT.match(stripped) and stripped[3:4] == separators.field):
                # Collected, since a segment that grows by each line would be copied for each.
                joined = joined or [segments.pop()]
                joined.append(line)
                continue
            start = stripped
        else:
            continue
        if joined:
            segments.append(joint.join(joined))
            joined = []
        segments.append(start)
    if joined:
        segments.append(joint.join(joined))
    return segments


def _separators(text: str) -> Separators:
    field = text[3:4]
    if not field or field.isalnum() or field.isspace():
        raise MessageUnreadable("MSH names no field separator")
    others = text[4:].split(field, 1)[0].split("\r", 1)[0]
    if not 1 <= len(others) <= 5:
        raise MessageUnreadable("MSH-2 has no separators")
    marks = field + others
    if len(set(marks)) < len(marks) or any(mark.isalnum() or mark.isspace() for mark in marks):
        raise MessageUnreadable("MSH-2 has the same separator twice, or a letter")
    return Separators(field, *others)


def _declared(head: bytes) -> str:
    """MSH-18 of a message whose character set is not known yet. Names of sets are ASCII."""
    line = re.split(rb"[\r\n]", head, maxsplit=1)[0]
    fields = line.split(line[3:4]) if len(line) > 3 else []
    return fields[17].decode("ascii", "replace") if len(fields) > 17 else ""
