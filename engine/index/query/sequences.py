"""Picks the part of a sequence to return: the requested attributes of the matching items (PS3.4 C.2.2.2.6).

    (0040,0275)                          the whole sequence
    (0040,0275) > an empty item          the whole sequence
    (0040,0275) > (0040,1001) "RP1"      of the items with this Requested Procedure ID, only that attribute
                > (0032,1060) ""         … and the Requested Procedure Description; empty if the item has none

`matching` decides whether an entity matches; the conditions of items are the same in both modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from engine.dicom import items
from engine.dicom.identifier import BINARY_VRS, Identifier
from engine.dicom.items import Content
from engine.dicom.schema import Schema
from engine.errors import DataSetError
from engine.index.format.types import KeyValue
from engine.index.query.condition import Condition, Rules
from engine.index.query.matching import conditions

Pick: TypeAlias = "Callable[[bytes, bytes], bytes]"
"""Makes the part to return from a stored sequence and the Timezone Offset From UTC of its study."""

_CACHED_MAX = 64
"""Cached sequences; those of the series of a study are often equal."""


def pick_of(key: KeyValue, character_set: bytes, rules: Rules) -> Pick | None:
    """The pick for the key of a sequence; None: return the whole sequence. Raises QueryError."""
    if isinstance(key, bytes):
        return None
    alternatives: list[list[Condition]] = []
    picks: dict[int, Pick | None] = {}
    for item in key:
        keys: Mapping[int, KeyValue] = item.items if isinstance(item, Identifier) else item
        nested_set = (item.character_set if isinstance(item, Identifier) else b"") or character_set
        alternatives.append(conditions(keys, nested_set, rules))
        picks |= {tag: pick_of(value, nested_set, rules) for tag, value in keys.items()}
    if not picks:
        return None

    def pick(stored: bytes, zone: bytes) -> bytes:
        try:
            stored_items = items.decode_items(stored)
        except DataSetError:
            return b""
        matches = [item for item in stored_items if _meets_any(item, alternatives, zone)]
        return items.encode_items([_pick_attributes(item, picks, zone, rules.schema) for item in matches])

    return lru_cache(_CACHED_MAX)(pick)


def _meets_any(item: Sequence[Content], alternatives: Sequence[Sequence[Condition]], zone: bytes) -> bool:
    values = {tag: value if vr in BINARY_VRS or vr == "SQ" else value.rstrip(b" \0") for tag, vr, value in item}
    return any(all(condition.met_by(values, zone) for condition in conditions) for conditions in alternatives)


def _pick_attributes(
    item: Sequence[Content], picks: Mapping[int, Pick | None], zone: bytes, schema: Schema
) -> list[Content]:
    by_tag = {content.tag: content for content in item}
    attributes = []
    for tag in sorted(picks):
        content = by_tag.get(tag) or Content(tag, schema.vr_of(tag), b"")
        pick = picks[tag]
        attributes.append(content._replace(value=pick(content.value, zone)) if pick and content.value else content)
    return attributes
