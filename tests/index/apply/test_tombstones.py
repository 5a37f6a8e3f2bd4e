"""Tombstones: thousands at once and one by one, before and after their records, with and without a target."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.index.apply.tombstones import Tombstones
from engine.index.apply.versions import UidRecord
from engine.index.catalog import Catalog
from engine.index.format.entry import POLICY_KEEP_BOTH, POLICY_REPLACE, Item
from engine.index.format.types import Level, Outcome, Query, Root
from tests.index.entries import (
    ROOT,
    Tail,
    booked,
    entry,
    meaning,
    quarantined,
    random_history,
    recount,
    tombstone,
)

UID = f"{ROOT}.1.1.1".encode()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(str(tmp_path / "index"), map_bytes=1 << 30)
    yield opened
    opened.close()


def _study(tail: Tail, study: int, *, series_count: int = 3, count: int = 20, **options: Any) -> list[Any]:
    return [
        entry(tail, study=study, series=series, instance=instance, **options)
        for series in range(series_count)
        for instance in range(count)
    ]


def test_a_deleted_study_is_gone_at_every_level_and_the_others_stay(index: Catalog) -> None:
    tail = Tail()
    doomed, other = _study(tail, 1), _study(tail, 2)
    index.apply([*doomed, *other])
    alone = Catalog.open(f"{index._environment.directory}-alone", map_bytes=1 << 30)
    alone.apply(other)
    index.apply([tombstone(tail, *[instance.sop_instance_uid for instance in doomed])])
    assert index.stats()["deleted"] == 60
    for level in Level:
        query = Query(
            level, dict.fromkeys((0x0020000D, 0x0020000E, 0x00080018, 0x00201208), b""), Root.PATIENT, relational=True
        )
        assert [match.attributes for match in index.search(query)] == [m.attributes for m in alone.search(query)]
    assert all(index.locate(instance.sop_instance_uid) is None for instance in doomed)
    for part in ("studies", "series", "patients", "search", "patient_studies", "counts", "instances", "current"):
        assert meaning(index)[part] == meaning(alone)[part], part
    alone.close()


def test_deleting_part_of_a_series_leaves_counts_and_statements_of_the_others(index: Catalog) -> None:
    tail = Tail()
    entries = [entry(tail, instance=i, patient={0x00100010: b"Wrong" if i < 5 else b"Right"}) for i in range(10)]
    index.apply(entries)
    index.apply([tombstone(tail, *[one.sop_instance_uid for one in entries[:5]])])
    content = meaning(index)
    assert content["counts"][f"{ROOT}.1".encode(), f"{ROOT}.1.1".encode()][:2] == (5, 5000)
    assert content["studies"][f"{ROOT}.1".encode()][1][0][0x00100010] == b"Right"
    assert content["studies"][f"{ROOT}.1".encode()][2] == []


def test_an_instance_sent_again_after_a_deletion_is_current_again(index: Catalog) -> None:
    tail = Tail()
    entries = _study(tail, 1, count=4)
    index.apply(entries)
    for _ in range(3):
        index.apply([tombstone(tail, *[one.sop_instance_uid for one in entries])])
        assert index.stats()["instances"] == 0
        again = _study(tail, 1, count=4)
        assert index.apply(again) == [Outcome.STORED] * 12
        assert index.stats()["instances"] == 12
        entries += again
        instance = index.locate(UID)
        assert instance is not None and instance.position in [one.position for one in again]
    assert index.stats()["deleted"] == 36


def test_a_late_record_stays_dead_and_one_with_the_same_stamp_is_alive(index: Catalog) -> None:
    tail = Tail()
    index.apply([entry(tail, stamp=10)])
    index.apply([tombstone(tail, UID, stamp=50)])
    index.apply([entry(tail, stamp=40, crc=3)])
    assert index.locate(UID) is None
    index.apply([entry(tail, stamp=50, crc=4)])
    assert index.locate(UID) is not None


def test_a_deletion_of_a_whole_study_or_series_is_found_by_its_uid(index: Catalog) -> None:
    tail = Tail()
    study, series, other = b"1.2", b"1.2.3", b"1.2.34"
    index.apply([tombstone(tail, UID, level=Level.SERIES, uid=series), tombstone(tail, UID)])
    assert index.was_deleted(Level.SERIES, series)
    assert not any(index.was_deleted(level, uid) for level in (Level.STUDY, Level.SERIES) for uid in (study, other))
    assert not index.was_deleted(Level.STUDY, series)
    index.apply([tombstone(tail, UID, level=Level.PATIENT, uid=study)])
    assert index.was_deleted(Level.STUDY, study), "a patient is deleted study by study"


def test_a_deletion_removes_kept_versions_with_the_current_instance(index: Catalog) -> None:
    tail = Tail()
    entries = [entry(tail, crc=crc, flags=POLICY_KEEP_BOTH) for crc in (1, 2, 3)]
    index.apply(entries)
    assert len(list(index.kept_versions())) == index.version_count() == 2
    index.apply([tombstone(tail, UID)])
    assert index.versions(UID) == []
    assert list(index.kept_versions()) == []
    assert (index.version_count(), index.stats()["deleted"]) == (0, 3)


def test_a_target_kills_one_version_only(index: Catalog) -> None:
    tail = Tail()
    entries = [entry(tail, crc=crc, flags=POLICY_KEEP_BOTH) for crc in (1, 2, 3)]
    index.apply(entries)
    index.apply([tombstone(tail, UID, target=entries[1].stamp)])
    assert [one.stamp for one in index.versions(UID)] == [entries[0].stamp, entries[2].stamp]
    assert [one.stamp for one in index.kept_versions()] == [entries[0].stamp]
    assert index.apply([entry(tail, crc=2)]) == [Outcome.KEPT_ASIDE]


def test_a_target_that_is_current_makes_the_oldest_version_current(index: Catalog) -> None:
    tail = Tail()
    entries = [entry(tail, crc=crc) for crc in (1, 2, 3)]
    index.apply(entries)
    index.apply([tombstone(tail, UID, target=entries[0].stamp)])
    instance = index.locate(UID)
    assert instance is not None and instance.stamp == entries[1].stamp
    assert [one.stamp for one in index.kept_versions()] == [entries[2].stamp]
    index.apply([tombstone(tail, UID, target=entries[1].stamp), tombstone(tail, UID, target=entries[2].stamp)])
    assert index.locate(UID) is None
    assert index.stats()["studies"] == 0


def test_a_tombstone_with_a_target_may_come_before_its_record(index: Catalog) -> None:
    tail = Tail()
    index.apply([tombstone(tail, UID, stamp=90, target=40)])
    index.apply([entry(tail, stamp=30, crc=1), entry(tail, stamp=40, crc=2), entry(tail, stamp=50, crc=3)])
    assert [one.stamp for one in index.versions(UID)] == [30, 50]


def test_a_target_drops_a_quarantined_record_and_no_other(index: Catalog) -> None:
    tail = Tail()
    items = [quarantined(tail, b"-", crc=i) for i in range(3)]
    index.apply([entry(tail), *items])
    index.apply([tombstone(tail, b"-", target=items[1].stamp)])
    assert list(index.quarantined()) == [items[0], items[2]]
    index.apply([tombstone(tail, b"-")])
    assert list(index.quarantined()) == [items[0], items[2]]
    assert index.quarantined_bytes() == 2 * items[0].position.record_bytes
    assert index.locate(UID) is not None


def test_bytes_of_deleted_records_are_dead_and_those_of_tombstones_are_not(index: Catalog) -> None:
    tail = Tail()
    entries = _study(tail, 1, series_count=1, count=5)
    index.apply(entries)
    grave = tombstone(tail, *[one.sop_instance_uid for one in entries[:4]])
    index.apply([grave])
    mark = index.segment_marks()[1]
    assert mark.live_count == 1
    assert mark.live_bytes == entries[4].position.record_bytes + grave.position.record_bytes
    assert mark.dead_bytes == sum(one.position.record_bytes for one in entries[:4])
    index.apply([grave])
    assert index.segment_marks()[1] == mark


def test_a_study_and_the_tombstone_that_deletes_it_may_come_together(index: Catalog) -> None:
    tail = Tail()
    entries = _study(tail, 1, count=5)
    grave = tombstone(tail, *[one.sop_instance_uid for one in entries])
    index.apply([*entries, grave])
    assert index.stats()["instances"] == index.stats()["studies"] == 0


def test_instances_deleted_by_one_tombstone_each_leave_nothing(index: Catalog) -> None:
    tail = Tail()
    entries = _study(tail, 1, count=50)
    index.apply(entries)
    index.apply([tombstone(tail, one.sop_instance_uid) for one in entries])
    stats = index.stats()
    assert [stats[name] for name in ("patients", "studies", "series", "instances")] == [0, 0, 0, 0]


def test_another_process_does_not_store_into_a_removed_series(index: Catalog) -> None:
    tail = Tail()
    other = Catalog(index._environment)  # what it remembers is its own
    entries = _study(tail, 1, series_count=1, count=3)
    other.apply(entries[:1])
    index.apply(entries[1:2])
    index.apply([tombstone(tail, entries[0].sop_instance_uid, entries[1].sop_instance_uid)])
    other.apply(entries[2:])
    assert meaning(index)["counts"][f"{ROOT}.1".encode(), f"{ROOT}.1.0".encode()][0] == 1


def _one_by_one(self: Tombstones, txn: Any, plain: dict[bytes, UidRecord]) -> None:
    for sop_key, record in plain.items():
        self._apply_record(txn, sop_key, record)


@pytest.mark.parametrize("seed", range(12))
def test_all_at_once_gives_the_same_index_as_one_by_one(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    records = random_history(rng, 100)
    tail = Tail()
    tail.ends = {9: 4096}
    everything = sorted({one.sop_instance_uid for one in records if hasattr(one, "sop_instance_uid")})
    latest = max(record.stamp for record in records)
    records.append(tombstone(tail, *everything[::2], segment_id=9, stamp=latest - 40))
    records.append(tombstone(tail, *everything[1::2], segment_id=9, stamp=latest + 1))
    contents = []
    for turn in range(3):
        opened = Catalog.open(str(tmp_path / str(turn)), map_bytes=1 << 30)
        with monkeypatch.context() as context:
            if turn == 0:
                context.setattr(Tombstones, "_apply_plain", _one_by_one)
            remaining = list(records)
            if turn == 2:
                rng.shuffle(remaining)
            while remaining:
                opened.apply(remaining[:20])
                del remaining[:20]
        contents.append(meaning(opened))
        assert booked(opened) == recount(opened, records), f"seed {seed}"
        opened.close()
    for turn in (1, 2):
        for part in contents[0]:
            assert contents[turn][part] == contents[0][part], f"seed {seed}, turn {turn}: {part}"


@pytest.mark.parametrize("seed", range(10))
def test_the_accounts_are_right_after_every_batch(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    records = random_history(rng, 120)
    rng.shuffle(records)
    opened = Catalog.open(str(tmp_path / "index"), map_bytes=1 << 30)
    applied: list[Item] = []
    while records:
        size = rng.randrange(1, 9)
        opened.apply(records[:size])
        applied += records[:size]
        del records[:size]
        assert booked(opened) == recount(opened, applied), f"seed {seed} after {len(applied)}"
        stats = opened.stats()
        assert stats["versions"] == len(list(opened.kept_versions()))
        assert stats["quarantined"] == len(list(opened.quarantined()))
        assert stats["held_studies"] == len(opened.holds())
        assert opened.quarantined_bytes() == sum(one.position.record_bytes for one in opened.quarantined())
    opened.close()


def test_a_replaced_instance_that_was_deleted_stays_deleted(index: Catalog) -> None:
    tail = Tail()
    index.apply([entry(tail, crc=1, stamp=10), entry(tail, crc=2, stamp=20, flags=POLICY_REPLACE)])
    index.apply([tombstone(tail, UID, stamp=15)])
    instance = index.locate(UID)
    assert instance is not None and instance.stamp == 20
    index.apply([tombstone(tail, UID, stamp=25)])
    assert index.locate(UID) is None
    assert index.stats()["deleted"] == 2
