"""A fast path for the two commands of each stored instance, C-STORE-RQ and C-STORE-RSP: one pack or unpack each.

It is only an optimisation, for the element order that PS3.7 6.3.1 requires; other commands use the general codec,
`dimse.message_codec`. A test compares both.

    group length (12) | 0002 class UID | 0100 | three more US elements | 1000 instance UID
                                         └──────── 40 bytes ────────┘
    C-STORE-RQ    0110 message id, 0700 priority, 0800 data set type
    C-STORE-RSP   0120 message id responded to, 0800 data set type, 0900 status
"""

from __future__ import annotations

import struct
from typing import Final

from .command import NO_DATA_SET

# A tag as one little endian number: its group, 0000, is the low half.
_CLASS: Final = 0x0002 << 16
_FIELD: Final = 0x0100 << 16
_MESSAGE_ID: Final = 0x0110 << 16
_RESPONDED_TO: Final = 0x0120 << 16
_PRIORITY: Final = 0x0700 << 16
_DATA_SET_TYPE: Final = 0x0800 << 16
_STATUS: Final = 0x0900 << 16
_INSTANCE: Final = 0x1000 << 16

_START: Final = struct.Struct("<IIIII")  # group length element, tag and length of the class UID
_START_BYTES: Final = _START.size
_MIDDLE: Final = struct.Struct("<IIHIIHIIHIIHII")  # four US elements, tag and length of the instance UID
_MIDDLE_BYTES: Final = _MIDDLE.size


def decode_c_store_rq(data: bytes) -> tuple[int, str, str, int] | None:
    """Message id, class UID, instance UID, priority of a C-STORE-RQ without move originator; None if it is not one."""
    try:
        tag0, length0, _, tag1, class_length = _START.unpack_from(data)
        at = _START_BYTES + class_length
        middle = _MIDDLE.unpack_from(data, at)
        start = at + _MIDDLE_BYTES
        if (
            tag0 != 0
            or length0 != 4
            or tag1 != _CLASS
            or middle[:5] != (_FIELD, 2, 1, _MESSAGE_ID, 2)
            or middle[6:8] != (_PRIORITY, 2)
            or middle[9:11] != (_DATA_SET_TYPE, 2)
            or middle[11] == NO_DATA_SET
            or middle[12] != _INSTANCE
            or start + middle[13] != len(data)
        ):
            return None
        class_uid = data[_START_BYTES:at].strip(b"\0 ").decode("ascii")
        return middle[5], class_uid, data[start:].strip(b"\0 ").decode("ascii"), middle[8]
    except (struct.error, UnicodeDecodeError):
        return None


def encode_c_store_rq(message_id: int, class_uid: str, instance_uid: str, priority: int) -> bytes:
    """A C-STORE-RQ with a data set and without move originator; empty if a value does not fit."""
    try:
        first, second = _even(class_uid), _even(instance_uid)
        return (
            _START.pack(0, 4, len(first) + len(second) + 56, _CLASS, len(first))
            + first
            + _MIDDLE.pack(
                *(_FIELD, 2, 0x0001, _MESSAGE_ID, 2, message_id, _PRIORITY, 2, priority),
                *(_DATA_SET_TYPE, 2, 0x0001, _INSTANCE, len(second)),
            )
            + second
        )
    except (struct.error, UnicodeEncodeError):
        return b""


def encode_c_store_rsp(responded_to: int, class_uid: str, instance_uid: str, status: int) -> bytes:
    """A C-STORE-RSP with a status only; empty if a value does not fit."""
    try:
        first, second = _even(class_uid), _even(instance_uid)
        return (
            _START.pack(0, 4, len(first) + len(second) + 56, _CLASS, len(first))
            + first
            + _MIDDLE.pack(
                *(_FIELD, 2, 0x8001, _RESPONDED_TO, 2, responded_to, _DATA_SET_TYPE, 2, NO_DATA_SET),
                *(_STATUS, 2, status, _INSTANCE, len(second)),
            )
            + second
        )
    except (struct.error, UnicodeEncodeError):
        return b""


def _even(uid: str) -> bytes:
    value = uid.encode("ascii")
    return value + b"\0" if len(value) & 1 else value
