"""Checks whether a key meets stored values, and if so, whether its ranges and pieces find them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from engine.dicom import tags
from engine.dicom.schema import STANDARD
from engine.index.format.terms import normal_values, search_keys
from engine.index.query.condition import BASELINE, Condition, Rules
from engine.index.query.matching import condition, conditions


def met(tag: int, key: str, stored: str, character_set: bytes = b"ISO_IR 192", rules: Rules = BASELINE) -> bool:
    key_condition = condition(tag, key.encode(), character_set, rules)
    return key_condition is None or meets(key_condition, {tag: stored.encode()})


def meets(key_condition: Condition, items: Mapping[int, bytes], zone: bytes = b"") -> bool:
    """Whether a condition is met; if so, its ranges and pieces must find the value."""
    is_met = key_condition.met_by(items, zone)
    stored = items.get(key_condition.tag, b"")
    if is_met and key_condition.ranges is not None:
        for ranges in (key_condition.ranges, *key_condition.also):
            assert in_ranges(ranges, items), f"{items} meets it and its ranges do not hold it"
    if is_met and key_condition.infix:
        texts = [
            text.encode()
            for normal in normal_values(tags.vr_of(key_condition.tag), stored)
            for text in _texts(key_condition.tag, normal)
        ]
        assert any(piece in text for piece in key_condition.infix for text in texts), (
            f"{stored!r} has none of {key_condition.infix}"
        )
    if is_met and key_condition.may_meet is not None:
        assert key_condition.may_meet(
            key_condition.tag.to_bytes(4, "little") + len(stored).to_bytes(4, "little") + stored
        )
    return is_met


def _texts(tag: int, normal: str) -> list[str]:
    return normal.split("=") if tags.vr_of(tag) == "PN" else [normal]


def in_ranges(ranges: Sequence[tuple[bytes, bytes]], items: Mapping[int, bytes]) -> bool:
    sources = {tags.Modality if tag == tags.ModalitiesInStudy else tag: value for tag, value in items.items()}
    return any(low <= key < high for key in search_keys(sources, STANDARD) for low, high in ranges)


def meet_all(
    keys: Mapping[int, str], stored: Mapping[int, str], rules: Rules, zone: str = "", character_set: bytes = b""
) -> bool:
    items = {tag: value.encode() for tag, value in stored.items()}
    all_conditions = conditions({tag: value.encode() for tag, value in keys.items()}, character_set, rules)
    return all(meets(key_condition, items, zone.encode()) for key_condition in all_conditions)


def texts_of(parts: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(parts), max_size=6).map("".join)
