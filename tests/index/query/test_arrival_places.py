"""index.query.arrival_places, index.query.ordering: a place far down is the same with marks and leaps as without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.dicom import tags
from engine.index.catalog import Catalog
from engine.index.format.types import Bookmark, Level, Order, PlacedMatch, Query
from engine.index.query import arrival_places, ordering
from engine.index.query.explanation import Explanation
from tests.index.entries import ROOT, Tail, entry, tombstone

STUDIES = 57


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks and pauses at a few studies."""
    monkeypatch.setattr(ordering, "SKIPPED_AT_ONCE", 3)
    monkeypatch.setattr(arrival_places, "EVERY", 10)
    monkeypatch.setattr(arrival_places, "COUNTED_AT_ONCE", 7)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(str(tmp_path / "index"), map_bytes=1 << 30)
    yield opened
    opened.close()


def uids(index: Catalog, skip: int, *, is_descending: bool) -> list[str]:
    query = Query(Level.STUDY, {tags.StudyInstanceUID: b""})
    steps = index.ordered_steps(query, Order(None, is_descending), None, Explanation(), skip=skip)
    return [step.match.attributes[tags.StudyInstanceUID].decode() for step in steps if isinstance(step, PlacedMatch)]


def check(index: Catalog, numbers: list[int]) -> None:
    expected = [f"{ROOT}.{number}" for number in numbers]
    for skip in (0, 1, 4, 9, 10, 11, 20, 21, 37, len(expected) - 1, len(expected), len(expected) + 9):
        assert uids(index, skip, is_descending=False) == expected[skip:], skip
        assert uids(index, skip, is_descending=True) == expected[::-1][skip:], skip


def test_marks_lead_to_the_same_place_as_counting_while_studies_come_and_go(index: Catalog) -> None:
    tail = Tail()
    numbers = list(range(1, STUDIES + 1))
    entries = {number: entry(tail, study=number, series=1, instance=1) for number in range(1, 2 * STUDIES + 1)}
    check(index, [])
    index.apply([entries[number] for number in numbers])
    check(index, numbers)
    more = list(range(STUDIES + 1, 2 * STUDIES + 1))
    index.apply([entries[number] for number in more])
    check(index, numbers + more)
    deleted = [1, 12, 30, 2 * STUDIES]
    index.apply([tombstone(tail, entries[number].sop_instance_uid) for number in deleted])
    check(index, [number for number in numbers + more if number not in deleted])


@pytest.mark.parametrize("is_descending", [False, True])
def test_a_place_in_the_order_of_names_that_many_share_is_that_of_counting(index: Catalog, is_descending: bool) -> None:
    tail = Tail()
    names = [b"", b"Adams^Ann", b"Baker^Bob", b"Baker^Bob", *[b"Clark^Cleo"] * 9, b"Davis^Dan", *[b"Evans^Eve"] * 4]
    index.apply(
        [
            entry(tail, study=number, patient={tags.PatientID: b"P%d" % number, tags.PatientName: name})
            for number, name in enumerate(names, 1)
        ]
    )
    query, order = Query(Level.STUDY, {tags.StudyInstanceUID: b""}), Order(tags.PatientName, is_descending)

    def places(after: Bookmark | None, skip: int) -> list[Bookmark]:
        steps = index.ordered_steps(query, order, after, Explanation(), skip=skip)
        return [step.place for step in steps if isinstance(step, PlacedMatch)]

    everything = places(None, 0)
    assert len(everything) == len(names)
    for skip in range(len(names) + 2):
        assert places(None, skip) == everything[skip:]
    for at, place in enumerate(everything):
        for skip in range(6):
            assert places(place, skip) == everything[at + 1 + skip :], (at, skip)
