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
from engine.index.format.entry import Entry
from engine.index.format.rows import scan_prefix
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
        txn.delete(keys.META_ACCESS, db=index._environment.meta)

    index._environment.write(work, lambda: None)


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
    history = [
        replace(item, calling_ae_title=rng.choice((b"CT1", b"ct1 ", b"MR1"))) if isinstance(item, Entry) else item
        for item in random_history(rng, 200)
    ]
    while history:
        count = rng.randrange(1, 20)
        index.apply(history[:count])
        history = history[count:]
    lived = rows_of(index)
    forget(index)
    fill(index)
    assert lived == rows_of(index), f"seed {seed}"
    assert lived
    index.close()


def test_a_study_has_the_keys_of_who_sent_the_first_instance_of_each_series(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 28)
    tail = Tail()
    stored = [
        replace(entry(tail, study=1, series=series, instance=instance), calling_ae_title=title)
        for series, instance, title in ((1, 1, b"CT1"), (1, 2, b"MR1"), (2, 1, b"CT1"), (2, 2, b"CT1"), (2, 3, b"MR1"))
    ]
    index.apply(stored)

    def senders() -> set[bytes]:
        return {key for key, _ in rows_of(index)} & (keys_of_sender(b"CT1") | keys_of_sender(b"MR1"))

    assert senders() == keys_of_sender(b"CT1")
    for position, expected in ((0, b"CT1\\MR1"), (2, b"CT1\\MR1"), (1, b"CT1"), (3, b"MR1"), (4, b"")):
        index.apply([tombstone(tail, stored[position].sop_instance_uid)])
        assert senders() == keys_of_sender(expected), position
    assert rows_of(index) == []
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
