"""Acknowledgements: what is answered to a message, in original and in enhanced mode (HL7 v2.5.1 2.9).

    original mode    MSH-15 and MSH-16 empty       one answer: AA, AE or AR
    enhanced mode    MSH-15 says when              CA, CE or CR as soon as the message is stored
                     MSH-16 says when              AA, AE or AR later, as a message of its own

    code of the condition (table 0357)    answer
    100-103   content                     AE   the sender should look at the message
    200-203   type, event, mode, version  AR   the message is not for us
    204-205   unknown or duplicate key    AE
    206-207   locked, internal            none: the sender tries again; AE if the source is configured so

MSH-3 to MSH-6 change sides, MSA-2 is MSH-10 exactly, version and character set are those of the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from engine.hl7 import moment, writer
from engine.hl7.writer import Raw

if TYPE_CHECKING:
    from engine.hl7.message import Message

TEXT_CHARACTERS_MAX = 80
"""Of MSA-3, in the versions that have it."""


class Condition(IntEnum):
    """Table 0357: what is wrong with a message."""

    SEGMENT_SEQUENCE = 100
    REQUIRED_FIELD_MISSING = 101
    DATA_TYPE = 102
    TABLE_VALUE = 103
    UNSUPPORTED_MESSAGE_TYPE = 200
    UNSUPPORTED_EVENT_CODE = 201
    UNSUPPORTED_PROCESSING_ID = 202
    UNSUPPORTED_VERSION = 203
    UNKNOWN_KEY = 204
    DUPLICATE_KEY = 205
    RECORD_LOCKED = 206
    INTERNAL_ERROR = 207

    @property
    def is_rejection(self) -> bool:
        """Whether the answer is AR."""
        return 200 <= self <= 203

    @property
    def is_transient(self) -> bool:
        """Whether the same message may succeed later."""
        return self >= 206


_NAMES = {
    100: "Segment sequence error",
    101: "Required field missing",
    102: "Data type error",
    103: "Table value not found",
    200: "Unsupported message type",
    201: "Unsupported event code",
    202: "Unsupported processing id",
    203: "Unsupported version id",
    204: "Unknown key identifier",
    205: "Duplicate key identifier",
    206: "Application record locked",
    207: "Application internal error",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a message. The text names no value of a patient."""

    condition: Condition
    text: str
    location: tuple[str, int, int] | None = None
    """Segment, its number among those of its name, field; 0: none."""


@dataclass(frozen=True, slots=True)
class Modes:
    """What the sender wants to get: MSH-15 and MSH-16."""

    accept: str
    application: str

    @property
    def is_enhanced(self) -> bool:
        """Whether the enhanced mode is asked for."""
        return bool(self.accept or self.application)

    def wants_accept(self, is_success: bool) -> bool:
        """Whether it wants to know that the message is stored."""
        return _is_wanted(self.accept or "NE", is_success)

    def wants_application(self, is_success: bool) -> bool:
        """Whether it wants to know what the message did."""
        return _is_wanted(self.application or "NE", is_success)


def _is_wanted(mode: str, is_success: bool) -> bool:
    return {"AL": True, "NE": False, "ER": not is_success, "SU": is_success}.get(mode, True)


def modes_of(message: Message) -> Modes:
    """The modes of a message."""
    return Modes(message.header.text(15).upper(), message.header.text(16).upper())


def code_of(fault: Fault | None) -> str:
    """AA, AE or AR."""
    return "AA" if fault is None else "AR" if fault.condition.is_rejection else "AE"


def acknowledge(
    message: Message,
    fault: Fault | None,
    *,
    control_id: str,
    time: float,
    is_accept: bool = False,
    text: str = "",
) -> bytes:
    """The answer to a message. `is_accept`: CA, CE or CR instead of AA, AE or AR; `text`: MSA-3 of a success."""
    code = code_of(fault)
    if is_accept:
        code = f"C{code[1]}"
    source = message.header
    separators = message.separators
    version = message.version
    raw = source.raw
    event = source.value(9).component(2)
    kind = ["ACK", event, "ACK"] if event and version >= "2.4" else ["ACK", event] if event else ["ACK"]
    fields = ["MSH", raw(2), raw(5), raw(6), raw(3), raw(4), moment.write(time, None), ""]
    fields += [separators.component.join(kind), control_id, raw(11), raw(12), "", "", "", "", "", raw(18)]
    lines = [separators.field.join(fields).rstrip(separators.field)]
    said = fault.text if fault is not None else text
    lines.append(writer.segment("MSA", code, Raw(source.raw(10)), said[:TEXT_CHARACTERS_MAX], separators=separators))
    if fault is not None:
        lines.append(_error(fault, version, message))
    return writer.message(lines, message.codec)


def _error(fault: Fault, version: str, message: Message) -> str:
    number = int(fault.condition)
    name = _NAMES[number]
    segment, sequence, field = fault.location or ("", 0, 0)
    place = (segment, str(sequence or ""), str(field or ""))
    if version < "2.5":
        code = (str(number), name, "HL70357")
        return writer.segment("ERR", (*place, code), separators=message.separators)
    location = tuple(place) if segment else ""
    return writer.segment(
        "ERR", "", location, (str(number), name, "HL70357"), "E", "", "", "", fault.text, separators=message.separators
    )
