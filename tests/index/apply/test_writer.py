"""Applying records: the fold rule, counts, facts, marks; in any order and any batches."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.dicom import tags
from engine.index.apply import history
from engine.index.apply.versions import UidRecord
from engine.index.catalog import Catalog
from engine.index.format.entry import HEAL, POLICY_KEEP_BOTH, POLICY_KEEP_FIRST, POLICY_REPLACE, Entry, Item
from engine.index.format.types import Outcome, SegmentMark
from tests.index.entries import MR, ROOT, Tail, entry, meaning, random_history, tombstone

UID = f"{ROOT}.1.1.1".encode()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(str(tmp_path / "index"), map_bytes=1 << 30)
    yield opened
    opened.close()


def test_a_stored_instance_is_found_at_its_place(index: Catalog) -> None:
    instance = entry(Tail())
    assert index.locate(UID) is None
    assert index.apply([instance]) == [Outcome.STORED]
    located = index.locate(UID)
    assert located is not None
    assert located.position == instance.position
    assert (located.stamp, located.pixel_data_offset, located.received_ns) == (
        instance.stamp,
        800,
        instance.received_ns,
    )
    assert located.sop_class_uid == "1.2.840.10008.5.1.4.1.1.2"
    assert located.sop_instance_uid == UID.decode()
    assert located.study_instance_uid == f"{ROOT}.1"
    assert located.series_instance_uid == f"{ROOT}.1.1"
    assert located.transfer_syntax_uid == "1.2.840.10008.1.2.1"
    assert located.calling_ae_title == "MODALITY"
    assert located.attributes == instance.instance


def test_counts_follow_the_levels(index: Catalog) -> None:
    tail = Tail()
    index.apply([entry(tail, study=s, series=r, instance=i) for s in (1, 2) for r in (1, 2, 3) for i in range(4)])
    stats = index.stats()
    assert [stats[name] for name in ("patients", "studies", "series", "instances")] == [2, 2, 6, 24]
    assert meaning(index)["counts"][f"{ROOT}.1".encode(), f"{ROOT}.1.1".encode()][0] == 4


def test_a_record_applied_again_changes_nothing(index: Catalog) -> None:
    tail = Tail()
    records = [entry(tail, instance=i) for i in range(3)]
    index.apply(records)
    before = meaning(index)
    assert index.apply(records) == [Outcome.STORED] * 3
    assert meaning(index) == before


@pytest.mark.parametrize(
    ("policy", "crc", "outcome", "current", "versions", "live"),
    [
        (POLICY_KEEP_FIRST, 5, Outcome.DUPLICATE, 0, 1, 1),
        (POLICY_REPLACE, 5, Outcome.DUPLICATE, 0, 1, 1),
        (POLICY_KEEP_FIRST, 6, Outcome.KEPT_ASIDE, 0, 2, 2),
        (POLICY_REPLACE, 6, Outcome.REPLACED, 1, 1, 1),
        (POLICY_KEEP_BOTH, 6, Outcome.REPLACED, 1, 2, 2),
    ],
)
def test_the_policy_decides_the_outcome_of_a_second_instance(
    index: Catalog, policy: int, crc: int, outcome: Outcome, current: int, versions: int, live: int
) -> None:
    tail = Tail()
    records = [entry(tail, crc=5), entry(tail, crc=crc, flags=policy)]
    assert index.apply(records) == [Outcome.STORED, outcome]
    located = index.locate(UID)
    assert located is not None and located.position == records[current].position
    assert len(index.versions(UID)) == versions
    mark = index.segment_marks()[1]
    assert mark.live_count == live
    assert mark.live_bytes + mark.dead_bytes == tail.ends[1] - 4096
    assert index.stats()["instances"] == 1
    assert index.stats()["versions"] == versions - 1


def test_a_kept_version_that_comes_again_is_a_duplicate(index: Catalog) -> None:
    tail = Tail()
    records = [entry(tail, crc=crc) for crc in (5, 6, 6, 5, 6)]
    assert index.apply(records) == [
        Outcome.STORED,
        Outcome.KEPT_ASIDE,
        Outcome.DUPLICATE,
        Outcome.DUPLICATE,
        Outcome.DUPLICATE,
    ]


def test_a_replacement_that_names_another_study_moves_there(index: Catalog) -> None:
    tail = Tail()
    index.apply([entry(tail, study=1), entry(tail, study=1, instance=2)])
    replacement = entry(tail, study=2, series=9, flags=POLICY_REPLACE, crc=1, sop_instance_uid=UID)
    assert index.apply([replacement]) == [Outcome.REPLACED]
    located = index.locate(UID)
    assert located is not None and located.study_instance_uid == f"{ROOT}.2"
    assert {key[0]: row[0] for key, row in meaning(index)["counts"].items()} == {
        f"{ROOT}.1".encode(): 1,
        f"{ROOT}.2".encode(): 1,
    }


def test_the_last_instance_takes_series_study_and_patient_with_it(index: Catalog) -> None:
    tail = Tail()
    index.apply([entry(tail)])
    index.apply([tombstone(tail, UID)])
    stats = index.stats()
    assert [stats[name] for name in ("patients", "studies", "series", "instances")] == [0, 0, 0, 0]
    assert not meaning(index)["search"]
    assert index.locate(UID) is None


def test_a_tombstone_kills_only_older_records_at_any_time(index: Catalog) -> None:
    tail = Tail()
    old, new = entry(tail, stamp=10, crc=1), entry(tail, stamp=30, crc=2)
    index.apply([tombstone(tail, UID, stamp=20)])
    assert index.apply([old]) == [Outcome.STORED]
    assert index.locate(UID) is None
    assert index.apply([new]) == [Outcome.STORED]
    located = index.locate(UID)
    assert located is not None and located.position == new.position


def test_the_first_value_counts_and_empty_ones_are_filled(index: Catalog) -> None:
    tail = Tail()
    index.apply(
        [
            entry(tail, instance=1, study_items={tags.StudyDescription: b""}),
            entry(tail, instance=2, study_items={tags.StudyDescription: b"Thorax"}),
            entry(tail, instance=3, study_items={tags.StudyDescription: b"Abdomen"}),
        ]
    )
    _, values, conflicts, _ = meaning(index)["studies"][f"{ROOT}.1".encode()]
    assert values[1][tags.StudyDescription] == b"Thorax"
    assert conflicts == ["StudyDescription"]
    assert index.stats()["conflicts"] == 1


def test_the_statement_of_an_instance_is_removed_with_it(index: Catalog) -> None:
    tail = Tail()
    index.apply([entry(tail, instance=1, patient={tags.PatientName: b"Wrong"}), entry(tail, instance=2)])
    index.apply([tombstone(tail, UID)])
    _, values, conflicts, _ = meaning(index)["studies"][f"{ROOT}.1".encode()]
    assert values[0][tags.PatientName] == b"Doe^John"
    assert conflicts == []


def test_texts_become_utf_8(index: Catalog) -> None:
    tail = Tail()
    name = "Müller^Jörg"
    index.apply([entry(tail, patient={tags.PatientName: name.encode("latin-1")}, character_set=b"ISO_IR 100")])
    assert meaning(index)["studies"][f"{ROOT}.1".encode()][1][0][tags.PatientName] == name.encode()


def test_patients_with_other_issuers_differ_and_studies_without_id_stay_alone(index: Catalog) -> None:
    tail = Tail()
    index.apply(
        [
            entry(tail, study=1, patient={tags.PatientID: b"7", tags.IssuerOfPatientID: b"A"}),
            entry(tail, study=2, patient={tags.PatientID: b"7", tags.IssuerOfPatientID: b"B"}),
            entry(tail, study=3, patient={tags.PatientID: b"7", tags.IssuerOfPatientID: b"A"}),
            entry(tail, study=4, patient={tags.PatientID: b""}),
            entry(tail, study=5, patient={tags.PatientID: b""}),
        ]
    )
    assert index.stats()["patients"] == 4


def test_marks_cover_applied_records_without_a_gap(index: Catalog) -> None:
    tail = Tail()
    records = [entry(tail, instance=i) for i in range(5)]
    index.apply([records[0], records[2]])
    assert index.segment_marks()[1].indexed_bytes == records[0].position.end
    index.apply([], marks={1: SegmentMark(tail.ends[1], True)})
    assert not index.segment_marks()[1].sealed
    index.apply([records[4], records[1]])
    assert index.segment_marks()[1].indexed_bytes == records[2].position.end
    index.apply([records[3]])
    assert index.segment_marks()[1] == SegmentMark(tail.ends[1], True, 5, tail.ends[1] - 4096, 0)


def test_two_handles_see_each_others_commits(index: Catalog, tmp_path: Path) -> None:
    tail = Tail()
    index.apply([entry(tail, instance=1)])
    index.apply([tombstone(tail, UID)])
    assert index.apply([entry(tail, instance=2)]) == [Outcome.STORED]
    index.apply([entry(tail, instance=3, sop_class=MR)])
    assert meaning(index)["counts"][f"{ROOT}.1".encode(), f"{ROOT}.1.1".encode()] == (
        2,
        2000,
        b"CT",
        [b"1.2.840.10008.5.1.4.1.1.2", MR],
    )


@pytest.mark.parametrize("seed", range(40))
def test_any_order_and_any_batches_give_the_same_index(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    records = random_history(rng, 120)
    contents = []
    for turn in range(3):
        opened = Catalog.open(str(tmp_path / str(turn)), map_bytes=1 << 30)
        remaining = list(records)
        if turn:
            rng.shuffle(remaining)
            remaining += rng.sample(records, 30)
        while remaining:
            size = rng.randrange(1, 9)
            opened.apply(remaining[:size])
            del remaining[:size]
        contents.append(meaning(opened))
        opened.close()
    for turn in (1, 2):
        for part in contents[0]:
            assert contents[turn].get(part) == contents[0][part], f"seed {seed}: {part}"


POLICIES = (POLICY_KEEP_FIRST, POLICY_REPLACE, POLICY_KEEP_BOTH)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_record_of_a_uid_with_many_records_costs_as_much_as_the_second_one(
    index: Catalog, policy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    unpack = history.unpack_history

    def counted(key: bytes, value: bytes) -> UidRecord:
        read.append(key)
        return unpack(key, value)

    monkeypatch.setattr(history, "unpack_history", counted)
    tail = Tail()
    outcomes = [index.apply([entry(tail, crc=number, flags=policy)])[0] for number in range(300)]
    assert outcomes[1:] == [Outcome.KEPT_ASIDE if policy == POLICY_KEEP_FIRST else Outcome.REPLACED] * 299
    assert not read
    assert index.apply([entry(tail, crc=299, flags=policy)]) == [Outcome.DUPLICATE]
    assert len(read) <= 1
    assert index.version_count() == (0 if policy == POLICY_REPLACE else 299)


@pytest.mark.parametrize("seed", range(6))
def test_many_records_of_few_uids_give_the_same_index_one_by_one_backwards_and_at_once(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    tail = Tail()
    records: list[Item] = []
    for _ in range(80):
        number = rng.randrange(2)
        uid = f"{ROOT}.1.1.{number}".encode()
        stamps = [record.stamp for record in records if isinstance(record, Entry)]
        what = rng.random()
        if what < 0.05:
            records.append(tombstone(tail, uid))
        elif what < 0.12 and stamps:
            records.append(tombstone(tail, uid, target=rng.choice(stamps)))
        else:
            flags = rng.choice(POLICIES) | rng.choice((0, 0, 0, HEAL))
            records.append(
                entry(tail, instance=number, crc=rng.randrange(8), flags=flags, segment_id=rng.randrange(1, 3))
            )
    contents = []
    for name, order in (("forwards", records), ("backwards", records[::-1]), ("mixed", rng.sample(records, 80))):
        index = Catalog.open(str(tmp_path / name))
        for record in order:
            index.apply([record])
            index.apply([record])
        contents.append(meaning(index))
        index.close()
    assert contents[0] == contents[1] == contents[2], f"seed {seed}"
