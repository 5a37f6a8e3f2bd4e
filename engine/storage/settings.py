"""The [storage] table: the append-only log."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from engine.setting import GIB, MIB


class Storage(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The append-only log."""

    segment_bytes: Annotated[int, Meta(ge=1 * MIB, le=1024 * GIB)] = 1 * GIB
    """Length of a segment: 2 000 CT instances. Large enough that seals are rare, small enough to move, copy or compact
    one in seconds."""

    prewrite_bytes: Annotated[int, Meta(ge=0, le=1024 * GIB)] = 512 * MIB
    """Bytes of a spare segment that are written with zeros ahead, so that a durable burst of that length (a study of
    1 000 CT instances) needs no block allocation and no journal commit: measured a third faster. Each such byte is
    written twice; 0: off."""

    versions_max: Annotated[int, Meta(ge=1, le=100_000)] = 100
    """The most versions of one SOP Instance UID that are kept aside; a further one with other bytes is refused (A700).
    A device that gives all its images one UID sends thousands, and each store looks at the keys of all of them. People
    make a handful; `filmroom quarantine` lists and drops them."""
