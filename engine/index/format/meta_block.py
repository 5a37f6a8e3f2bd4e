"""What the meta blocks of all kinds of records share: their version, the limit of their texts, and checked reading."""

from __future__ import annotations

import struct

from engine.errors import IndexError_
from engine.storage.record import Record

META_VERSION = 1
TEXT_BYTES_MAX = 4096
"""Longer texts in `by` and `reason` are cut."""


def unpack_head(fields: struct.Struct, record: Record) -> tuple[int, ...]:
    """The fields at the start of a meta block. Raises IndexError_ when it is too short."""
    try:
        return fields.unpack_from(record.meta)
    except struct.error as error:
        raise too_short(record) from error


def check_version(version: int, record: Record) -> None:
    """Raises IndexError_ for a version of the meta block that this engine does not read."""
    if version != META_VERSION:
        raise IndexError_(
            f"the meta block of {record.position} has version {version}; this engine reads {META_VERSION}"
        )


def too_short(record: Record) -> IndexError_:
    """The error for a meta block that ends early."""
    return IndexError_(f"the meta block of {record.position} is too short")


def read_texts(record: Record, at: int, *lengths: int) -> list[bytes]:
    """The values of a meta block, which are end to end from `at` on. Raises IndexError_ when it is too short."""
    texts = []
    for length in lengths:
        texts.append(record.meta[at : at + length])
        at += length
    if at > len(record.meta):
        raise too_short(record)
    return texts
