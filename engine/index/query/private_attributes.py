"""Private keys of a query, in the blocks that its own private creators reserve, as the attributes that the index keeps.

    in the query      (0019,0012) ACME 1.0, (0019,12A3) value     or (0019,10A3) value alone, as it is configured
    in the index      (0019,10A3)

Answers have the tags of the query, private creators included. A private key of a creator or element that is not among
the extra attributes (`dicom.extra`) is one that is not supported, like any other. Standard: PS3.5 7.8.1, PS3.4 C.2.2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.dicom import charset, tags
from engine.dicom.schema import Schema
from engine.index.format.types import KeyValue, Match, Query


@dataclass(frozen=True, slots=True)
class Private:
    """What the private keys of a query are called here and there."""

    query: Query
    """With the tags of the index."""
    asked_as: Mapping[int, int]
    """Tag in the index → tag in the query."""
    creators: Mapping[int, bytes]
    """Private creators of the query."""
    is_unsupported: bool

    def restored(self, match: Match) -> Match:
        """A match with the tags of the query."""
        attributes = {self.asked_as.get(tag, tag): value for tag, value in match.attributes.items()}
        attributes.update(self.creators)
        return replace(
            match,
            attributes=dict(sorted(attributes.items())),
            unsupported=match.unsupported or self.is_unsupported,
        )


def of(query: Query, schema: Schema) -> Private | None:
    """The private keys of a query; None if it has none."""
    if not any(tag & 0x10000 for tag in query.keys):
        return None
    creators = {
        tag: value
        for tag, value in query.keys.items()
        if tags.is_private(tag) and 0x10 <= tag & 0xFFFF <= 0xFF and isinstance(value, bytes)
    }
    keys: dict[int, KeyValue] = {}
    asked_as: dict[int, int] = {}
    is_unsupported = False
    for tag, value in query.keys.items():
        if not tags.is_private(tag):
            keys[tag] = value
        elif tag & 0xFFFF > 0xFF:
            entry = _kept(tag, creators, query.character_set, schema)
            if entry is None or entry in asked_as:
                is_unsupported = True
                continue
            keys[entry] = value
            asked_as[entry] = tag
    return Private(replace(query, keys=keys), asked_as, creators, is_unsupported)


def in_index(query: Query, tag: int, schema: Schema) -> int | None:
    """What the index calls the attribute that a key asks for; None for a private one that it does not keep."""
    if not tags.is_private(tag) or tag & 0xFFFF <= 0xFF:
        return tag
    creator_tag = _creator_tag(tag)
    creator = query.keys.get(creator_tag)
    creators = {creator_tag: creator} if isinstance(creator, bytes) else {}
    return _kept(tag, creators, query.character_set, schema)


def vr_of_key(query: Query, tag: int, schema: Schema) -> str:
    """The VR of a key: of a private one that of the attribute that it asks for."""
    entry = in_index(query, tag, schema)
    return "UN" if entry is None else schema.vr_of(entry)


def _creator_tag(tag: int) -> int:
    return tag & 0xFFFF0000 | tag >> 8 & 0xFF


def _kept(tag: int, creators: Mapping[int, bytes], character_set: bytes, schema: Schema) -> int | None:
    """What the index calls a private element."""
    creator = creators.get(_creator_tag(tag))
    if creator is None:
        return tag if tag in schema.level_of else None
    name = charset.decode(creator, character_set, "LO").strip(" \0")
    attribute = schema.extra_set.find_private(tag >> 16, name, tag & 0xFF)
    return None if attribute is None else attribute.tag
