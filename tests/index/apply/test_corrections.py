"""The effect of corrections on patients, studies and series, against a slow, obvious model."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.index.apply.overlay import PATIENT, in_force
from engine.index.catalog import Catalog
from engine.index.format.entry import Correction, Entry, Item, Operation
from engine.index.format.types import Level, Query, Root
from tests.index.entries import (
    ROOT,
    Tail,
    booked,
    correction,
    entry,
    meaning,
    random_correction,
    recount,
    tombstone,
)

SEEDS = int(os.environ.get("FILMROOM_CORRECTION_SEEDS", "12"))
ID, ISSUER, NAME, SEX = tags.PatientID, tags.IssuerOfPatientID, tags.PatientName, tags.PatientSex
STUDIES = [f"{ROOT}.{number}".encode() for number in range(5)]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(str(tmp_path / "index"), map_bytes=1 << 30)
    yield opened
    opened.close()


# the model -----------------------------------------------------------------------------------------


def stated(entries: list[Entry], level: str) -> dict[int, bytes]:
    """The rule of `statements`: the first value that is not empty."""
    values: dict[int, bytes] = {}
    for instance in sorted(entries, key=lambda one: (one.stamp, one.position.payload_crc, one.position.payload_length)):
        for tag, value in blob_items(getattr(instance, level)).items():
            if not values.get(tag):
                values[tag] = value
    return values


def expected(entries: list[Entry], corrections: list[Correction]) -> dict[bytes, dict[int, bytes]]:
    """Study Instance UID → every attribute with a value of its patient and study level, and of its series' Modality."""
    undone = {one.undoes for one in corrections if one.operation == Operation.UNDO}
    standing = [one for one in corrections if one.stamp not in undone and one.operation != Operation.UNDO]
    standing.sort(key=lambda one: one.stamp)
    attributes: dict[bytes, dict[int, bytes]] = {}
    by_study: dict[bytes, list[Entry]] = {}
    for instance in entries:
        by_study.setdefault(blob_items(instance.study)[tags.StudyInstanceUID], []).append(instance)
    for uid, of_study in by_study.items():
        items = {**stated(of_study, "patient"), **stated(of_study, "study")}
        named = [one for one in standing if one.level == 1 and uid in one.names]
        since = 0
        who = (items.get(ID, b""), items.get(ISSUER, b""))
        steps = [one for one in named if one.operation == Operation.MOVE][-1:]
        if steps:
            who = who_of(steps[0])
        been = {who}
        while who[0]:
            merges = [one for one in standing if one.operation == Operation.MERGE and one.names == who]
            if not merges or who_of(merges[-1]) in been:
                break
            who = who_of(merges[-1])
            been.add(who)
            steps.append(merges[-1])
        if steps:
            since = max(step.stamp for step in steps)
        ranked = [((since, 0, 0), steps[-1])] if steps else []
        ranked += [
            ((max(one.stamp, since), 1, one.stamp), one)
            for one in standing
            if one.operation == Operation.CORRECT and one.level == 0 and one.names == who
        ]
        ranked += [((one.stamp, 2, one.stamp), one) for one in named if one.operation == Operation.CORRECT]
        for _, one in sorted(ranked, key=lambda pair: pair[0]):
            items |= blob_items(one.items)
        modalities = set()
        for series_uid in {blob_items(instance.series)[tags.SeriesInstanceUID] for instance in of_study}:
            of_series = [
                instance for instance in of_study if blob_items(instance.series)[tags.SeriesInstanceUID] == series_uid
            ]
            modality = stated(of_series, "series").get(tags.Modality, b"")
            for one in standing:
                if one.level == 2 and one.names == (uid, series_uid):
                    modality = blob_items(one.items).get(tags.Modality, modality)
            modalities.add(modality)
        items[tags.ModalitiesInStudy] = b"\\".join(sorted(filter(None, modalities)))
        attributes[uid] = {tag: value for tag, value in items.items() if value}
    return attributes


def who_of(one: Correction) -> tuple[bytes, bytes]:
    items = blob_items(one.items)
    return items.get(ID, b""), items.get(ISSUER, b"")


