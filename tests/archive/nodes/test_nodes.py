"""Several nodes are one archive: each finds, reads and deletes what any of them has stored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.access import Kind, Principal
from engine.archive.archive import Archive
from engine.archive.lifecycle.compaction import Compactor
from engine.archive.nodes.departure import leave, remove
from engine.archive.settings import Compaction
from engine.errors import ClusterError, DeletionRefused, Fenced
from engine.index.format.types import Outcome
from tests.archive.filled import contents, payload_of, store, study_query, uid
from tests.archive.nodes.rig import Node, settings_of, two_nodes, uids
from tests.archive.tiering.stored import store_studies
from tests.cluster.postgres import Postgres
from tests.cluster.postgres import database as database
from tests.cluster.postgres import server as server
from tests.index.entries import meaning
from tests.objects.s3 import S3
from tests.objects.s3 import s3 as s3
from tests.objects.s3 import s3_server as s3_server

pytest.importorskip("obstore", reason="obstore is not installed")

SOMEBODY = Principal(Kind.JOB, "test")
Pair = tuple[Node, Node]


@pytest.fixture
def nodes(s3: S3, server: Postgres, database: str, tmp_path: Path) -> Iterator[Pair]:
    settings = s3.settings(tmp_path, remove_after_hours=0.0)
    with two_nodes(server.words(database), settings, tmp_path, group_bytes=40_000) as pair:
        yield pair


def fill(node: Node, *studies: int) -> None:
    """Stores studies, which are in the bucket's tail then."""
    store_studies(node.archive, *studies, segment_bytes=1 << 20)
    node.ship()


def exchange(*nodes: Node) -> None:
    for node in nodes:
        node.ship()
    for node in nodes:
        node.follow()
        assert not node.follower.errors


def assert_equal(*nodes: Node) -> dict[str, bytes]:
    """All nodes find and read the same."""
    exchange(*nodes)
    found = [contents(node.archive) for node in nodes]
    assert all(each == found[0] for each in found)
    return found[0]


def seal(node: Node) -> None:
    """Ends the segment that is written, and brings it into the bucket."""
    node.archive.writer("test").close()
    node.archive._writer = node.archive._batch_port = None  # as another process: it goes on with a new segment
    node.ship()
    node.publish()


def test_each_node_finds_and_reads_what_any_has_stored(nodes: Pair) -> None:
    first, second = nodes
    store_studies(first.archive, 1, segment_bytes=1 << 20)
    store_studies(second.archive, 2, segment_bytes=1 << 20)
    assert contents(second.archive).keys() == uids(2, 4)
    assert assert_equal(first, second).keys() == uids(1, 4) | uids(2, 4)
    assert first.follow() == second.follow() == 0
    seal(first)
    fill(first, 3)
    fill(second, 3)  # the same instances
    assert assert_equal(first, second).keys() == uids(1, 4) | uids(2, 4) | uids(3, 4)


def test_what_was_stored_before_there_were_nodes_is_found(
    s3: S3, server: Postgres, database: str, tmp_path: Path
) -> None:
    from tests.archive.filled import opened

    with opened(tmp_path / "a") as archive:
        store_studies(archive, 1, 2, segment_bytes=1 << 16)
    with two_nodes(server.words(database), s3.settings(tmp_path), tmp_path) as (first, second):
        first.publish()
        assert assert_equal(first, second).keys() == uids(1, 4) | uids(2, 4)


def test_a_deletion_of_another_nodes_study_counts_everywhere_and_what_comes_later_stays(nodes: Pair) -> None:
    first, second = nodes
    fill(first, 1, 2)
    assert_equal(*nodes)
    deletion = second.archive.delete(study_query(1), actor=SOMEBODY, reason="")
    assert deletion.instances == 4
    assert assert_equal(*nodes).keys() == uids(2, 4)
    fill(first, 1)
    assert assert_equal(*nodes).keys() == uids(1, 4) | uids(2, 4)


def test_a_hold_of_one_node_stops_a_deletion_at_another(nodes: Pair) -> None:
    first, second = nodes
    fill(first, 1)
    first.archive.set_holds([uid(1)], actor=SOMEBODY, reason="a case")
    with pytest.raises(DeletionRefused):
        second.archive.delete(study_query(1), actor=SOMEBODY, reason="")
    assert assert_equal(*nodes).keys() == uids(1, 4)


def test_two_nodes_that_take_other_bytes_of_one_uid_agree_on_the_current_one(nodes: Pair) -> None:
    for node, name in zip(nodes, ("ONE", "TWO"), strict=True):
        (outcome,) = store(node.archive, payload_of(1, 1, 1, StudyDescription=name))
        assert outcome is Outcome.STORED
    assert len(assert_equal(*nodes)) == 1


def test_a_compaction_moves_records_and_the_other_node_follows(nodes: Pair) -> None:
    first, second = nodes
    for studies in ([1, 2], [3]):
        fill(first, *studies)
        seal(first)
    assert_equal(*nodes)
    before = set(second.follower._remote.names())
    first.archive.delete(study_query(1), actor=SOMEBODY, reason="")
    assert_equal(*nodes)
    assert Compactor(first.archive, Compaction(), segment_bytes=1 << 20, everything=True).run()
    first.publish()
    assert_equal(*nodes)
    assert first.remove_gone()
    assert assert_equal(*nodes).keys() == uids(2, 4) | uids(3, 4)
    assert len(before & set(second.follower._remote.names())) < len(before)


