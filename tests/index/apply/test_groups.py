"""Groups of several writers: any order between them, repeats and crashes give one index; gaps are refused."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.dicom import tags
from engine.errors import CatalogBehind, StorageFull
from engine.index.apply import positions
from engine.index.catalog import Catalog
from engine.index.format.entry import Item
from engine.index.format.types import Level, Query
from engine.storage.segment_ids import segment_id_of
from tests.index.entries import ROOT, Tail, entry, meaning, random_history, record_of

SEEDS = int(os.environ.get("FILMROOM_GROUPS_SEEDS", "12"))

Chains = dict[int, list[list[Item]]]


def chains_of(rng: random.Random, records: list[Item]) -> Chains:
    """The records of each segment number as the groups of a slot, in segments of that slot."""
    chains: Chains = {}
    for record in records:
        slot = record.position.segment_id
        placed = replace(record, position=record.position._replace(segment_id=segment_id_of(slot, 5)))
        groups = chains.setdefault(slot, [])
        if groups and rng.random() < 0.6:
            groups[-1].append(placed)
        else:
            groups.append([placed])
    return chains


def covered(groups: list[list[Item]], number: int) -> dict[int, int]:
    position = groups[number - 1][-1].position
    return {position.segment_id: position.offset + position.record_bytes}


def apply_in_random_order(rng: random.Random, index: Catalog, chains: Chains) -> None:
    """Applies every chain in its order, the slots interleaved, with repeats, and with groups ahead of their turn."""
    done = dict.fromkeys(chains, 0)
    while any(done[slot] < len(chains[slot]) for slot in chains):
        slot = rng.choice(list(chains))
        number = min(max(done[slot] + rng.choice((-1, 0, 1, 1, 1, 2)), 1), len(chains[slot]))
        items = chains[slot][number - 1]
        if number > done[slot] + 1:
            with pytest.raises(CatalogBehind) as gap:
                index.apply_group(slot, number, items, covered=covered(chains[slot], number))
            assert gap.value.by == number - done[slot] - 1
            continue
        is_new = index.apply_group(slot, number, items, covered=covered(chains[slot], number))
        assert is_new == (number == done[slot] + 1)
        done[slot] = max(done[slot], number)
        assert index.position() == {slot: number for slot, number in done.items() if number}


def answers(index: Catalog) -> dict[str, list[object]]:
    """What each kind of list shows, without the order that is an index's own."""

    def search(level: Level, *keys: int) -> Iterator[object]:
        query = Query(level, dict.fromkeys(keys, b""), relational=True)
        return (tuple(sorted(match.attributes.items())) for match in index.search(query))

    lists: dict[str, list[object]] = {
        "studies": list(search(Level.STUDY, tags.StudyInstanceUID, tags.PatientName, tags.NumberOfStudyRelatedSeries)),
        "series": list(search(Level.SERIES, tags.SeriesInstanceUID, tags.Modality)),
        "instances": list(search(Level.IMAGE, tags.SOPInstanceUID)),
        "holds": list(map(repr, index.holds())),
        "quarantined": list(map(repr, index.quarantined())),
        "kept versions": [(one.stamp, one.position) for one in index.kept_versions()],
    }
    return {name: sorted(rows, key=repr) for name, rows in lists.items()}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_any_interleaving_of_the_groups_of_several_writers_gives_the_same_index(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    chains = chains_of(rng, random_history(rng, 120))
    contents, lists = [], []
    for turn in range(3):
        index = Catalog.open(str(tmp_path / str(turn)), map_bytes=1 << 28)
        if turn:
            apply_in_random_order(rng, index, chains)
        else:
            for slot, groups in chains.items():
                for number, items in enumerate(groups, 1):
                    assert index.apply_group(slot, number, items, covered=covered(groups, number))
        assert index.newest_group_stamp() == max(
            item.stamp for groups in chains.values() for items in groups for item in items
        )
        contents.append(meaning(index))
        lists.append(answers(index))
        index.close()
    plain = Catalog.open(str(tmp_path / "plain"), map_bytes=1 << 28)
    plain.apply([item for groups in chains.values() for items in groups for item in items])
    for end in (covered(groups, len(groups)) for groups in chains.values()):
        plain.apply([], covered=end)
    contents.append(meaning(plain))
    lists.append(answers(plain))
    plain.close()
    for content, shown in zip(contents[1:], lists[1:], strict=True):
        for part in contents[0]:
            assert content.get(part) == contents[0][part], f"seed {seed}: {part}"
        assert shown == lists[0], f"seed {seed}"


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_copies_of_a_compaction_may_come_before_their_originals(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    chains = chains_of(rng, random_history(rng, 120, ties=False))
    originals = [item for items in chains[rng.choice(list(chains))] for item in items]
    copies, tail = [], Tail()
    for item in originals:
        position = item.position
        place = tail.place(segment_id_of(9, 1), position.payload_length, position.payload_crc, position.key_length)
        copies.append(replace(item, position=place))
    # Another node has compacted the segment: its copies are groups of its own chain.
    groups = [copies[at : at + 7] for at in range(0, len(copies), 7)]
    contents = []
    for turn in range(3):
        index = Catalog.open(str(tmp_path / str(turn)), map_bytes=1 << 28)
        apply_in_random_order(rng, index, {**chains, 9: groups} if turn else chains)
        if not turn:
            moves = [(record_of(item), copy.position) for item, copy in zip(originals, copies, strict=True)]
            index.relocate(moves)
            index.apply([], covered=covered(groups, len(groups)))
        contents.append(meaning(index))
        index.close()
    for content in contents[1:]:
        for part in contents[0]:
            assert content.get(part) == contents[0][part], f"seed {seed}: {part}"


def test_a_group_and_its_number_are_written_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, tail = Catalog.open(str(tmp_path), map_bytes=1 << 26), Tail()
    assert index.apply_group(3, 1, [entry(tail, instance=1)])

    def fail(*_: object) -> None:
        raise StorageFull("no room for the number")

    with monkeypatch.context() as patched, pytest.raises(StorageFull):
        patched.setattr(positions, "write", fail)
        index.apply_group(3, 2, [entry(tail, instance=3)])
    assert index.position() == {3: 1}
    assert index.locate(f"{ROOT}.1.1.3".encode()) is None
    assert index.apply_group(3, 2, [entry(tail, instance=3)])
    index.close()
    again = Catalog.open(str(tmp_path), map_bytes=1 << 26)
    assert (again.position(), again.newest_group_stamp()) == ({3: 2}, tail.stamp)
    again.close()


def test_wait_returns_when_another_thread_has_applied_what_is_waited_for(tmp_path: Path) -> None:
    index, tail = Catalog.open(str(tmp_path), map_bytes=1 << 26), Tail()
    index.wait({}, 0.0)
    with pytest.raises(CatalogBehind) as behind:
        index.wait({1: 2, 9: 1}, 0.0)
    assert behind.value.by == 3
    seen = threading.Event()

    def wait() -> None:
        index.wait({1: 2, 9: 1}, 60.0)
        seen.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    index.apply_group(1, 1, [entry(tail, instance=1)])
    index.apply_group(9, 1, [entry(tail, instance=2)])
    assert not seen.is_set()
    index.apply_group(1, 2, [entry(tail, instance=3)])
    assert seen.wait(60.0)
    waiting.join()
    assert index.locate(f"{ROOT}.1.1.3".encode()) is not None
    index.close()
