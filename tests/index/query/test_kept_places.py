"""What is kept of a scope's lists is brought up to date: a list is what it would be if nothing had been kept."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.access.scope import Attribute, Matching, OfPatients, Patient, Scope, scope_of
from engine.dicom import tags
from engine.index.apply import changed_studies
from engine.index.catalog import Catalog
from engine.index.format.entry import Entry
from engine.index.format.types import Bookmark, Level, Order, PlacedMatch, Query
from engine.index.query import kept_places, ordering
from engine.index.query.explanation import Explanation
from engine.index.query.kept_places import KeptPlaces
from tests.index.entries import ROOT, Tail, entry, random_history, tombstone

WARD = scope_of([frozenset({Matching.of(Attribute.DEPARTMENT, ["Ward"])})])
CT = scope_of([frozenset({Matching.of(Attribute.MODALITY, ["CT"])})])
SCOPES = [
    CT,
    scope_of([frozenset({Matching.of(Attribute.SENDER, ["CT1"])})]),
    scope_of([frozenset({Matching.of(Attribute.SENDER, ["?R1"]), Matching.of(Attribute.MODALITY, ["*T", "MR"])})]),
    scope_of([frozenset({OfPatients(frozenset({Patient("P1")}))})]) | CT,
]
ORDERS = [
    Order(None),
    Order(None, True),
    Order(tags.PatientName),
    Order(tags.PatientName, True),
    Order(tags.StudyDescription, True),
]
QUERY = Query(Level.STUDY, {tags.StudyInstanceUID: b""})


def listed(
    index: Catalog, order: Order, scope: Scope, after: Bookmark | None = None, most: int = 1000
) -> list[PlacedMatch]:
    found: list[PlacedMatch] = []
    for step in index.ordered_steps(QUERY, order, after, Explanation(), scope=scope):
        if isinstance(step, PlacedMatch):
            found.append(step)
            if len(found) == most:
                break
    return found


def uids(matches: list[PlacedMatch]) -> list[bytes]:
    return [each.match.attributes[tags.StudyInstanceUID] for each in matches]


def names(*numbers: int) -> list[bytes]:
    return [f"{ROOT}.{number}".encode() for number in numbers]


@pytest.fixture
def index(tmp_path: Path) -> Any:
    catalog = Catalog.open(str(tmp_path), map_bytes=1 << 28)
    yield catalog
    catalog.close()


@pytest.fixture(params=["listed", "walked", "with small limits"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "listed":
        monkeypatch.setattr(ordering, "FEW_MIN", 0)
        monkeypatch.setattr(ordering, "LISTED_FACTOR", 0)
        monkeypatch.setattr(ordering, "CHUNK", 2)
    if request.param == "with small limits":
        monkeypatch.setattr(ordering, "PASSED_AT_ONCE", 2)
        monkeypatch.setattr(kept_places, "PLACES_MAX", 3)
        monkeypatch.setattr(kept_places, "ALL_PLACES_MAX", 8)
        monkeypatch.setattr(kept_places, "UPDATES_MAX", 1)
        monkeypatch.setattr(changed_studies, "CHANGES_MAX", 2)


@pytest.mark.parametrize("seed", range(2))
def test_any_history_between_two_looks_leaves_the_list_of_who_looks_for_the_first_time(
    index: Catalog, monkeypatch: pytest.MonkeyPatch, ways: None, seed: int
) -> None:
    rng = random.Random(seed)
    history = [
        replace(item, calling_ae_title=rng.choice((b"CT1", b"MR1"))) if isinstance(item, Entry) else item
        for item in random_history(rng, 150)
    ]
    seen = set()
    while history:
        count = rng.randrange(1, 12)
        index.apply(history[:count])
        history = history[count:]
        for scope in SCOPES:
            for order in rng.sample(ORDERS, 2):
                most = rng.choice((1, 2, 1000))
                kept = listed(index, order, scope, most=most)
                with monkeypatch.context() as first:
                    first.setattr(ordering, "kept_places", lambda environment: KeptPlaces())
                    first.setattr(kept_places, "kept_places", lambda environment: KeptPlaces())
                    anew = listed(index, order, scope)
                everything = {
                    each.match.attributes[tags.StudyInstanceUID]: each for each in listed(index, order, scope)
                }
                assert kept == anew[:most], f"seed {seed}, {scope}, {order}, {len(history)} left"
                assert list(everything.values()) == anew, f"seed {seed}, {scope}, {order}, {len(history)} left"
                assert {uid for uid in everything if not index.is_in_scope(uid, scope)} == set()
                if kept:
                    at = rng.choice(kept).place
                    rest = anew[[each.place for each in anew].index(at) + 1 :]
                    assert listed(index, order, scope, at) == rest, f"seed {seed}, {scope}, {order}, after {at}"
                seen.add(len(anew))
    assert len(seen) > 2, "the lists should differ"


def studies(tail: Tail, *numbers: int, name: str = "Doe^{}", department: bytes = b"Ward") -> list[Entry]:
    return [
        entry(
            tail,
            study=number,
            patient={tags.PatientID: b"P%d" % number, tags.PatientName: name.format(number).encode()},
            series_items={tags.InstitutionalDepartmentName: department},
        )
        for number in numbers
    ]


BY_NAME = Order(tags.PatientName)


def test_a_second_look_reads_no_value_and_passes_no_key(index: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    index.apply(studies(Tail(), 3, 1, 2))
    assert uids(listed(index, BY_NAME, WARD)) == names(1, 2, 3)
    for method in ("_list", "_next", "_places_of"):
        monkeypatch.setattr(ordering._Ordering, method, None)
    assert uids(listed(index, BY_NAME, WARD)) == names(1, 2, 3)
    with pytest.raises(TypeError):
        listed(index, Order(tags.PatientName, True), WARD)


def test_what_comes_changes_or_goes_after_a_look_is_placed_without_a_new_list(
    index: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = Tail()
    first = studies(tail, 5, 3, 1)
    index.apply(first)
    assert uids(listed(index, BY_NAME, WARD)) == names(1, 3, 5)
    for method in ("_list", "_next", "_places_of"):
        monkeypatch.setattr(ordering._Ordering, method, None)
    index.apply([*studies(tail, 2, 6), *studies(tail, 4, department=b"Other")])
    assert uids(listed(index, BY_NAME, WARD)) == names(1, 2, 3, 5, 6)
    ward = {tags.InstitutionalDepartmentName: b"Ward"}
    patient = {tags.PatientID: b"P4", tags.PatientName: b"Doe^4"}
    index.apply([entry(tail, study=4, series=2, patient=patient, series_items=ward)])
    assert uids(listed(index, BY_NAME, WARD)) == names(1, 2, 3, 4, 5, 6)
    index.apply([tombstone(tail, first[1].sop_instance_uid)])
    assert uids(listed(index, BY_NAME, WARD)) == names(1, 2, 4, 5, 6)
    earlier = entry(tail, study=6, instance=2, stamp=1, patient={tags.PatientID: b"P6", tags.PatientName: b"Aa"})
    index.apply([earlier])
    assert uids(listed(index, BY_NAME, WARD)) == names(6, 1, 2, 4, 5)


def test_a_study_that_leaves_the_scope_within_a_search_is_not_seen(index: Catalog) -> None:
    tail = Tail()
    left = studies(tail, 2)
    stays = entry(tail, study=2, series=2, patient={tags.PatientID: b"P2", tags.PatientName: b"Doe^2"})
    index.apply([*studies(tail, 1, 3), *left, stays])
    assert uids(listed(index, BY_NAME, WARD)) == names(1, 2, 3)
    steps = index.ordered_steps(QUERY, BY_NAME, None, Explanation(), scope=WARD)
    assert next(steps) is None, "the scope has been found"
    index.apply([tombstone(tail, left[0].sop_instance_uid)])
    assert uids([step for step in steps if isinstance(step, PlacedMatch)]) == names(1, 3)


WARD_US = scope_of([frozenset({Matching.of(Attribute.DEPARTMENT, ["Ward"]), Matching.of(Attribute.MODALITY, ["US"])})])


def test_the_studies_of_several_conditions_are_looked_up_once_and_leave_the_scope_at_once(
    index: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = Tail()
    ward_us = {tags.InstitutionalDepartmentName: b"Ward", tags.Modality: b"US"}
    made = [entry(tail, study=number, series_items=ward_us) for number in (1, 2, 3)]
    index.apply([*made, entry(tail, study=2, series=2), *studies(tail, 4)])

    def found() -> list[bytes]:
        return [match.attributes[tags.StudyInstanceUID] for match in index.search(QUERY, scope=WARD_US)]

    assert found() == names(1, 2, 3)
    monkeypatch.setattr(kept_places, "_all_of", None)
    assert found() == names(1, 2, 3)
    index.apply([entry(tail, study=5, series_items=ward_us)])
    assert found() == names(1, 2, 3, 5)
    steps = index.search_steps(QUERY, scope=WARD_US)
    assert next(steps) is None, "the scope has been found"
    index.apply([tombstone(tail, made[1].sop_instance_uid)])
    assert [match.attributes[tags.StudyInstanceUID] for match in steps if match is not None] == names(1, 3, 5)
    assert found() == names(1, 3, 5)


def test_a_search_of_an_earlier_state_leaves_the_places_of_a_later_one(index: Catalog) -> None:
    tail = Tail()
    index.apply(studies(tail, 1, 3))
    earlier = index.ordered_steps(QUERY, BY_NAME, None, Explanation(), scope=WARD)
    assert next(earlier) is None
    index.apply(studies(tail, 2))
    assert uids(listed(index, BY_NAME, WARD)) == names(1, 2, 3)
    assert names(1, 3) == [
        uid for uid in uids([step for step in earlier if isinstance(step, PlacedMatch)]) if uid != names(2)[0]
    ]
    assert uids(listed(index, BY_NAME, WARD)) == names(1, 2, 3)


def test_what_a_search_of_an_earlier_state_adds_is_brought_up_to_date(
    index: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "FEW_MIN", 0)
    monkeypatch.setattr(ordering, "LISTED_FACTOR", 0)
    monkeypatch.setattr(ordering, "CHUNK", 2)
    tail = Tail()
    index.apply(studies(tail, 1, 2, 3, 4))
    earlier = index.ordered_steps(QUERY, BY_NAME, None, Explanation(), scope=WARD)
    assert uids([step for step in (next(earlier) for _ in range(5)) if isinstance(step, PlacedMatch)]) == names(1, 2)
    index.apply(studies(tail, 5))
    assert uids(listed(index, BY_NAME, WARD, most=1)) == names(1), "the places are now of the later state"
    assert uids([step for step in earlier if isinstance(step, PlacedMatch)])[:2] == names(3, 4)
    assert uids(listed(index, BY_NAME, WARD)) == names(1, 2, 3, 4, 5)


def test_after_more_changes_than_are_noted_the_list_is_made_anew(
    index: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changed_studies, "CHANGES_MAX", 2)
    tail = Tail()
    index.apply(studies(tail, *range(1, 7)))
    assert uids(listed(index, BY_NAME, WARD)) == names(1, 2, 3, 4, 5, 6)
    for number in (1, 3, 5):
        patient = {tags.PatientID: b"P%d" % number, tags.PatientName: b"Roe^%d" % number}
        index.apply([entry(tail, study=number, instance=2, stamp=1, patient=patient)])
    assert uids(listed(index, BY_NAME, WARD)) == names(2, 4, 6, 1, 3, 5)


def test_the_lists_of_an_index_take_bounded_memory(index: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_places, "PLACES_MAX", 3)
    monkeypatch.setattr(kept_places, "ALL_PLACES_MAX", 9)
    index.apply([one for ward in range(6) for one in studies(Tail(), 2 * ward, 2 * ward + 1, department=b"%d" % ward)])
    for ward in range(6):
        scope = scope_of([frozenset({Matching.of(Attribute.DEPARTMENT, [str(ward)])})])
        assert len(listed(index, BY_NAME, scope)) == 2
    lists = kept_places.kept_places(index._environment)._lists
    assert sum(len(kept.places) for kept in lists.values()) <= 9
    assert len(lists) > 1
