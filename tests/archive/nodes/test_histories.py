"""Random histories of two nodes, told to each other in any order: all indexes are equal, and equal to one made anew."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.archive.archive import Archive
from engine.index.format.types import Level
from tests.actors import actor
from tests.archive import kept
from tests.archive.filled import contents
from tests.archive.nodes.rig import Node, two_nodes
from tests.cluster.postgres import Postgres
from tests.cluster.postgres import database as database
from tests.cluster.postgres import server as server
from tests.index.entries import meaning
from tests.objects.s3 import S3
from tests.objects.s3 import s3 as s3
from tests.objects.s3 import s3_server as s3_server

pytest.importorskip("obstore", reason="obstore is not installed")

SEED = int(os.environ.get("FILMROOM_NODES_SEED", "20261130"))


@pytest.fixture
def nodes(s3: S3, server: Postgres, database: str, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    with two_nodes(server.words(database), s3.settings(tmp_path), tmp_path, group_bytes=3_000) as pair:
        yield pair


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
        assert not isinstance(answers[0], Exception), answers


def seal(node: Node) -> None:
    node.archive.writer("test").close()
    node.archive._writer = node.archive._batch_port = None
    if node.archive.parts.ledger.opened is not None:
        node.archive.parts.ledger.close()
        node.archive.parts.ledger._writer = None
    node.ship()
    node.publish()


def facts_of(node: Node) -> dict[str, Any]:
    return meaning(node.archive.parts.index)


def test_nodes_that_hear_of_each_other_in_any_order_are_equal(
    nodes: tuple[Node, Node], record_property: pytest.RecordProperty
) -> None:
    record_property("seed", SEED)
    rng, stored = random.Random(SEED), {}
    for _ in range(30):
        node = rng.choice(nodes)
        match rng.choice(("write", "write", "write", "ship", "follow", "seal")):
            case "write":
                write_something(rng, node.archive, stored)
            case "ship":
                node.ship()
            case "follow":
                node.follow()
            case _:
                seal(node)
    for node in nodes:
        seal(node)
    for node in nodes:
        node.follow()
        assert not node.follower.errors
    first, second = nodes
    expected = facts_of(first)
    for part, found in facts_of(second).items():
        assert found == expected[part], f"seed {SEED}: {part}"
    found = contents(first.archive)
    assert contents(second.archive) == found
    second.close()
    Archive.rebuild_index(second.data)
    again = Node(second.data, second.store)
    try:
        again.follow()
        for part, fact in facts_of(again).items():
            assert fact == expected[part], f"seed {SEED}: {part}, made anew"
        assert contents(again.archive) == found
    finally:
        second.__dict__.update(again.__dict__)  # the fixture closes it
