"""An index that follows the logs of two archives on disk is whole, repeatable, and shows what was acknowledged."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.archive.ingest.stamp_clock import StampClock
from engine.errors import CatalogBehind, CorruptRecord, StorageError
from engine.index.catalog import Catalog
from engine.index.format.types import Level
from engine.index.upkeep.rebuild import rebuild
from engine.storage.chain import ChainReader, ChainWriter, Group
from engine.storage.files import Files
from engine.storage.hints import read_header_or_trailer
from engine.storage.segment import FIRST_RECORD, list_segments, segment_path
from engine.storage.segment_store import LayeredSegments, LocalSegments
from tests.actors import actor
from tests.archive import kept
from tests.index.entries import meaning

SEED = int(os.environ.get("FILMROOM_FOLLOW_SEED", "20261130"))


class Node:
    """An archive with a slot, and the chain of what it has made visible."""

    def __init__(self, data: Path, slot: int) -> None:
        self.data = data
        self.slot = slot
        self.chain = ChainWriter(str(data / "chain"), Files())
        self.ends: dict[int, tuple[int, bool]] = {}

    @property
    def store(self) -> LocalSegments:
        return LocalSegments(str(self.data / "segments"), Files())

    @property
    def feed(self) -> ChainReader:
        return ChainReader(str(self.data / "chain"), Files())

    def announce(self, archive: Archive) -> int:
        """Adds what has been applied since the last call to the chain; returns its last number."""
        for segment_id, mark in archive.parts.index.segment_marks().items():
            end, was_sealed = self.ends.get(segment_id, (FIRST_RECORD, False))
            if mark.indexed_bytes > end or mark.sealed > was_sealed:
                salt = read_header_or_trailer(self.store.open(segment_id), segment_id).salt
                self.chain.append(segment_id, salt, end, mark.indexed_bytes, is_sealed=mark.sealed)
                self.ends[segment_id] = mark.indexed_bytes, mark.sealed
        return self.chain.last


@pytest.fixture
def nodes(tmp_path: Path) -> tuple[Node, Node]:
    first = tmp_path / "first"
    kept.opened(first).close()
    return Node(first, 0), Node(kept.node_of(first, tmp_path / "second", 1), 1)


def feeds_of(*nodes: Node) -> dict[int, ChainReader]:
    return {node.slot: node.feed for node in nodes}


def store_of(first: Node, second: Node) -> LayeredSegments:
    return LayeredSegments(first.store, second.store)


def write_something(rng: random.Random, archive: Archive, stored: dict[int, int]) -> None:
    """Stores, stores again with other bytes, deletes."""
    numbers = rng.sample(range(40), rng.randrange(1, 6))
    if stored and rng.random() < 0.3:
        uids = {kept.uid_of(number) for number in numbers}
        present = [one for one in archive.parts.index.current_instances() if one.sop_instance_uid in uids]
        if present:
            archive.delete_instances(present, level=Level.IMAGE, actor=actor("test"), reason="")
        return
    policy = rng.choice(("keep-first", "replace", "keep-both-versions"))
    for number in numbers:
        stored[number] = stored.get(number, 0) + 1
        pixels = 512 + 2 * rng.randrange(3)
        answers = kept.store(archive, [kept.data_set(number, pixels=pixels)], policy=policy)
        assert not isinstance(answers[0], Exception)


def test_an_index_that_follows_two_logs_equals_one_made_from_both(
    nodes: tuple[Node, Node], tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    record_property("seed", SEED)
    rng, stored = random.Random(SEED), {}
    followed = Catalog.open(str(tmp_path / "followed"), map_bytes=1 << 28)
    for _ in range(4):
        # Both nodes store and delete the same UIDs, and neither knows of the other.
        with kept.opened(nodes[0].data, segment_bytes=1 << 14) as first:
            with kept.opened(nodes[1].data, segment_bytes=1 << 14) as second:
                for _ in range(8):
                    node, archive = rng.choice(((nodes[0], first), (nodes[1], second)))
                    write_something(rng, archive, stored)
                    node.announce(archive)
                    if rng.random() < 0.4:
                        some = rng.sample(nodes, rng.choice((1, 2)))
                        followed.follow(feeds_of(*some), store_of(*nodes))
                    if rng.random() < 0.2:
                        followed.close()
                        followed = Catalog.open(str(tmp_path / "followed"), map_bytes=1 << 28)
        for node in nodes:
            with kept.opened(node.data) as archive:
                node.announce(archive)
    followed.follow(feeds_of(*nodes), store_of(*nodes))
    assert followed.position() == {node.slot: node.chain.last for node in nodes}
    assert followed.follow(feeds_of(*nodes), store_of(*nodes)) == 0
    union = tmp_path / "union"
    union.mkdir()
    for node in nodes:
        for segment_id in list_segments(str(node.data / "segments"), Files()):
            shutil.copy(segment_path(str(node.data / "segments"), segment_id), union)
    again, report = rebuild(str(tmp_path / "rebuilt"), str(union), Files())
    assert report.findings == []
    content, expected = meaning(followed), meaning(again)
    for part in expected:
        assert content.get(part) == expected[part], f"seed {SEED}: {part}"
    again.close()
    followed.close()


def test_what_another_node_has_acknowledged_is_read_after_waiting_for_it(
    nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    followed, clock = Catalog.open(str(tmp_path / "followed"), map_bytes=1 << 26), StampClock()
    stop = threading.Event()

    def keep_following() -> None:
        while not stop.is_set():
            followed.follow(feeds_of(*nodes), store_of(*nodes), clock.observe)

    following = threading.Thread(target=keep_following)
    with kept.opened(nodes[0].data) as first, kept.opened(nodes[1].data) as second:
        following.start()
        try:
            for number in range(12):
                node, archive = ((nodes[0], first), (nodes[1], second))[number % 2]
                kept.store(archive, [kept.data_set(number)])
                followed.wait({node.slot: node.announce(archive)}, timeout_s=120.0)
                instance = followed.locate(kept.uid_of(number).encode())
                assert instance is not None
                assert clock.next() > instance.stamp
        finally:
            stop.set()
            following.join()
    followed.close()


class Listed:
    """A feed that gives what a test lists."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups

    def after(self, number: int) -> Sequence[Group]:
        return [group for group in self._groups if group.number > number]