def attributes_of_studies(index: Catalog) -> dict[bytes, dict[int, bytes]]:
    """The same from the answers of the index."""
    requested_tags = (
        ID,
        ISSUER,
        NAME,
        SEX,
        tags.StudyInstanceUID,
        tags.StudyDate,
        tags.StudyTime,
        tags.AccessionNumber,
    )
    requested_tags += (tags.StudyID, tags.StudyDescription, tags.ModalitiesInStudy)
    query = Query(Level.STUDY, dict.fromkeys(requested_tags, b""), Root.PATIENT, relational=True)
    matches = [match.attributes for match in index.search(query)]
    return {match[tags.StudyInstanceUID]: {tag: value for tag, value in match.items() if value} for match in matches}


def random_entry(rng: random.Random, tail: Tail, instance: int) -> Entry:
    study = rng.randrange(5)
    patient = {ID: rng.choice((b"P0", b"P1", b"P2", b"P9", b"")), NAME: rng.choice((b"Doe^John", b"Roe^Jane", b""))}
    if rng.random() < 0.3:
        patient[ISSUER] = b"HERE"
    if rng.random() < 0.3:
        patient[SEX] = rng.choice((b"M", b"F"))
    study_items = {tags.StudyDescription: rng.choice((b"Thorax", b""))} if rng.random() < 0.5 else {}
    return entry(
        tail, study=study, series=rng.randrange(2), instance=instance, patient=patient, study_items=study_items
    )


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_study_agrees_with_the_model_after_every_step_in_any_order(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    tail = Tail()
    records: list[Item] = []
    for number in range(60):
        if rng.random() < 0.5:
            records.append(random_entry(rng, tail, number))
        else:
            records.append(random_correction(rng, tail, records, 1, tail.next_stamp()))
    contents = []
    for turn in range(3):
        live = Catalog.open(str(tmp_path / str(turn)), map_bytes=1 << 28)
        if turn:
            rng.shuffle(records)
        applied: list[Item] = []
        at = 0
        while at < len(records):
            size = rng.choice((1, 1, 3, 10))
            live.apply(records[at : at + size])
            applied += records[at : at + size]
            at += size
            entries = [one for one in applied if isinstance(one, Entry)]
            corrections = [one for one in applied if isinstance(one, Correction)]
            note = f"seed {seed}, turn {turn}, {at} records"
            assert attributes_of_studies(live) == expected(entries, corrections), note
            assert booked(live) == recount(live, applied), note
            undone = {one.undoes for one in corrections if one.operation == Operation.UNDO}
            standing = [one for one in corrections if one.operation != Operation.UNDO and one.stamp not in undone]
            assert live.stats()["corrections"] == len(standing), note
        contents.append(meaning(live))
        live.close()
    for part in contents[0]:
        assert contents[1][part] == contents[0][part], f"seed {seed}: {part}"
        assert contents[2][part] == contents[0][part], f"seed {seed}: {part}"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_all_undos_the_index_is_as_if_never_corrected(tmp_path: Path, seed: int) -> None:
    rng = random.Random(1000 + seed)
    tail = Tail()
    entries = [random_entry(rng, tail, number) for number in range(30)]
    corrections = [random_correction(rng, tail, [], 1, tail.next_stamp()) for _ in range(20)]
    undos = [correction(tail, Operation.UNDO, undoes=one.stamp) for one in corrections]
    plain = Catalog.open(str(tmp_path / "plain"), map_bytes=1 << 28)
    corrected = Catalog.open(str(tmp_path / "corrected"), map_bytes=1 << 28)
    plain.apply([*entries])
    records: list[Item] = [*entries, *corrections]
    rng.shuffle(records)
    corrected.apply(records)
    rng.shuffle(undos)
    corrected.apply([*undos])
    expected, content = meaning(plain), meaning(corrected)
    for part in ("patients", "studies", "series", "counts", "search", "texts", "study statements", "series statements"):
        assert content[part] == expected[part], f"seed {seed}: {part}"
    plain.close()
    corrected.close()


# single cases ----------------------------------------------------------------------------------------


def patients(index: Catalog) -> dict[tuple[bytes, bytes], tuple[bytes, bytes]]:
    """ID and issuer → name, number of studies."""
    requested_tags = (ID, ISSUER, NAME, tags.NumberOfPatientRelatedStudies)
    matches = [
        one.attributes for one in index.search(Query(Level.PATIENT, dict.fromkeys(requested_tags, b""), Root.PATIENT))
    ]
    return {(one[ID], one[ISSUER]): (one[NAME], one[tags.NumberOfPatientRelatedStudies]) for one in matches}


def of(study: int, patient_id: bytes, tail: Tail, instance: int = 1, **patient: bytes) -> Entry:
    items = {tags.tag_of(name): value for name, value in patient.items()}
    return entry(tail, study=study, instance=instance, patient={ID: patient_id, **items})  # type: ignore[dict-item]


def merge(tail: Tail, source: tuple[bytes, bytes], into: Mapping[int, bytes]) -> Correction:
    return correction(tail, Operation.MERGE, *source, items={ISSUER: b"", **into})


def test_one_id_of_two_issuers_is_two_patients(index: Catalog) -> None:
    tail = Tail()
    index.apply(
        [
            of(1, b"7", tail, PatientName=b"A"),
            of(2, b"7", tail, PatientName=b"B", IssuerOfPatientID=b"WEST"),
            of(3, b" 7 ", tail, PatientName=b"A"),
            of(4, b"7", tail, PatientName=b"B", IssuerOfPatientID=b" WEST"),
        ]
    )
    assert patients(index) == {(b"7", b""): (b"A", b"2"), (b"7", b"WEST"): (b"B", b"2")}
    for level in (Level.PATIENT, Level.STUDY):
        query = Query(level, {ID: b"7", ISSUER: b"WEST", NAME: b""}, Root.PATIENT, relational=True)
        assert {match.attributes[NAME] for match in index.search(query)} == {b"B"}


def test_studies_without_a_patient_id_are_patients_of_their_own(index: Catalog) -> None:
    tail = Tail()
    index.apply([of(1, b"", tail), of(2, b"  ", tail), of(3, b"", tail, IssuerOfPatientID=b"WEST")])
    assert index.stats()["patients"] == 3
    index.apply([merge(tail, (b"", b""), {ID: b"9"})])
    assert index.stats()["patients"] == 3


def test_a_merge_applies_to_later_studies_and_gives_them_the_other_patients_data(index: Catalog) -> None:
    tail = Tail()
    index.apply([of(1, b"A", tail, PatientName=b"Old", PatientSex=b"M"), of(2, b"B", tail, PatientName=b"New")])
    index.apply([merge(tail, (b"A", b""), {ID: b"B", NAME: b"New", SEX: b""})])
    index.apply([of(3, b"A", tail, PatientName=b"Older", PatientSex=b"M")])
    assert patients(index) == {(b"B", b""): (b"New", b"3")}
    assert all(SEX not in study and study[NAME] == b"New" for study in attributes_of_studies(index).values())
    assert len(index.instances(Query(Level.PATIENT, {ID: b"B"}, Root.PATIENT))) == 3
    assert index.instances(Query(Level.PATIENT, {ID: b"A"}, Root.PATIENT)) == []
    assert len(index.identifiers(Query(Level.PATIENT, {ID: b"B"}, Root.PATIENT))) == 3


def test_merges_are_chained_and_an_undo_removes_one_link(index: Catalog) -> None:
    tail = Tail()
    index.apply([of(number, name, tail, PatientName=name) for number, name in enumerate((b"A", b"B", b"C"))])
    links = [
        merge(tail, (b"A", b""), {ID: b"B", NAME: b"B"}),
        merge(tail, (b"B", b""), {ID: b"C", NAME: b"C"}),
    ]
    index.apply(links)
    assert patients(index) == {(b"C", b""): (b"C", b"3")}
    index.apply([correction(tail, Operation.UNDO, undoes=links[1].stamp)])
    assert patients(index) == {(b"B", b""): (b"B", b"2"), (b"C", b""): (b"C", b"1")}
    index.apply([correction(tail, Operation.UNDO, undoes=links[0].stamp)])
    assert sorted(patients(index)) == [(b"A", b""), (b"B", b""), (b"C", b"")]


def test_a_correction_of_a_patient_applies_to_a_study_that_is_moved_to_it(index: Catalog) -> None:
    tail = Tail()
    index.apply([of(1, b"A", tail, PatientName=b"A"), of(2, b"B", tail, PatientName=b"B")])
    index.apply([correction(tail, Operation.CORRECT, b"B", b"", items={NAME: b"Right"})])
    index.apply([merge(tail, (b"A", b""), {ID: b"B", NAME: b"B"})])
    assert patients(index) == {(b"B", b""): (b"Right", b"2")}


def test_a_corrected_attribute_is_not_a_conflict_until_it_is_undone(index: Catalog) -> None:
    tail = Tail()
    index.apply([of(1, b"A", tail, 1, PatientName=b"One"), of(1, b"A", tail, 2, PatientName=b"Two")])
    (conflict,) = index.conflicts()
    assert (conflict.study_instance_uid, conflict.series_instance_uid) == (STUDIES[1], b"")
    assert conflict.values == {NAME: [b"One", b"Two"]}
    item = correction(tail, Operation.CORRECT, STUDIES[1], level=1, items={NAME: b"Three"})
    index.apply([item])
    assert (list(index.conflicts()), index.stats()["conflicts"]) == ([], 0)
    index.apply([of(1, b"A", tail, 3, PatientName=b"Four")])
    assert (list(index.conflicts()), index.stats()["conflicts"]) == ([], 0)
    index.apply([correction(tail, Operation.UNDO, undoes=item.stamp)])
    assert [one.values for one in index.conflicts()] == [{NAME: [b"One", b"Two", b"Four"]}]
    assert index.stats()["conflicts"] == 1


@pytest.mark.parametrize("turn", [1, -1])
def test_an_earlier_statement_may_name_another_patient(tmp_path: Path, turn: int) -> None:
    """It moves the study to another patient, whom other corrections name, in any order."""
    tail = Tail()
    corrections = [
        merge(tail, (b"A2", b""), {ID: b"B", NAME: b"Two"}),
        merge(tail, (b"A1", b""), {ID: b"B", NAME: b"One"}),
        correction(tail, Operation.CORRECT, b"C1", b"", items={SEX: b""}),
    ]
    statements = [
        entry(tail, study=1, instance=1, stamp=9, patient={ID: b"A1", NAME: b"X"}),
        entry(tail, study=1, instance=2, stamp=8, patient={ID: b"A2", NAME: b"Y"}),
        entry(tail, study=2, instance=1, stamp=9, patient={ID: b"C1", SEX: b"M"}),
        entry(tail, study=2, instance=2, stamp=8, patient={ID: b"C2", SEX: b"F"}),
    ]
    contents = []
    for number in range(2):
        opened = Catalog.open(str(tmp_path / str(number)), map_bytes=1 << 28)
        opened.apply(corrections if number == 0 else [])
        for statement in statements[::turn]:
            opened.apply([statement])
        opened.apply(corrections)
        contents.append(meaning(opened))
        assert patients(opened) == {(b"B", b""): (b"Two", b"1"), (b"C2", b""): (b"Doe^John", b"1")}
        opened.close()
    for part in contents[0]:
        assert contents[1][part] == contents[0][part], part


def test_series_that_disagree_are_listed_with_their_study(index: Catalog) -> None:
    tail = Tail()
    for number, modality in enumerate((b"CT", b"MR", b"CT")):
        index.apply([entry(tail, instance=number, series_items={tags.Modality: modality})])
    (conflict,) = index.conflicts()
    assert (conflict.study_instance_uid, conflict.series_instance_uid) == (STUDIES[1], f"{ROOT}.1.1".encode())
    assert conflict.values == {tags.Modality: [b"CT", b"MR"]}


def test_an_empty_correction_hides_a_stated_value_and_adds_no_attribute(index: Catalog) -> None:
    tail = Tail()
    series = f"{ROOT}.1.1".encode()
    index.apply([of(1, b"A", tail, PatientSex=b"M")])
    assert index.corrected_values(STUDIES[1], series) == {}
    nothing = {SEX: b"", tags.PatientComments: b""}
    index.apply([correction(tail, Operation.CORRECT, b"A", b"", items=nothing)])
    assert SEX not in attributes_of_studies(index)[STUDIES[1]]
    assert index.corrected_values(STUDIES[1], series) == {SEX: b""}
    index.apply([of(1, b"A", tail, 2, PatientComments=b"tall")])
    assert index.corrected_values(STUDIES[1], series) == {SEX: b"", tags.PatientComments: b""}
    index.apply([correction(tail, Operation.CORRECT, STUDIES[1], series, level=2, items={tags.Modality: b"US"})])
    assert index.corrected_values(STUDIES[1], series)[tags.Modality] == b"US"
    assert tags.Modality not in index.corrected_values(STUDIES[1], b"1.2.3")
    assert index.corrected_values(b"1.2.3", series) == {}


def test_a_study_that_is_deleted_and_stored_again_is_corrected_again(index: Catalog) -> None:
    tail = Tail()
    first = of(1, b"A", tail, PatientName=b"Wrong")
    index.apply([first])
    index.apply([correction(tail, Operation.MOVE, STUDIES[1], level=1, items={ID: b"B", NAME: b"Right"})])
    index.apply([tombstone(tail, first.sop_instance_uid)])
    assert index.stats()["patients"] == 0
    index.apply([of(1, b"A", tail, PatientName=b"Wrong")])
    assert patients(index) == {(b"B", b""): (b"Right", b"1")}


def test_a_correction_of_a_later_version_is_stored_and_does_nothing(index: Catalog) -> None:
    tail = Tail()
    item = correction(tail, 99, STUDIES[1], level=7, items={NAME: b"?"})  # type: ignore[arg-type]
    index.apply([of(1, b"A", tail, PatientName=b"A"), item])
    assert patients(index) == {(b"A", b""): (b"A", b"1")}
    assert [one.correction for one in index.corrections()] == [item]


def test_copies_of_a_correction_count_once_and_the_last_one_is_alive(index: Catalog) -> None:
    tail = Tail()
    index.apply([of(1, b"A", tail, PatientName=b"A")])
    items = {NAME: b"B"}
    first, copy = (
        correction(tail, Operation.CORRECT, b"A", b"", items=items, stamp=5000, segment_id=number) for number in (2, 3)
    )
    index.apply([copy, first])
    assert [one.correction.position for one in index.corrections()] == [copy.position]
    assert booked(index)[2] == (0, 0, first.position.record_bytes)
    index.forget_segment(2, [])
    assert patients(index) == {(b"A", b""): (b"B", b"1")}
    assert index.stats()["corrections"] == 1


def test_the_newest_correction_is_found_beside_undos(index: Catalog) -> None:
    tail = Tail()

    def newest() -> int:
        with index.snapshot() as snapshot:
            return snapshot.newest_correction()

    assert newest() == 0
    item = correction(tail, Operation.CORRECT, b"A", b"", items={NAME: b"B"})
    index.apply([item])
    assert newest() == item.stamp
    undo = correction(tail, Operation.UNDO, undoes=item.stamp)
    index.apply([undo])
    assert newest() == undo.stamp
    with index.snapshot() as snapshot:
        listed: Any = snapshot.correction(item.stamp)
    assert (listed.correction, listed.undone_by) == (item, undo.stamp)


def test_without_corrections_no_overlay_is_read(index: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the overlay was asked")

    monkeypatch.setattr("engine.index.apply.overlay.in_force", fail)
    tail = Tail()
    entries = [of(1, b"A", tail, 1), of(1, b"A", tail, 2, PatientName=b"X")]
    index.apply(entries)
    index.apply([tombstone(tail, entries[1].sop_instance_uid)])
    assert index.corrected_values(STUDIES[1], b"1") == {}


def test_corrections_of_a_patient_change_within_one_batch(index: Catalog) -> None:
    """A batch remembers the corrections of a patient from study to study."""
    tail = Tail()
    name = correction(tail, Operation.CORRECT, b"A", b"", items={NAME: b"One"})
    index.apply([name])
    into = merge(tail, (b"A", b""), {ID: b"B", NAME: b"Two"})
    records: list[Item] = [
        of(1, b"A", tail, PatientName=b"Stated"),
        into,
        of(2, b"A", tail, PatientName=b"Stated"),
        correction(tail, Operation.CORRECT, b"B", b"", items={NAME: b"Three"}),
        of(3, b"A", tail, PatientName=b"Stated"),
        correction(tail, Operation.UNDO, undoes=into.stamp),
        of(4, b"A", tail, PatientName=b"Stated"),
    ]
    index.apply(records[:5])
    assert patients(index) == {(b"B", b""): (b"Three", b"3")}
    index.apply(records[5:])
    assert patients(index) == {(b"A", b""): (b"One", b"4")}


def test_a_patient_is_asked_for_its_corrections_once_in_a_refresh(
    index: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = Tail()
    index.apply([of(number, b"A", tail, PatientName=b"Stated") for number in range(5)])
    asked: list[int] = []

    def noted(*of_level: Any) -> Any:
        asked.append(of_level[2])
        return in_force(*of_level)

    monkeypatch.setattr("engine.index.apply.overlay.in_force", noted)
    index.apply([correction(tail, Operation.CORRECT, b"A", b"", items={NAME: b"One"})])
    assert asked.count(PATIENT) < 5 and patients(index) == {(b"A", b""): (b"One", b"5")}
