"""The search in steps: the work between two values; a pause at any step changes no answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from engine.dicom import tags
from engine.index.catalog import Catalog
from engine.index.format.types import Level, Match, Query, Root
from engine.index.query import ranges, walk
from engine.index.query import search as searching
from engine.index.query.explanation import Explanation
from engine.index.query.place import Place
from tests.index.entries import ROOT, Tail, entry

STUDIES, SERIES, INSTANCES = 12, 3, 4
UIDS = {
    Level.PATIENT: tags.PatientID,
    Level.STUDY: tags.StudyInstanceUID,
    Level.SERIES: tags.SeriesInstanceUID,
    Level.IMAGE: tags.SOPInstanceUID,
}

# Keys of every access, at every level: some match everything, some little, some nothing at all.
QUERIES: list[dict[int, bytes]] = [
    {},
    {tags.PatientName: b"Doe*"},
    {tags.StudyDate: b"20240101-20240104"},
    {tags.StudyDescription: b"*7*"},
    {tags.Modality: b"MR"},
    {tags.InstanceNumber: b"3"},
    {tags.InstanceNumber: b"99"},
    {tags.SeriesDescription: b"nothing*"},
    {tags.StudyInstanceUID: f"{ROOT}.3\\{ROOT}.5".encode()},
    {tags.SeriesInstanceUID: f"{ROOT}.4.2".encode()},
    {tags.SOPInstanceUID: f"{ROOT}.4.2.1\\{ROOT}.9.1.4".encode()},
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    opened = Catalog.open(str(tmp_path_factory.mktemp("steps") / "index"), map_bytes=1 << 30)
    tail = Tail()
    opened.apply(
        [
            entry(
                tail,
                study=study,
                series=series,
                instance=instance,
                study_items={tags.StudyDescription: b"head %d" % study, tags.StudyDate: b"202401%02d" % study},
                series_items={tags.Modality: b"MR" if series == 2 else b"CT"},
            )
            for study in range(1, STUDIES + 1)
            for series in range(1, SERIES + 1)
            for instance in range(1, INSTANCES + 1)
        ]
    )
    yield opened
    opened.close()


def query_at(level: Level, keys: dict[int, bytes], limit: int | None = None, offset: int = 0) -> Query:
    return Query(level, {UIDS[level]: b""} | keys, Root.PATIENT, limit=limit, offset=offset, relational=True)


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("keys", QUERIES, ids=lambda keys: "+".join(map(tags.keyword_of, keys)) or "everything")
def test_any_number_of_pauses_gives_the_same_answer(
    index: Catalog, monkeypatch: pytest.MonkeyPatch, level: Level, keys: dict[int, bytes]
) -> None:
    query = query_at(level, keys)
    whole = list(index.search(query))
    for examined_max, keys_max, page in ((1, 1, 1), (2, 3, 2), (4, 5, 3), (7, 1000, 1000)):
        monkeypatch.setattr(walk, "EXAMINED_MAX", examined_max)
        monkeypatch.setattr(ranges, "KEYS_MAX", keys_max)
        monkeypatch.setattr(searching, "FIRST_PAGE", page)
        monkeypatch.setattr(searching, "PAGE", page)
        assert [match for match in index.search_steps(query) if match is not None] == whole
        piece = index.search(query_at(level, keys, limit=3, offset=2))
        assert list(piece) == whole[2:5]


def test_a_search_pauses_even_if_nothing_matches(index: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "EXAMINED_MAX", 10)
    steps = list(index.search_steps(query_at(Level.IMAGE, {tags.InstanceNumber: b"99"})))
    looked_at = STUDIES * (1 + SERIES * (1 + INSTANCES))
    assert len(steps) >= looked_at / 10
    assert not any(steps)


def test_a_step_with_many_tests_per_candidate_tests_fewer_candidates(
    index: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = query_at(Level.STUDY, {tags.StudyDescription: b"X*Y"})
    many = query_at(Level.STUDY, {tags.StudyDescription: b"\\".join([b"?%d*Y" % number for number in range(100)])})
    monkeypatch.setattr(walk, "EXAMINED_MAX", 10)
    assert len(list(index.search_steps(many))) > len(list(index.search_steps(few)))


def test_a_step_ends_when_its_time_is_over(index: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    query = query_at(Level.STUDY, {})
    whole = list(index.search(query))
    monkeypatch.setattr(walk, "STEP_S", 0.0)
    steps = list(index.search_steps(query))
    assert [step for step in steps if step is not None] == whole
    assert steps.count(None) >= len(whole)


def test_keys_are_read_in_steps_too(index: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    query = query_at(Level.STUDY, {tags.StudyDate: b"20240101-20240103"})

    def steps_to_first_match() -> int:
        return [step is not None for step in index.search_steps(query)].index(True)

    at_once = steps_to_first_match()
    monkeypatch.setattr(ranges, "KEYS_MAX", 1)
    assert steps_to_first_match() > at_once


def test_no_transaction_is_open_between_steps(index: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "EXAMINED_MAX", 3)
    monkeypatch.setattr(ranges, "KEYS_MAX", 1)
    monkeypatch.setattr(searching, "FIRST_PAGE", 2)
    pauses = set()
    for step in index.search_steps(query_at(Level.SERIES, {tags.StudyDate: b"20240101-20240109"})):
        assert index._environment._readers == 0
        pauses.add(type(step))
    assert pauses == {Match, type(None)}


def test_matches_are_made_a_page_ahead_and_none_for_what_is_skipped(
    index: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    match_count = 0
    original = Place.match

    def counted(place: Place) -> Match:
        nonlocal match_count
        match_count += 1
        return original(place)

    monkeypatch.setattr(Place, "match", counted)
    monkeypatch.setattr(searching, "FIRST_PAGE", 5)
    monkeypatch.setattr(searching, "PAGE", 7)
    ahead = []
    for count, _ in enumerate(index.search(query_at(Level.IMAGE, {}, offset=100)), 1):
        ahead.append(match_count - count)
    assert match_count == STUDIES * SERIES * INSTANCES - 100
    assert max(ahead) == 6


def test_a_match_has_the_attributes_of_the_levels_above_it(index: Catalog) -> None:
    keys = {
        tags.PatientID: b"",
        tags.StudyInstanceUID: b"",
        tags.NumberOfStudyRelatedInstances: b"",
        tags.SeriesInstanceUID: b"",
        tags.NumberOfSeriesRelatedInstances: b"",
        tags.Modality: b"",
    }
    matches = list(index.search(query_at(Level.IMAGE, keys)))
    assert len(matches) == STUDIES * SERIES * INSTANCES
    for match in matches:
        study, series, _ = match.attributes[tags.SOPInstanceUID].removeprefix(ROOT.encode() + b".").split(b".")
        assert list(match.attributes) == sorted(match.attributes)
        assert match.attributes == {
            tags.Modality: b"MR" if series == b"2" else b"CT",
            tags.PatientID: b"P" + study,
            tags.StudyInstanceUID: f"{ROOT}.".encode() + study,
            tags.SeriesInstanceUID: f"{ROOT}.".encode() + study + b"." + series,
            tags.SOPInstanceUID: match.attributes[tags.SOPInstanceUID],
            tags.NumberOfStudyRelatedInstances: b"%d" % (SERIES * INSTANCES),
            tags.NumberOfSeriesRelatedInstances: b"%d" % INSTANCES,
        }


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("at_once", [1, 100])
def test_matches_after_the_limit_are_counted_up_to_a_number(
    index: Catalog, monkeypatch: pytest.MonkeyPatch, level: Level, at_once: int
) -> None:
    monkeypatch.setattr(searching, "COUNTED_AT_ONCE", at_once)
    for keys in QUERIES:
        count = len(list(index.search(query_at(level, keys))))
        for limit in (0, 1, 3):
            for most in (0, 2, 1000):
                explanation = Explanation()
                query = replace(query_at(level, keys, limit=limit, offset=1), count_max=most)
                matches = list(index.search(query, explanation))
                assert len(matches) == max(min(limit, count - 1), 0)
                assert explanation.beyond == max(min(count - 1 - limit, most), 0)
