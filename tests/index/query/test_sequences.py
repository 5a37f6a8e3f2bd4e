"""index.query.sequences: the matching items of a sequence, with the requested attributes (PS3.4 C.2.2.2.6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.dicom import items, tags
from engine.dicom.identifier import Identifier
from engine.dicom.items import Content
from engine.errors import QueryError
from engine.index.catalog import Catalog
from engine.index.format.types import Level, Query
from engine.index.query.condition import BASELINE
from engine.index.query.matching import KEY_VALUES_MAX
from engine.index.query.sequences import pick_of
from tests.index.entries import Tail, entry

CODE = [Content(tags.CodeValue, "SH", b"T1"), Content(tags.CodeMeaning, "LO", "Schädel".encode() + b" ")]
OTHER = [Content(tags.CodeValue, "SH", b"T2"), Content(tags.CodeMeaning, "LO", b"Knie")]


def request(number: bytes, *codes: list[Content]) -> list[Content]:
    return [
        Content(tags.RequestedProcedureDescription, "LO", b"Procedure " + number + b" " * (len(number) & 1)),
        Content(tags.ScheduledProtocolCodeSequence, "SQ", items.encode_items(codes)),
        Content(tags.RequestedProcedureID, "SH", number + b" " * (len(number) & 1)),
    ]


STORED = items.encode_items([request(b"RP1", CODE, OTHER), request(b"RP2", CODE), request(b"X3")])


def picked(*key_items: Mapping[int, Any]) -> Any:
    """For each item in the answer: tag → value without padding, for a sequence its items."""
    pick = pick_of([Identifier(dict(item)) for item in key_items], b"", BASELINE)
    return read(STORED if pick is None else pick(STORED, b""))


def read(value: bytes) -> list[dict[int, Any]]:
    return [
        {tag: read(value) if vr == "SQ" else value.rstrip().decode() for tag, vr, value in item}
        for item in items.decode_items(value)
    ]


@pytest.mark.parametrize("key_items", [(), ({},), ({}, {})], ids=str)
def test_without_keys_the_whole_sequence_is_returned(key_items: tuple[dict[int, Any], ...]) -> None:
    assert pick_of([Identifier(item) for item in key_items], b"", BASELINE) is None
    assert picked(*key_items) == read(STORED)
    assert pick_of(b"", b"", BASELINE) is None


def test_the_requested_attributes_of_matching_items_are_returned() -> None:
    assert picked({tags.RequestedProcedureID: b"RP*"}) == [
        {tags.RequestedProcedureID: "RP1"},
        {tags.RequestedProcedureID: "RP2"},
    ]
    assert picked({tags.RequestedProcedureID: b"X3", tags.RequestedProcedureDescription: b""}) == [
        {tags.RequestedProcedureDescription: "Procedure X3", tags.RequestedProcedureID: "X3"}
    ]


def test_a_universal_key_returns_the_attribute_of_every_item_empty_if_missing() -> None:
    assert picked({tags.AccessionNumber: b"", tags.RequestedProcedureID: b""}) == [
        {tags.AccessionNumber: "", tags.RequestedProcedureID: number} for number in ("RP1", "RP2", "X3")
    ]


def test_without_a_matching_item_nothing_is_returned() -> None:
    assert picked({tags.RequestedProcedureID: b"RP9"}) == []
    pick = pick_of([{tags.RequestedProcedureID: b"RP1"}], b"", BASELINE)
    assert pick is not None
    assert pick(b"", b"") == b""
    assert pick(b"this is no item", b"") == b""


def test_a_key_may_have_several_items() -> None:
    items_of_both = picked({tags.RequestedProcedureID: b"RP1"}, {tags.RequestedProcedureID: b"X3"})
    assert [item[tags.RequestedProcedureID] for item in items_of_both] == ["RP1", "X3"]


def test_nested_sequences_are_picked_in_the_same_way() -> None:
    key = {tags.ScheduledProtocolCodeSequence: [Identifier({tags.CodeMeaning: b"Sch*"})]}
    assert picked(key) == [{tags.ScheduledProtocolCodeSequence: [{tags.CodeMeaning: "Schädel"}]}] * 2
    whole = picked({tags.ScheduledProtocolCodeSequence: [], tags.RequestedProcedureID: b"RP1"})
    codes = [{tag: value.rstrip().decode() for tag, _, value in code} for code in (CODE, OTHER)]
    assert whole == [{tags.ScheduledProtocolCodeSequence: codes, tags.RequestedProcedureID: "RP1"}]


def test_keys_of_an_item_are_in_its_own_character_set() -> None:
    code = Identifier({tags.CodeMeaning: "Schädel".encode("latin-1")}, b"ISO_IR 100")
    assert len(picked({tags.ScheduledProtocolCodeSequence: [code]})) == 2


def test_an_invalid_key_is_refused() -> None:
    too_many = b"\\".join([b"RP1"] * (KEY_VALUES_MAX + 1))
    with pytest.raises(QueryError):
        pick_of([{tags.RequestedProcedureID: too_many}], b"", BASELINE)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(str(tmp_path / "index"), map_bytes=1 << 30)
    tail = Tail()
    opened.apply(
        [entry(tail, instance=number, series_items={tags.RequestAttributesSequence: STORED}) for number in (1, 2)]
    )
    yield opened
    opened.close()


@pytest.mark.parametrize("level", [Level.SERIES, Level.IMAGE])
def test_matches_have_the_requested_attributes(index: Catalog, level: Level) -> None:
    keys = {tags.RequestAttributesSequence: [Identifier({tags.RequestedProcedureID: b"RP2"})]}
    matches = list(index.search(Query(level, keys, relational=True)))
    assert len(matches) == (1 if level == Level.SERIES else 2)
    for match in matches:
        assert read(match.attributes[tags.RequestAttributesSequence]) == [{tags.RequestedProcedureID: "RP2"}]
