"""Maps private keys of a query, in the blocks that its own private creators reserve, to attributes of the index.

    in the query      (0019,0012) ACME 1.0, (0019,12A3) value     or (0019,10A3) value alone, as configured
    in the index      (0019,10A3)

Answers have the tags of the query, private creators included. A private key that is not among the extra attributes
(`dicom.extra`) is unsupported, like any other unknown key. Standard: PS3.5 7.8.1, PS3.4 C.2.2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.dicom import charset, tags
from engine.dicom.schema import Schema
from engine.index.format.types import KeyValue, Match, Query


@dataclass(frozen=True, slots=True)
class PrivateKeys:
    """The private keys of a query, with their tags in the query and in the index."""

    query: Query
    """The query with the tags of the index."""
    query_tags: Mapping[int, int]
    """Tag in the index → tag in the query."""
    creators: Mapping[int, bytes]
    """Private creators of the query."""
    is_unsupported: bool

    def with_query_tags(self, match: Match) -> Match:
        """A match with the tags of the query."""
        attributes = {self.query_tags.get(tag, tag): value for tag, value in match.attributes.items()}
        attributes.update(self.creators)
        return replace(
            match,
            attributes=dict(sorted(attributes.items())),
            unsupported=match.unsupported or self.is_unsupported,
        )


def of(query: Query, schema: Schema) -> PrivateKeys | None:
    """The private keys of a query; None if it has none."""
    if not any(tag & 0x10000 for tag in query.keys):
        return None
    creators = {
        tag: value
        for tag, value in query.keys.items()
        if tags.is_private(tag) and 0x10 <= tag & 0xFFFF <= 0xFF and isinstance(value, bytes)
    }
    keys: dict[int, KeyValue] = {}
    query_tags: dict[int, int] = {}
    is_unsupported = False
    for tag, value in query.keys.items():
        if not tags.is_private(tag):
            keys[tag] = value
        elif tag & 0xFFFF > 0xFF:
            index_tag = _index_tag(tag, creators, query.character_set, schema)
            if index_tag is None or index_tag in query_tags:
                is_unsupported = True
                continue
            keys[index_tag] = value
            query_tags[index_tag] = tag
    return PrivateKeys(replace(query, keys=keys), query_tags, creators, is_unsupported)


def in_index(query: Query, tag: int, schema: Schema) -> int | None:
    """The tag of a key's attribute in the index; None for a private one that the index lacks."""
    if not tags.is_private(tag) or tag & 0xFFFF <= 0xFF:
        return tag
    creator_tag = _creator_tag(tag)
    creator = query.keys.get(creator_tag)
    creators = {creator_tag: creator} if isinstance(creator, bytes) else {}
    return _index_tag(tag, creators, query.character_set, schema)


def vr_of_key(query: Query, tag: int, schema: Schema) -> str:
    """The VR of a key; of a private one the VR of its attribute in the index."""
    index_tag = in_index(query, tag, schema)
    return "UN" if index_tag is None else schema.vr_of(index_tag)


def _creator_tag(tag: int) -> int:
    return tag & 0xFFFF0000 | tag >> 8 & 0xFF


def _index_tag(tag: int, creators: Mapping[int, bytes], character_set: bytes, schema: Schema) -> int | None:
    """The tag of a private element in the index; None if the index lacks it."""
    creator = creators.get(_creator_tag(tag))
    if creator is None:
        return tag if tag in schema.level_of else None
    name = charset.decode(creator, character_set, "LO").strip(" \0")
    attribute = schema.extra_set.find_private(tag >> 16, name, tag & 0xFF)
    return None if attribute is None else attribute.tag