def again(node: Node) -> Node:
    node.close()
    return Node(node.data, node.store)


def test_a_node_begins_again_after_it_lost_its_index_and_its_entries(nodes: Pair) -> None:
    first, second = nodes
    fill(first, 1)
    seal(first)
    fill(first, 2)
    fill(second, 3)
    expected = assert_equal(*nodes)
    second.close()
    for path in (second.data / "elsewhere").glob("*.groups"):
        path.unlink()
    reopened = Node(second.data, second.store)
    try:
        assert assert_equal(first, reopened) == expected
        reopened.close()
        shutil.rmtree(reopened.data / "index")
        reopened = Node(second.data, second.store)
        assert assert_equal(first, reopened) == expected
        reopened.close()
        Archive.rebuild_index(reopened.data)
        reopened = Node(second.data, second.store)
        assert assert_equal(first, reopened) == expected
        assert not reopened.archive.losses()
        fill(reopened, 4)
        assert assert_equal(first, reopened).keys() == expected.keys() | uids(4, 4)
    finally:
        second.__dict__.update(reopened.__dict__)  # the fixture closes it


def test_a_new_node_begins_with_the_sealed_segments_when_old_rows_are_gone(
    nodes: Pair, server: Postgres, database: str, tmp_path: Path
) -> None:
    from engine.archive.nodes.joining import join

    first, second = nodes
    fill(first, 1, 2)
    seal(first)
    expected = assert_equal(*nodes)
    for node in nodes:
        node.membership.log.beat(node.archive.parts.index.position())
    assert first.chains.trim(0) == first.chains.positions()[0]
    join(tmp_path / "c", settings_of(server.words(database), "c"), first.store)
    third = Node(tmp_path / "c", first.store)
    try:
        assert third.membership.slot == 2
        assert assert_equal(first, third) == expected
        fill(third, 5)
        assert assert_equal(first, second, third).keys() == expected.keys() | uids(5, 4)
    finally:
        third.close()


def test_a_node_that_was_taken_over_announces_nothing_more(nodes: Pair, server: Postgres, database: str) -> None:
    first, second = nodes
    fill(first, 1)
    server.execute("update filmroom.nodes set until = now() - interval '1 minute' where slot = 0", database)
    second.membership.cluster.nodes.take_over(0, 1)
    store_studies(first.archive, 2, segment_bytes=1 << 20)
    with pytest.raises(Fenced):
        first.ship()
    second.follow()
    assert contents(second.archive).keys() == uids(1, 4)


def test_what_a_lost_node_had_shipped_is_adopted_and_then_it_is_out(
    nodes: Pair, server: Postgres, database: str
) -> None:
    first, second = nodes
    fill(first, 1)
    append = first.announcer._append
    first.announcer._append = lambda announcement: None  # it dies between the bucket and the announcement
    pixels = bytes(100_000)  # more than a group
    (outcome,) = store(first.archive, payload_of(2, 1, 1, pixels=pixels))
    assert outcome is Outcome.STORED
    first.ship()
    first.announcer._append = append
    assert assert_following(second).keys() == uids(1, 4)
    with pytest.raises(ClusterError, match="alive"):
        remove(second.archive, "a", second.store)
    server.execute("update filmroom.nodes set until = now() - interval '1 minute' where slot = 0", database)
    assert remove(second.archive, "a", second.store) >= 3
    assert assert_following(second).keys() == uids(1, 4) | {uid(2, 1, 1)}
    assert contents(second.archive)[uid(2, 1, 1)] == payload_of(2, 1, 1, pixels=pixels)
    store_studies(first.archive, 3, segment_bytes=1 << 20)
    with pytest.raises(Fenced):
        first.ship()
    with pytest.raises(ClusterError, match="no node"):
        remove(second.archive, "a", second.store)


def test_a_node_leaves_with_all_that_it_has(nodes: Pair) -> None:
    first, second = nodes
    fill(first, 1)
    store_studies(first.archive, 2, segment_bytes=1 << 20)
    leave(first.archive, first.store)
    assert assert_following(second).keys() == uids(1, 4) | uids(2, 4)
    states = {node.name: node.state for node in second.membership.cluster.nodes.list()}
    assert states == {"a": "left", "b": "active"}


def assert_following(node: Node) -> dict[str, bytes]:
    node.follow()
    assert not node.follower.errors
    return contents(node.archive)


def test_all_indexes_mean_the_same_as_one_that_was_made_anew(nodes: Pair) -> None:
    first, second = nodes
    fill(first, 1, 2)
    fill(second, 2, 3)
    exchange(*nodes)
    first.archive.delete(study_query(2), actor=SOMEBODY, reason="")
    second.archive.set_holds([uid(3)], actor=SOMEBODY, reason="")
    seal(first)
    seal(second)
    fill(first, 4)
    assert_equal(*nodes)
    facts = [meaning(node.archive.parts.index) for node in nodes]
    for each in facts:
        each.pop("marks")  # of a segment that its node writes still, ends differ
    assert facts[0] == facts[1]
