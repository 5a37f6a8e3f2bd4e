"""The keys of scopes are those of the rows that are there, however these came, and however often they changed."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.access.scope import Attribute, Matching, scope_of
from engine.dicom import tags
from engine.index.apply import access_tags as apply_tags
from engine.index.catalog import Catalog
from engine.index.database import commits
from engine.index.format import keys
from engine.index.format.access_tags import keys_of_sender
from engine.index.format.rows import read_name, scan_prefix
from engine.index.format.types import Level, Query
from tests.index.entries import ROOT, Tail, entry, random_history, tombstone

WARD = scope_of([frozenset({Matching.of(Attribute.DEPARTMENT, ["Ward"])})])
EVERYTHING = Query(Level.STUDY, {tags.StudyInstanceUID: b""})


def rows_of(index: Catalog) -> list[tuple[bytes, bytes]]:
    with index._environment.reading() as txn:
        return list(scan_prefix(txn, index._environment.access_table, b""))


def forget(index: Catalog) -> None:
    """Makes the index one that is older than the table."""

    def work(txn: Any) -> None:
        with txn.cursor(db=index._environment.access_table) as cursor:
            has_row = cursor.first()
            while has_row:
                has_row = cursor.delete(True) and bool(cursor.key())
        txn.drop(index._environment.first_senders_table, delete=False)
        txn.delete(keys.META_ACCESS, db=index._environment.meta)

    index._environment.write(work, lambda: None)


def first_rows(index: Catalog) -> list[tuple[bytes, bytes]]:
    with index._environment.reading() as txn:
        return list(scan_prefix(txn, index._environment.first_senders_table, b""))


def check_first_senders(index: Catalog) -> None:
    """Each series has the row that its instances give."""
    environment = index._environment
    firsts: dict[bytes, tuple[bytes, bytes]] = {}
    with environment.reading() as txn:
        for key, value in scan_prefix(txn, environment.instances, b""):
            fields = keys.INSTANCE.unpack_from(value)
            order = keys.ORDER.pack(fields[0], keys.tie_of(fields[3], fields[6]))
            one = order, read_name(txn, environment, fields[12])
            firsts[key[:4]] = min(one, firsts.get(key[:4], one))
        stored = [
            (key, (value[:16], read_name(txn, environment, keys.U32.unpack(value[16:])[0])))
            for key, value in scan_prefix(txn, environment.first_senders_table, b"")
        ]
    assert stored == sorted(firsts.items())


def senders_of(index: Catalog) -> set[bytes]:
    return {key for key, _ in rows_of(index)} & (keys_of_sender(b"CT1") | keys_of_sender(b"MR1"))


def seen_by(index: Catalog, sender: str) -> list[bytes]:
    """The studies whose first sender it is, found by keys or by a test of each."""
    scope = scope_of([frozenset({Matching.of(Attribute.SENDER, [sender])})])
    return sorted(match.attributes[tags.StudyInstanceUID] for match in index.search(EVERYTHING, scope=scope))


def fill(index: Catalog) -> int:
    steps = 1
    while index.fill_access_tags():
        steps += 1
    return steps


@pytest.mark.parametrize("seed", range(6))
def test_any_history_leaves_the_keys_that_a_fill_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(apply_tags, "FILLED_STUDIES", 2)
    rng = random.Random(seed)
    index = Catalog.open(str(tmp_path), map_bytes=1 << 28)
    history = random_history(rng, 200)
    if seed % 2:
        rng.shuffle(history)
    while history:
        count = rng.randrange(1, 20)
        index.apply(history[:count])
        history = history[count:]
        check_first_senders(index)
    lived, firsts = rows_of(index), first_rows(index)
    forget(index)
    fill(index)
    assert lived == rows_of(index), f"seed {seed}"
    assert firsts == first_rows(index), f"seed {seed}"
    assert lived
    assert firsts
    index.close()


def test_a_study_has_the_keys_of_who_sent_the_first_instance_of_each_series(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 28)
    tail = Tail()
    stored = [
        replace(entry(tail, study=1, series=series, instance=instance), calling_ae_title=title)
        for series, instance, title in ((1, 1, b"CT1"), (1, 2, b"MR1"), (2, 1, b"CT1"), (2, 2, b"CT1"), (2, 3, b"MR1"))
    ]
    index.apply(stored)
    assert senders_of(index) == keys_of_sender(b"CT1")
    for position, expected in ((0, b"CT1\\MR1"), (2, b"CT1\\MR1"), (1, b"CT1"), (3, b"MR1"), (4, b"")):
        index.apply([tombstone(tail, stored[position].sop_instance_uid)])
        assert senders_of(index) == keys_of_sender(expected), position
    assert rows_of(index) == []
    assert first_rows(index) == []
    index.close()


def test_an_earlier_instance_that_comes_late_makes_its_sender_the_first(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 28)
    tail = Tail()
    late, between, first = (
        replace(entry(tail, instance=number, segment_id=number, stamp=stamp), calling_ae_title=title)
        for number, stamp, title in ((1, 30, b"CT1"), (2, 20, b"CT1"), (3, 10, b"MR1"))
    )
    uid = [f"{ROOT}.1".encode()]
    for item, expected in ((late, b"CT1"), (between, b"CT1"), (first, b"MR1")):
        index.apply([item])
        assert senders_of(index) == keys_of_sender(expected)
        check_first_senders(index)
    assert (seen_by(index, "CT1"), seen_by(index, "MR1")) == ([], uid)
    index.apply([tombstone(tail, first.sop_instance_uid)])
    assert (seen_by(index, "CT1"), seen_by(index, "MR1")) == (uid, [])
    index.close()


def test_what_an_earlier_engine_stored_without_the_first_senders_is_judged_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 28)
    tail = Tail()
    first, second = (
        replace(entry(tail, instance=number), calling_ae_title=title) for number, title in ((1, b"CT1"), (2, b"MR1"))
    )
    index.apply([first, second])
    with monkeypatch.context() as earlier:
        earlier.setattr(apply_tags.AccessTags, "change_first", lambda *_: None)
        earlier.setattr(apply_tags.AccessTags, "write", lambda self, txn: self.begin())
        earlier.setattr(keys, "META_COMMIT", b"commit")  # its word: it knows of other versions by META_ACCESS only
        index.apply([tombstone(tail, first.sop_instance_uid)])
    uid = [f"{ROOT}.1".encode()]
    for is_filled in (False, True):
        assert index.has_access_tags() is is_filled
        assert (seen_by(index, "CT1"), seen_by(index, "MR1")) == ([], uid)
        fill(index)
    check_first_senders(index)
    index.close()


def test_an_older_index_answers_the_same_while_it_gets_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_tags, "FILLED_STUDIES", 3)
    index = Catalog.open(str(tmp_path), map_bytes=1 << 28)
    assert index.has_access_tags()
    tail = Tail()
    ward = {tags.InstitutionalDepartmentName: b"Ward"}
    index.apply([entry(tail, study=number, series_items=ward if number % 2 else {}) for number in range(1, 11)])
    forget(index)

    def seen() -> list[bytes]:
        return sorted(match.attributes[tags.StudyInstanceUID] for match in index.search(EVERYTHING, scope=WARD))

    expected = sorted(f"{ROOT}.{number}".encode() for number in range(1, 11, 2))
    steps = 0
    is_over = False
    while not is_over:
        assert not index.has_access_tags()
        assert seen() == expected
        is_over = not index.fill_access_tags()
        steps += 1
        if steps == 2:
            index.apply([entry(tail, study=11, series_items=ward)])
            expected = sorted([*expected, f"{ROOT}.11".encode()])
    assert index.has_access_tags()
    assert seen() == expected
    assert steps > 2
    index.close()


@pytest.mark.parametrize("is_written_since", [False, True])
def test_what_an_earlier_engine_has_added_is_found_and_what_it_has_removed_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written_since: bool
) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 28)
    tail = Tail()
    ward = {tags.InstitutionalDepartmentName: b"Ward"}
    left = entry(tail, study=1, series=1, series_items=ward)
    index.apply([left, entry(tail, study=1, series=2), entry(tail, study=4, series_items=ward)])
    assert index.has_access_tags()
    with monkeypatch.context() as earlier:
        earlier.setattr(apply_tags.AccessTags, "write", lambda self, txn: self.begin())
        earlier.setattr(commits, "note", lambda txn, meta: None)
        index.apply([entry(tail, study=2, series_items=ward)])
        index.apply([tombstone(tail, left.sop_instance_uid)])
    expected = [f"{ROOT}.2".encode(), f"{ROOT}.4".encode()]
    if is_written_since:
        index.apply([entry(tail, study=3, series_items=ward)])
        expected.insert(1, f"{ROOT}.3".encode())
    for is_filled in (False, True):
        assert index.has_access_tags() is is_filled
        seen = [match.attributes[tags.StudyInstanceUID] for match in index.search(EVERYTHING, scope=WARD)]
        assert sorted(seen) == expected
        fill(index)
    index.close()
