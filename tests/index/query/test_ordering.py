"""Studies that a search finds in an order, page by page: each match once, whatever lies between the matches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.access.scope import FULL, Attribute, Matching, Scope, scope_of
from engine.dicom import tags
from engine.index.catalog import Catalog
from engine.index.database.transactions import Cursor
from engine.index.format.types import Bookmark, Level, Order, PlacedMatch, Query
from engine.index.query import ordering
from engine.index.query.explanation import Explanation
from tests.index.entries import ROOT, Tail, entry, tombstone

COUNT = 120
WARD = scope_of([frozenset({Matching.of(Attribute.DEPARTMENT, ["Ward"])})])
NAMES = Query(Level.STUDY, {tags.PatientName: b"Found*", tags.StudyInstanceUID: b""})


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Catalog]:
    """Every third study is found, and every second is of the ward; each seventh was deleted."""
    catalog = Catalog.open(str(tmp_path), map_bytes=1 << 28)
    tail = Tail()
    entries = []
    for number in range(1, COUNT + 1):
        name = b"Found^%d" if number % 3 == 0 else b"Other^%d"
        date = {tags.StudyDate: b"" if number % 5 == 0 else b"2026%04d" % (101 + number % 28)}
        patient = {tags.PatientID: b"P%d" % number, tags.PatientName: name % number}
        department = {tags.InstitutionalDepartmentName: b"Ward" if number % 2 else b"Other"}
        entries.append(entry(tail, study=number, patient=patient, study_items=date, series_items=department))
    catalog.apply(entries)
    for number in range(7, COUNT + 1, 7):
        catalog.apply([tombstone(tail, f"{ROOT}.{number}.1.1".encode())])
    yield catalog
    catalog.close()


def _number(uid: bytes) -> int:
    return int(uid.rpartition(b".")[2])


def expected(scope: Scope) -> list[int]:
    is_seen = (lambda number: number % 2) if scope is WARD else (lambda number: True)
    return [number for number in range(1, COUNT + 1) if number % 3 == 0 and number % 7 and is_seen(number)]


def pages(index: Catalog, order: Order, scope: Scope, size: int, skip: int = 0) -> list[int]:
    """The numbers of all matches, asked for in pages of a size, the first of which begins behind `skip`."""
    found: list[int] = []
    after: Bookmark | None = None
    is_over = False
    while not is_over:
        is_over, count = True, 0
        for step in index.ordered_steps(NAMES, order, after, Explanation(), skip=skip, scope=scope):
            if isinstance(step, PlacedMatch):
                found.append(_number(step.match.attributes[tags.StudyInstanceUID]))
                after, count = step.place, count + 1
                if count == size:
                    is_over = False
                    break
        skip = 0
    return found


@pytest.mark.parametrize("scope", [FULL, WARD], ids=["all", "ward"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_matches_come_in_the_order_of_arrival(
    index: Catalog, monkeypatch: pytest.MonkeyPatch, scope: Scope, size: int
) -> None:
    monkeypatch.setattr(ordering, "CHUNK", 4)
    assert pages(index, Order(None), scope, size) == expected(scope)
    assert pages(index, Order(None, True), scope, size) == expected(scope)[::-1]
    assert pages(index, Order(None, True), scope, size, skip=5) == expected(scope)[::-1][5:]
    assert pages(index, Order(None), scope, size, skip=COUNT) == []


@pytest.mark.parametrize("scope", [FULL, WARD], ids=["all", "ward"])
@pytest.mark.parametrize("is_walked", [False, True])
def test_matches_without_a_value_come_last_in_the_order_of_arrival(
    index: Catalog, monkeypatch: pytest.MonkeyPatch, scope: Scope, is_walked: bool
) -> None:
    if is_walked:
        monkeypatch.setattr(ordering, "FEW_MIN", 0)
        monkeypatch.setattr(ordering, "LISTED_FACTOR", 0)
        monkeypatch.setattr(ordering, "CHUNK", 4)
    without = [number for number in expected(scope) if number % 5 == 0]
    dated = sorted(set(expected(scope)) - set(without), key=lambda number: (number % 28, number))
    assert pages(index, Order(tags.StudyDate), scope, 3) == dated + without
    assert pages(index, Order(tags.StudyDate, True), scope, 3) == dated[::-1] + without[::-1]


def test_studies_between_the_matches_are_not_passed(index: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def enter_ids(self: object, cursor: Cursor, number: int) -> None:
        raise AssertionError("the table of studies is walked")

    monkeypatch.setattr(ordering._Ordering, "_enter_ids", enter_ids)
    assert pages(index, Order(None, True), FULL, 5) == expected(FULL)[::-1]
