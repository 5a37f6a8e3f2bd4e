"""Holds, the quarantine, kept versions and known damage: counted, listed page by page, the same in any order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest

from engine.index.catalog import Catalog
from engine.index.format.entry import HEAL, POLICY_KEEP_BOTH, POLICY_KEEP_FIRST, POLICY_REPLACE
from engine.index.format.types import DamageRow, Outcome
from engine.index.query import listing
from tests.index.entries import ROOT, Tail, entry, hold, quarantined

STUDY = f"{ROOT}.1".encode()
UID = f"{ROOT}.1.1.1".encode()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(str(tmp_path / "index"), map_bytes=1 << 30)
    yield opened
    opened.close()


def test_a_hold_is_set_and_released_before_and_after_its_study_is_stored(index: Catalog) -> None:
    tail = Tail()
    first = hold(tail, 1, True)
    index.apply([first, hold(tail, 2, True)])
    index.apply([entry(tail)])
    assert index.is_held(STUDY)
    assert [one.study_instance_uid for one in index.holds()] == [STUDY, f"{ROOT}.2".encode()]
    assert index.holds()[0] == first
    index.apply([hold(tail, 1, False)])
    assert not index.is_held(STUDY)
    assert index.stats()["held_studies"] == 1
    again = hold(tail, 1, True)
    index.apply([again, again])
    assert index.holds()[0] == again


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_last_hold_counts_in_any_order_of_arrival(tmp_path: Path, order: tuple[int, ...]) -> None:
    tail = Tail()
    items = [
        hold(tail, 1, True, stamp=10),
        hold(tail, 1, False, stamp=20),
        hold(tail, 1, True, stamp=30),
        hold(tail, 1, False, stamp=30),
    ]
    index = Catalog.open(str(tmp_path / "index"), map_bytes=1 << 30)
    for number in order:
        index.apply([items[number]])
    assert index.holds() == [items[2]]
    mark = index.segment_marks()[1]
    assert (mark.live_count, mark.live_bytes) == (1, items[2].position.record_bytes)
    assert mark.dead_bytes == sum(one.position.record_bytes for one in items) - mark.live_bytes
    index.close()


def test_the_quarantine_is_listed_counted_and_does_not_hide_an_instance(index: Catalog) -> None:
    tail = Tail()
    items = [quarantined(tail, b"-"), quarantined(tail, UID), quarantined(tail, b"-", crc=6)]
    index.apply(items)
    assert index.apply([entry(tail)]) == [Outcome.STORED]
    index.apply(items)
    assert list(index.quarantined()) == [items[0], items[2], items[1]]
    assert index.quarantined_bytes() == sum(one.position.record_bytes for one in items)
    assert index.stats()["quarantined"] == 3
    assert index.segment_marks()[1].live_count == 4


def test_odd_uids_go_into_quarantine_as_they_are(index: Catalog) -> None:
    tail = Tail()
    items = [quarantined(tail, uid) for uid in (b"", b"\0", b"a\0b", b"x" * 5000, b"\xff" * 64)]
    index.apply(items)
    assert sorted(one.sop_instance_uid for one in index.quarantined()) == sorted(one.sop_instance_uid for one in items)


def test_lists_are_read_page_by_page(index: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 3)
    tail = Tail()
    for count in (2, 3, 4, 7):
        index.apply(
            [
                *[entry(tail, instance=count, crc=crc + 100 * count) for crc in range(3)],
                *[hold(tail, study, True) for study in range(count)],
                *[quarantined(tail, b"-", crc=i) for i in range(count)],
            ]
        )
        assert len(index.holds()) == count
    assert len(list(index.quarantined())) == 16
    versions = list(index.kept_versions())
    assert len(versions) == 8
    versions_left = iter(index.kept_versions())
    next(versions_left)
    index.apply([entry(tail, instance=99)])  # no read transaction is open: neither this nor a larger map waits
    assert len(list(versions_left)) == 7
    assert {version.study_instance_uid for version in versions} == {f"{ROOT}.1"}


def test_damage_is_noted_once_per_place_and_removed(index: Catalog) -> None:
    index.note_damage(2, 4096, UID, "first", 10)
    index.note_damage(1, 8192, b"", "unreadable: Zündung", 11)
    index.note_damage(2, 4096, UID, "second", 12)
    assert index.damage() == [DamageRow(1, 8192, b"", "unreadable: Zündung", 11), DamageRow(2, 4096, UID, "second", 12)]
    assert index.stats()["damaged"] == 2
    index.clear_damage(2, 4096)
    index.clear_damage(2, 4096)
    assert [row.segment_id for row in index.damage()] == [1]


@pytest.mark.parametrize("policy", [POLICY_KEEP_FIRST, POLICY_REPLACE, POLICY_KEEP_BOTH])
def test_an_instance_to_heal_takes_the_place_of_the_current_one(index: Catalog, policy: int) -> None:
    tail = Tail()
    index.apply([entry(tail, crc=5), entry(tail, instance=2)])
    healed = entry(tail, crc=5, flags=policy | HEAL)
    assert index.apply([healed]) == [Outcome.DUPLICATE]
    instance = index.locate(UID)
    assert instance is not None and instance.position == healed.position
    assert index.versions(UID) == [instance]
    assert index.segment_marks()[1].dead_bytes == healed.position.record_bytes


def test_a_version_is_healed_where_it_is(index: Catalog) -> None:
    tail = Tail()
    index.apply([entry(tail, crc=5), entry(tail, crc=6)])
    healed = entry(tail, crc=6, flags=HEAL)
    assert index.apply([healed]) == [Outcome.KEPT_ASIDE]
    assert [one.position for one in index.kept_versions()] == [healed.position]
    instance = index.locate(UID)
    assert instance is not None and instance.position.payload_crc == 5


def test_with_nothing_to_heal_the_policy_decides(index: Catalog) -> None:
    tail = Tail()
    assert index.apply([entry(tail, crc=5, flags=HEAL)]) == [Outcome.STORED]
    assert index.apply([entry(tail, crc=6, flags=HEAL)]) == [Outcome.KEPT_ASIDE]
    assert index.apply([entry(tail, crc=7, flags=HEAL | POLICY_REPLACE)]) == [Outcome.REPLACED]