def test_a_gap_or_a_damaged_group_stops_its_chain_and_no_other(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    for node in nodes:
        with kept.opened(node.data) as archive:
            for number in range(3):
                kept.store(archive, [kept.data_set(10 * node.slot + number)])
                node.announce(archive)
    first, second = (node.feed.after(0) for node in nodes)
    followed, store = Catalog.open(str(tmp_path / "followed"), map_bytes=1 << 26), store_of(*nodes)
    with pytest.raises(CatalogBehind, match="group 3 of slot 1 follows group 1"):
        followed.follow({0: Listed(first), 1: Listed([second[0], second[2]])}, store)
    assert followed.position() == {0: 3, 1: 1}
    kept.turn_byte(nodes[1].data, second[1].segment_id, second[1].start + 9)
    with pytest.raises(CorruptRecord):
        followed.follow({1: Listed(second)}, store)
    assert followed.position() == {0: 3, 1: 1}
    kept.turn_byte(nodes[1].data, second[1].segment_id, second[1].start + 9)
    assert followed.follow({1: Listed(second)}, store) == 2
    assert len(list(followed.current_instances())) == 6
    followed.close()


def test_a_chain_with_a_missing_or_rotten_note_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "chain"
    assert ChainReader(str(path), Files()).after(0) == []
    chain = ChainWriter(str(path), Files())
    for number in range(1, 4):
        assert chain.append(7, 1, 4096 * number, 4096 * (number + 1), is_sealed=number == 3) == number
    chain.close()
    again = ChainWriter(str(path), Files())
    assert (again.last, [group.number for group in again.groups]) == (3, [1, 2, 3])
    again.close()
    assert ChainReader(str(path), Files()).after(1) == again.groups[1:]
    lines = path.read_bytes().splitlines(keepends=True)
    for content in (lines[0] + lines[2], lines[0] + b"?" + lines[1][1:] + lines[2], lines[1], lines[0] + lines[0]):
        path.write_bytes(content)
        with pytest.raises(StorageError, match="is damaged"):
            ChainReader(str(path), Files()).after(0)
