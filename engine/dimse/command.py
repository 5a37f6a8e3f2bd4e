"""The command set codec: elements of group 0000 in Implicit VR Little Endian (PS3.7 6.3, PS3.5 7.1).

It reads and writes raw values by element number; `dimse.messages` knows which elements a command needs.

    element   group 0000 (2) | element (2) | length (4) | value, even length        all little endian
    first     0000 | 0000 | 4 | bytes that follow: the group length

A wrong group length is ignored, because the PDVs show where the command ends. Any other violation of the format raises
`MessageError` with status 0212H.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from engine.errors import LocalProtocolError, MessageError

MISTYPED_ARGUMENT: Final = 0x0212

COMMAND_LENGTH_MAX: Final = 1 << 20
"""Bytes of a command set; the longest in use have a few hundred."""

NO_DATA_SET: Final = 0x0101
"""Command Data Set Type of a message without a data set; with any other value a data set follows (PS3.7 E.1)."""


class Element(IntEnum):
    """PS3.7 Table E.1-1, spelled as there. The group is 0000."""

    CommandGroupLength = 0x0000
    AffectedSOPClassUID = 0x0002
    RequestedSOPClassUID = 0x0003
    CommandField = 0x0100
    MessageID = 0x0110
    MessageIDBeingRespondedTo = 0x0120
    MoveDestination = 0x0600
    Priority = 0x0700
    CommandDataSetType = 0x0800
    Status = 0x0900
    OffendingElement = 0x0901
    ErrorComment = 0x0902
    ErrorID = 0x0903
    AffectedSOPInstanceUID = 0x1000
    RequestedSOPInstanceUID = 0x1001
    EventTypeID = 0x1002
    AttributeIdentifierList = 0x1005
    ActionTypeID = 0x1008
    NumberOfRemainingSuboperations = 0x1020
    NumberOfCompletedSuboperations = 0x1021
    NumberOfFailedSuboperations = 0x1022
    NumberOfWarningSuboperations = 0x1023
    MoveOriginatorApplicationEntityTitle = 0x1030
    MoveOriginatorMessageID = 0x1031


_UIDS: Final = frozenset(
    {
        Element.AffectedSOPClassUID,
        Element.RequestedSOPClassUID,
        Element.AffectedSOPInstanceUID,
        Element.RequestedSOPInstanceUID,
    }
)

_HEADER: Final = struct.Struct("<HHI")
_GROUP_LENGTH: Final = struct.Struct("<HHII")
_UINT16: Final = struct.Struct("<H")


def decode(data: bytes | bytearray | memoryview) -> dict[int, bytes]:
    """The values of a command set by element number, with padding."""
    data = bytes(data)
    end = len(data)
    if end > COMMAND_LENGTH_MAX:
        raise MessageError(f"a command set of {end} bytes", MISTYPED_ARGUMENT)
    values: dict[int, bytes] = {}
    position = 0
    while position < end:
        if end - position < 8:
            raise MessageError(f"offset {position}: the command set ends inside an element", MISTYPED_ARGUMENT)
        group, element, length = _HEADER.unpack_from(data, position)
        if group != 0:
            raise MessageError(
                f"offset {position}: ({group:04X},{element:04X}) is not a command element", MISTYPED_ARGUMENT
            )
        start = position + 8
        position = start + length
        if position > end:
            raise MessageError(
                f"offset {start}: (0000,{element:04X}) has {length} bytes, {end - start} are left", MISTYPED_ARGUMENT
            )
        values[element] = data[start:position]
    return values


def encode(values: Mapping[int, bytes]) -> bytes:
    """A command set with its group length; odd values are padded, UIDs with NUL and others with a space."""
    parts = []
    for element in sorted(values):
        if element == Element.CommandGroupLength:
            continue
        value = values[element]
        if len(value) % 2:
            value += b"\0" if element in _UIDS else b" "
        parts.append(_HEADER.pack(0, element, len(value)))
        parts.append(value)
    body = b"".join(parts)
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


# Values ------------------------------------------------------------------------------------------


def text_value(values: Mapping[int, bytes], element: Element, default: str | None = None) -> str:
    """A UI, AE, LO or SH value without its padding; required if there is no default."""
    value = values.get(element)
    if value is None:
        if default is None:
            raise MessageError(f"{element.name} is missing", MISTYPED_ARGUMENT)
        return default
    try:
        return value.decode("ascii").strip("\0 ")
    except UnicodeDecodeError:
        if element in _UIDS:
            raise MessageError(f"{element.name} is not ASCII", MISTYPED_ARGUMENT) from None
        return value.decode("latin-1").strip("\0 ")


def uint16_value(values: Mapping[int, bytes], element: Element, default: int | None = None) -> int:
    """A US value; required if there is no default. An empty value counts as missing."""
    value = values.get(element)
    if not value:
        if default is None:
            raise MessageError(f"{element.name} is missing", MISTYPED_ARGUMENT)
        return default
    if len(value) != 2:
        raise MessageError(f"{element.name} has {len(value)} bytes, not 2", MISTYPED_ARGUMENT)
    number: int = _UINT16.unpack(value)[0]
    return number


def pack_uint16(number: int) -> bytes:
    """A US value."""
    if not 0 <= number <= 0xFFFF:
        raise LocalProtocolError(f"{number} does not fit 16 bits")
    return _UINT16.pack(number)


def pack_text(text: str) -> bytes:
    """A UI value, padded by `encode`."""
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise LocalProtocolError(f"{text!r} is not ASCII") from None


def pack_title(text: str) -> bytes:
    """An AE value, padded by `encode`; one byte for each character, as titles beyond ASCII are read."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise LocalProtocolError(f"AE title {text!r} is not Latin-1") from None
