"""The access that answers a query: never too narrow, and cheap if possible."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.dicom import tags
from engine.dicom.schema import STANDARD
from engine.index.catalog import Catalog
from engine.index.format import terms
from engine.index.format.types import Level, Query, Root
from engine.index.query import access, ranges, text_scan
from engine.index.query.explanation import Explanation
from tests.index.entries import ROOT, Tail, entry, tombstone

FAMILIES = ["Meier", "Meyer", "Maier", "Schmidt", "Schmitt", "Smith", "Doe", "Müller", "Mueller", "山田"]
GIVEN = ["Anna", "Ana", "Jörg", "Joerg", "John", "Jon", ""]
MODALITIES = ["CT", "MR", "US"]
STUDIES = 260


def archive(directory: Path, seed: int, count: int = STUDIES) -> Catalog:
    """Studies of one or two series each; some values are absent, some are the same in many studies."""
    rng = random.Random(seed)
    index = Catalog.open(str(directory), map_bytes=1 << 30)
    tail = Tail()
    entries = []
    for study in range(1, count + 1):
        name = f"{rng.choice(FAMILIES)}^{rng.choice(GIVEN)}"
        above: dict[str, Mapping[int, bytes]] = {
            "patient": {tags.PatientName: name.encode(), tags.PatientID: b"P%d" % (study // 3)},
            "study_items": {
                tags.StudyDate: b"2024%02d%02d" % (rng.randrange(1, 13), rng.randrange(1, 29)),
                tags.StudyTime: b"%02d%02d" % (rng.randrange(24), rng.randrange(60)),
                tags.StudyDescription: rng.choice((b"Thorax", b"Knee left", b"Knee right", b"")),
                tags.ReferringPhysicianName: rng.choice(FAMILIES).encode(),
            },
        }
        for series in range(1, rng.randrange(2, 4)):
            modality = {tags.Modality: rng.choice(MODALITIES).encode()}
            entries.append(
                entry(tail, study=study, series=series, character_set=b"ISO_IR 192", series_items=modality, **above)  # type: ignore[arg-type]
            )
    rng.shuffle(entries)
    index.apply(entries)
    return index


def walked(index: Catalog, query: Query, monkeypatch: pytest.MonkeyPatch) -> list[dict[int, bytes]]:
    """The answer if every patient or study is tested."""
    with monkeypatch.context() as without:
        without.setattr(access, "_tops_by_range", _nothing)
        without.setattr(access, "_text_condition", lambda walk: None)
        without.setattr(access, "_studies_by_uid", _nothing)
        explanation = Explanation()
        matches = [match.attributes for match in index.search(query, explanation)]
        assert explanation.access.startswith("every ")
    return matches


def _nothing(*_: Any) -> Any:
    yield
    return None


def random_query(rng: random.Random) -> tuple[Query, str]:
    name = f"{rng.choice(FAMILIES)}^{rng.choice(GIVEN)}"
    day = f"2024{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}"
    choices: dict[int, list[str]] = {
        tags.PatientName: [name, name[:2] + "*", "*" + name[2:5] + "*", "?" + name[1:], "*^" + name[-3:] + "*", "M*r*"],
        tags.PatientID: [f"P{rng.randrange(90)}", "P1*", "*7", f"P1\\P{rng.randrange(90)}\\nobody"],
        tags.StudyDate: [day, f"{day}-", f"-{day}", "20240301-20240315"],
        tags.StudyTime: ["1000-1200", "08-", "2359"],
        tags.StudyDescription: ["*nee*", "Thorax", "Knee*", "*left", "*o*"],
        tags.ReferringPhysicianName: [rng.choice(FAMILIES), "*mi*", "S*"],
        tags.AccessionNumber: [f"A{rng.randrange(STUDIES)}", "A1*", "*1*"],
        tags.ModalitiesInStudy: ["CT", "MR\\US", "M*", "XX"],
        tags.StudyInstanceUID: [f"{ROOT}.{rng.randrange(STUDIES)}\\{ROOT}.{rng.randrange(STUDIES)}"],
    }
    keys_of_query = {tag: rng.choice(choices[tag]) for tag in rng.sample(list(choices), rng.randrange(1, 5))}
    level = rng.choice((Level.PATIENT, Level.STUDY, Level.STUDY, Level.SERIES, Level.IMAGE))
    if level != Level.STUDY:
        keys_of_query.pop(tags.ModalitiesInStudy, None)
    if level >= Level.SERIES and rng.random() < 0.4:
        keys_of_query[tags.Modality] = rng.choice(MODALITIES)
    returned: dict[int, str] = {tags.PatientID: "", tags.AccessionNumber: "", tags.SeriesInstanceUID: ""}
    limit = rng.choice((None, None, 1, 7))
    offset = rng.choice((0, 0, 3))
    keys = {tag: text.encode() for tag, text in (returned | keys_of_query).items()}
    query = Query(level, keys, Root.PATIENT, b"ISO_IR 192", limit, offset, relational=True, fuzzy=rng.random() < 0.3)
    return query, f"{level.name} {keys_of_query} {limit} {offset} fuzzy={query.fuzzy}"


@pytest.mark.parametrize("seed", range(6))
def test_no_access_misses_a_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    index = archive(tmp_path, seed)
    rng = random.Random(seed)
    used = set()
    for turn in range(120):
        with monkeypatch.context() as small:
            # Small numbers, so that some hundred studies are as many as a million.
            for name, value in {
                "_FEW": 2,
                "_SHORT": 9,
                "ROWS_MAX": 4,
                "_SIEVE_MIN": 4,
            }.items():
                small.setattr(access, name, value)
            small.setattr(ranges, "KEYS_MAX", 7)
            small.setattr(ranges, "_CHUNK", 3)
            small.setattr(access, "_COUNT_LIMITS", rng.choice(((2, 5), (4, 400))))
            small.setattr(access, "_WIDE_SHARE", rng.choice((1, 3, 8)))
            small.setattr(access, "_SERIES_IDS", rng.choice((1, 8)))
            row_count = rng.choice((1, 40))
            small.setattr(access, "_row_count", lambda walk, count=row_count: count)
            small.setattr(text_scan, "ROWS_MAX", 2)
            small.setattr(text_scan, "_STEP_ROWS", 1)
            query, description = random_query(rng)
            explanation = Explanation()
            matches = [match.attributes for match in index.search(query, explanation)]
        assert matches == walked(index, query, monkeypatch), (
            f"seed {seed} turn {turn}: {description}: {explanation.access}"
        )
        used.add(explanation.access.split(":")[0])
        assert explanation.matches == len(matches)
        if turn % 20 == 10:
            _change(index, rng, turn)
    assert used >= {"search", "texts", "Study Instance UID"}
    index.close()


def _change(index: Catalog, rng: random.Random, turn: int) -> None:
    """Some studies are deleted, some added, some renamed by an earlier instance."""
    tail = Tail()
    tail.stamp = 100_000 * turn
    tail.ends[1] = 1_000_000 * turn
    deleted_uids = [f"{ROOT}.{rng.randrange(1, STUDIES)}.1.1".encode() for _ in range(20)]
    index.apply([tombstone(tail, *deleted_uids)])
    index.apply([entry(tail, study=STUDIES + turn, patient={tags.PatientName: b"Meier^New"})])
    for study in rng.sample(range(1, STUDIES), 10):
        earlier = entry(tail, study=study, series=1, instance=turn, stamp=500 - turn)
        index.apply([earlier])


def explained(index: Catalog, keys: Mapping[int, bytes], level: Level = Level.STUDY, **more: Any) -> Explanation:
    explanation = Explanation()
    query = Query(level, {tags.PatientID: b"", **keys}, Root.PATIENT, b"ISO_IR 192", relational=True, **more)
    assert sum(1 for _ in index.search(query, explanation)) == explanation.matches
    return explanation


def test_exact_keys_read_only_the_entities_that_they_name(tmp_path: Path) -> None:
    index = archive(tmp_path, 1)
    for keys, words, count in (
        ({tags.PatientID: b"P7"}, "search: PatientID exact", 3),
        ({tags.AccessionNumber: b"A7"}, "search: AccessionNumber exact", 1),
        ({tags.AccessionNumber: b"A7", tags.PatientName: b"*a*", tags.StudyDate: b"2024-"}, None, 1),
        ({tags.StudyInstanceUID: f"{ROOT}.7".encode()}, "Study Instance UID", 1),
        ({tags.AccessionNumber: b"A7\\A9\\A11"}, "search: AccessionNumber list", 3),
    ):
        explanation = explained(index, keys)
        assert explanation.candidates == count, explanation
        assert explanation.keys_read <= count
        assert explanation.access == (words or "search: AccessionNumber exact")
    assert explained(index, {tags.SeriesInstanceUID: f"{ROOT}.7.1".encode()}, Level.SERIES).candidates == 1
    assert explained(index, {tags.SOPInstanceUID: f"{ROOT}.7.1.1".encode()}, Level.IMAGE).candidates == 1
    assert explained(index, {tags.AccessionNumber: b"none"}).candidates == 0
    index.close()


def test_conditions_are_met_together_before_anything_is_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_FEW", 2)
    monkeypatch.setattr(access, "_SERIES_IDS", 1)
    index = archive(tmp_path, 1)
    alone = explained(index, {tags.StudyDate: b"20240301-20240331"})
    both = explained(index, {tags.StudyDate: b"20240301-20240331", tags.PatientName: b"M*"})
    assert both.access == "search: StudyDate range and PatientName prefix"
    assert both.matches == both.candidates < alone.candidates
    day = explained(index, {tags.StudyDate: b"20240301-20240331", tags.ModalitiesInStudy: b"CT"})
    assert day.access == "search: StudyDate range and Modality exact"
    assert day.matches == day.candidates
    index.close()


def test_a_few_matches_of_a_wide_condition_are_found_without_reading_all_its_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_SHORT", 10)
    index = archive(tmp_path, 1)
    explanation = explained(index, {tags.StudyDate: b"2024-"}, limit=10)
    assert (explanation.access, explanation.keys_read, explanation.examined) == ("every study", 0, 10)
    monkeypatch.setattr(access, "_WIDE_SHARE", 1)
    narrow = explained(index, {tags.StudyDate: b"20240101-20240701"}, limit=1)
    assert (narrow.access, narrow.keys_read) == ("every study", 0)
    assert explained(index, {tags.StudyDate: b"20240101-20240701"}).access == "search: StudyDate range"
    index.close()


def test_names_that_sound_alike_are_candidates_and_few_others(tmp_path: Path) -> None:
    index = archive(tmp_path, 1)
    explanation = explained(index, {tags.PatientName: b"Anna Meier"}, fuzzy=True)
    assert explanation.access == "search: PatientName sound"
    assert 0 < explanation.matches <= explanation.candidates < STUDIES // 3
    index.close()


def test_a_candidate_counts_once_in_any_number_of_pages(tmp_path: Path) -> None:
    index = archive(tmp_path, 1, 3)
    tail = Tail()
    tail.stamp = 9_000
    index.apply([entry(tail, study=2, series=1, instance=number) for number in range(2, 100)])
    explanation = explained(index, {tags.StudyInstanceUID: f"{ROOT}.2".encode(), tags.SOPInstanceUID: b""}, Level.IMAGE)
    assert explanation.pages > 1
    assert explanation.candidates == 1
    assert explanation.examined >= explanation.matches >= 99
    index.close()


def test_an_explanation_has_no_value_in_it(tmp_path: Path) -> None:
    index = archive(tmp_path, 1)
    for keys in ({tags.PatientName: b"Meier*"}, {tags.PatientName: b"*eier*"}, {tags.PatientID: b"P7"}):
        assert not any(text in str(explained(index, keys).summary()) for text in ("eier", "P7", "EIER"))
    assert explained(index, {}, Level.PATIENT).access == "every patient"
    index.close()


def test_a_word_has_ranges_by_sound_and_a_prefix_has_one_by_spelling() -> None:
    by_sound, by_beginning = terms.ranges_of_words(tags.PatientName, [("meier", False), ("jo", True)])
    assert _hit(by_sound, b"Maier^Anna")
    assert not _hit(by_sound, b"Schulz^Anna")
    assert _hit(by_beginning, b"Meier^John")
    assert not _hit(by_beginning, b"Meier^Anna")
    assert terms.ranges_of_words(tags.OperatorsName, [("meier", False)]) == []


def _hit(ranges: list[terms.Range], name: bytes) -> bool:
    keys = terms.search_keys({tags.PatientName: name}, STANDARD)
    return any(start <= key < end for key in keys for start, end in ranges)


def test_ranges_are_described_in_words() -> None:
    exact = terms.ranges_of_patterns(tags.PatientID, [["P1"]], STANDARD, wildcards=False)
    word = terms.ranges_of_patterns(tags.PatientName, [["*^john*"]], STANDARD, wildcards=True)
    between = terms.ranges_between(tags.StudyDate, "20240101", "20240131", STANDARD)
    assert exact and word and between
    assert terms.describe(exact) == "PatientID exact"
    assert terms.describe(word) == "PatientName word prefix"
    assert terms.describe(between) == "StudyDate range"
    assert terms.describe([]) == "nothing"
