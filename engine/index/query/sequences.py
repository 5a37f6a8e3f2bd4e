"""What is shown of a sequence: of the items that match, the attributes that were asked for (PS3.4 C.2.2.2.6).

    (0040,0275)                          the whole sequence
    (0040,0275) > an empty item          the whole sequence
    (0040,0275) > (0040,1001) "RP1"      of the items with that Requested Procedure ID, that alone
                > (0032,1060) ""         … and the Requested Procedure Description; empty where the item has none

Whether an entity matches is for `matching`; the conditions of items are the same here and there.
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
"""From a stored sequence, and the Timezone Offset From UTC of its study, to what is shown of it."""

_REMEMBERED_MAX = 64
"""Sequences; those of the series of a study are alike."""


def pick_of(asked: KeyValue, character_set: bytes, rules: Rules) -> Pick | None:
    """How the key of a sequence is answered; None if all of it is shown. Raises QueryError."""
    if isinstance(asked, bytes):
        return None
    alternatives: list[list[Condition]] = []
    picks: dict[int, Pick | None] = {}
    for item in asked:
        keys: Mapping[int, KeyValue] = item.items if isinstance(item, Identifier) else item
        nested_set = (item.character_set if isinstance(item, Identifier) else b"") or character_set
        alternatives.append(conditions(keys, nested_set, rules))
        picks |= {tag: pick_of(value, nested_set, rules) for tag, value in keys.items()}
    if not picks:
        return None

    def pick(stored: bytes, zone: bytes) -> bytes:
        try:
            items_stored = items.decode_items(stored)
        except DataSetError:
            return b""
        shown = [item for item in items_stored if _meets_any(item, alternatives, zone)]
        return items.encode_items([_picked(item, picks, zone, rules.schema) for item in shown])

    return lru_cache(_REMEMBERED_MAX)(pick)


def _meets_any(item: Sequence[Content], alternatives: Sequence[Sequence[Condition]], zone: bytes) -> bool:
    there = {tag: value if vr in BINARY_VRS or vr == "SQ" else value.rstrip(b" \0") for tag, vr, value in item}
    return any(all(one.met_by(there, zone) for one in conditions) for conditions in alternatives)


def _picked(item: Sequence[Content], wanted: Mapping[int, Pick | None], zone: bytes, schema: Schema) -> list[Content]:
    there = {content.tag: content for content in item}
    picked = []
    for tag in sorted(wanted):
        content = there.get(tag) or Content(tag, schema.vr_of(tag), b"")
        pick = wanted[tag]
        picked.append(content._replace(value=pick(content.value, zone)) if pick and content.value else content)
    return picked
