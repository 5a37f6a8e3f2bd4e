"""Bounds-checked reading of the fields inside a PDU, for `ul.pdu` and `ul.user_information`.

It knows no PDU. Each read beyond the end of its item raises `RemoteProtocolError` with the A-ABORT reason of PS3.8
Table 9-26 and with the position, counted as in PS3.8: byte 1 is the PDU type, so the body starts at byte 7.

    item   type (1) | reserved (1) | length (2, big endian) | content        PS3.8 9.3.1
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from engine.errors import LocalProtocolError, RemoteProtocolError

UNRECOGNIZED_PDU: Final = 1
UNEXPECTED_PDU: Final = 2
UNEXPECTED_PARAMETER: Final = 5
INVALID_PARAMETER: Final = 6

BODY_START: Final = 7
"""The number of the first byte behind the PDU header in PS3.8."""

ITEM_COUNT_MAX: Final = 1024
"""Items within one item, so that a megabyte of empty ones costs milliseconds. 128 presentation contexts with a role
and two kinds of extended negotiation each make 384 sub-items."""

_UINT16: Final = struct.Struct(">H")
_UINT32: Final = struct.Struct(">I")
_ITEM: Final = struct.Struct(">BBH")


def malformed(message: str, position: int, reason: int = INVALID_PARAMETER) -> RemoteProtocolError:
    """The error for a fault at `position` of a PDU's body."""
    return RemoteProtocolError(f"byte {position + BODY_START}: {message}", 2, reason)


class Fields:
    """A cursor over data[position:end] of a PDU's body; reads move it, never beyond `end`."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int = 0, end: int | None = None) -> None:
        self.data = data
        self.position = position
        self.end = len(data) if end is None else end

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return self.end - self.position

    def advance(self, length: int, what: str) -> int:
        """Skips a field of `length` bytes and returns its position."""
        start = self.position
        if length > self.end - start:
            raise malformed(f"{what} needs {length} bytes, {self.end - start} are left", start)
        self.position = start + length
        return start

    def take(self, length: int, what: str) -> bytes:
        """A field of `length` bytes."""
        start = self.advance(length, what)
        return self.data[start : self.position]

    def uint8(self, what: str) -> int:
        """A field of one byte."""
        return self.data[self.advance(1, what)]

    def uint16(self, what: str) -> int:
        """A field of two bytes, big endian."""
        value: int = _UINT16.unpack_from(self.data, self.advance(2, what))[0]
        return value

    def uint32(self, what: str) -> int:
        """A field of four bytes, big endian."""
        value: int = _UINT32.unpack_from(self.data, self.advance(4, what))[0]
        return value

    def rest(self) -> bytes:
        """Everything up to the end of this item."""
        return self.take(self.remaining, "item")

    def uid(self, length: int, what: str) -> str:
        """A UID of `length` bytes, without the padding that some peers add."""
        start = self.position
        return uid_of(self.take(length, what), what, start)

    def sized(self, what: str) -> bytes:
        """A field preceded by its length in two bytes."""
        return self.take(self.uint16(f"length of {what}"), what)

    def sized_uid(self, what: str) -> str:
        """A UID preceded by its length in two bytes."""
        return self.uid(self.uint16(f"length of {what}"), what)

    def items(self) -> Iterator[tuple[int, int, Fields]]:
        """(item type, position, content) of each item up to the end."""
        for item_type, start, content, end in self.spans():
            yield item_type, start, Fields(self.data, content, end)

    def spans(self) -> Iterator[tuple[int, int, int, int]]:
        """(item type, position, start and end of the content) of each item up to the end; cheap for many items."""
        data, at, limit, unpack = self.data, self.position, self.end, _ITEM.unpack_from
        for _ in range(ITEM_COUNT_MAX):
            if at >= limit:
                return
            content = at + _ITEM.size
            if content > limit:
                raise malformed(f"item header needs {_ITEM.size} bytes, {limit - at} are left", at)
            item_type, _, length = unpack(data, at)
            end = content + length
            if end > limit:
                raise malformed(f"item {item_type:02X}H needs {length} bytes, {limit - content} are left", content)
            self.position = end
            yield item_type, at, content, end
            at = end
        if at < limit:
            raise malformed(f"more than {ITEM_COUNT_MAX} items", at)


@lru_cache(maxsize=1024)
def _text_of_uid(value: bytes) -> str:
    return value.decode("ascii").strip("\0 ")


def uid_of(value: bytes, what: str, position: int) -> str:
    """A UID without the padding that some peers add. Cached: a request repeats the same few UIDs."""
    try:
        return _text_of_uid(value)
    except UnicodeDecodeError:
        raise malformed(f"{what} is not ASCII", position) from None


def item(item_type: int, content: bytes) -> bytes:
    """An encoded item."""
    if len(content) > 0xFFFF:
        raise LocalProtocolError(f"item {item_type:02X}H cannot hold {len(content)} bytes")
    return _ITEM.pack(item_type, 0, len(content)) + content


def sized(content: bytes) -> bytes:
    """A field with its length in two bytes in front."""
    if len(content) > 0xFFFF:
        raise LocalProtocolError(f"a field cannot hold {len(content)} bytes")
    return _UINT16.pack(len(content)) + content


def ascii_bytes(text: str, what: str) -> bytes:
    """`text` for the wire. Raises LocalProtocolError if it is not ASCII."""
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise LocalProtocolError(f"{what} {text!r} is not ASCII") from None
