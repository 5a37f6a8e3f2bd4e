"""Converts between the fields of a message dataclass and the elements of its command set.

It knows no message: the dataclass is the specification. The table below has the element and the form for each field
name. A request must have all fields without a default; a response must have only its status and the id of the message
it responds to, since many peers leave out the UIDs that PS3.7 requires.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any, Final

from engine.errors import LocalProtocolError, MessageError

from . import command
from .command import (
    MISTYPED_ARGUMENT,
    NO_DATA_SET,
    Element,
    pack_text,
    pack_title,
    pack_uint16,
    text_value,
    uint16_value,
)

DATA_SET_PRESENT: Final = 0x0001
"""Command Data Set Type of our messages with a data set; any value but 0101H means the same."""

ERROR_COMMENT_LENGTH_MAX: Final = 64
_ELLIPSIS: Final = "..."
_KEEP_MIN: Final = 40
"""Characters of a comment that are always kept; a word that is too long, for example a UID, is cut instead."""
COUNT_MAX: Final = 0xFFFF
"""Counts of sub-operations have 16 bits; a larger count is sent as this."""


class DataSet(Enum):
    """Whether a message has a data set."""

    ALWAYS = "always"
    NEVER = "never"
    SOMETIMES = "as the field has_data_set"


class _Form(Enum):
    TEXT = 1
    UINT16 = 2
    COUNT = 3
    COMMENT = 4
    TAGS = 5
    DATA_SET = 6
    TITLE = 7


_FIELDS: Final[Mapping[str, tuple[Element, _Form]]] = {
    "message_id": (Element.MessageID, _Form.UINT16),
    "message_id_being_responded_to": (Element.MessageIDBeingRespondedTo, _Form.UINT16),
    "affected_sop_class_uid": (Element.AffectedSOPClassUID, _Form.TEXT),
    "requested_sop_class_uid": (Element.RequestedSOPClassUID, _Form.TEXT),
    "affected_sop_instance_uid": (Element.AffectedSOPInstanceUID, _Form.TEXT),
    "requested_sop_instance_uid": (Element.RequestedSOPInstanceUID, _Form.TEXT),
    "priority": (Element.Priority, _Form.UINT16),
    "move_destination": (Element.MoveDestination, _Form.TITLE),
    "move_originator_ae_title": (Element.MoveOriginatorApplicationEntityTitle, _Form.TITLE),
    "move_originator_message_id": (Element.MoveOriginatorMessageID, _Form.UINT16),
    "event_type_id": (Element.EventTypeID, _Form.UINT16),
    "action_type_id": (Element.ActionTypeID, _Form.UINT16),
    "status": (Element.Status, _Form.UINT16),
    "number_of_remaining_suboperations": (Element.NumberOfRemainingSuboperations, _Form.COUNT),
    "number_of_completed_suboperations": (Element.NumberOfCompletedSuboperations, _Form.COUNT),
    "number_of_failed_suboperations": (Element.NumberOfFailedSuboperations, _Form.COUNT),
    "number_of_warning_suboperations": (Element.NumberOfWarningSuboperations, _Form.COUNT),
    "has_data_set": (Element.CommandDataSetType, _Form.DATA_SET),
    "error_comment": (Element.ErrorComment, _Form.COMMENT),
    "offending_elements": (Element.OffendingElement, _Form.TAGS),
    "error_id": (Element.ErrorID, _Form.UINT16),
    "attribute_identifier_list": (Element.AttributeIdentifierList, _Form.TAGS),
}

_ALWAYS_REQUIRED: Final = frozenset({"message_id", "message_id_being_responded_to", "status"})

_TAG: Final = struct.Struct("<HH")


class Codec:
    """Encodes and decodes one kind of message."""

    __slots__ = ("_command_field", "_data_set", "_fields", "_make")

    def __init__(self, command_field: int, make: type[Any], data_set: DataSet) -> None:
        self._command_field = pack_uint16(command_field)
        self._make: Callable[..., Any] = make
        self._data_set = data_set
        is_response = command_field & 0x8000 != 0
        self._fields: list[tuple[str, Element, _Form, bool, Any]] = []
        for field in fields(make):
            element, form = _FIELDS[field.name]
            required = field.name in _ALWAYS_REQUIRED or (field.default is MISSING and not is_response)
            default = "" if field.default is MISSING else field.default
            self._fields.append((field.name, element, form, required, default))

    def decode(self, values: Mapping[int, bytes]) -> Any:
        """The message of these values. Raises MessageError 0212H for a missing element or one of a wrong form."""
        if self._data_set is DataSet.ALWAYS and uint16_value(values, Element.CommandDataSetType) == NO_DATA_SET:
            raise MessageError("the request has no data set", MISTYPED_ARGUMENT)
        return self._make(
            *[
                _read(values, element, form) if required or values.get(element) else default
                for _, element, form, required, default in self._fields
            ]
        )

    def encode(self, message: object) -> bytes:
        """The command set, without elements for fields that are None or empty."""
        has_data_set = self._data_set is DataSet.ALWAYS
        values: dict[int, bytes] = {
            Element.CommandField: self._command_field,
            Element.CommandDataSetType: pack_uint16(DATA_SET_PRESENT if has_data_set else NO_DATA_SET),
        }
        for name, element, form, _, _ in self._fields:
            value = getattr(message, name)
            if value is not None and value != "" and value != ():
                values[element] = _write(value, form)
        return command.encode(values)


def error_comment(text: str) -> bytes:
    """Text as LO: 64 characters of the default repertoire, no backslash and no control characters.

    A longer text is cut at the end of a word and ends in an ellipsis: put the important part first.
    """
    printable = "".join(character if " " <= character <= "~" and character != "\\" else "?" for character in text)
    if len(printable) > ERROR_COMMENT_LENGTH_MAX:
        end = printable.rfind(" ", _KEEP_MIN, ERROR_COMMENT_LENGTH_MAX - len(_ELLIPSIS) + 1)
        printable = printable[:end].rstrip(" ,;:(") + _ELLIPSIS if end >= 0 else printable[:ERROR_COMMENT_LENGTH_MAX]
    return printable.encode("ascii")


def _read(values: Mapping[int, bytes], element: Element, form: _Form) -> Any:
    match form:
        case _Form.TEXT | _Form.TITLE | _Form.COMMENT:
            return text_value(values, element)
        case _Form.UINT16 | _Form.COUNT:
            return uint16_value(values, element)
        case _Form.DATA_SET:
            return uint16_value(values, element) != NO_DATA_SET
        case _Form.TAGS:
            value = values[element]
            whole = value[: len(value) // _TAG.size * _TAG.size]
            return tuple(group << 16 | number for group, number in _TAG.iter_unpack(whole))


def _write(value: Any, form: _Form) -> bytes:
    match form:
        case _Form.TEXT:
            return pack_text(value)
        case _Form.TITLE:
            return pack_title(value)
        case _Form.COMMENT:
            return error_comment(value)
        case _Form.UINT16:
            return pack_uint16(value)
        case _Form.COUNT:
            return pack_uint16(min(value, COUNT_MAX))
        case _Form.DATA_SET:
            return pack_uint16(DATA_SET_PRESENT if value else NO_DATA_SET)
        case _Form.TAGS:
            try:
                return b"".join(_TAG.pack(tag >> 16, tag & 0xFFFF) for tag in value)
            except struct.error:
                raise LocalProtocolError(f"{value} are not tags") from None
