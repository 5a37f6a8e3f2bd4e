"""What a hostile network and a tired person do to nodes: what is another node's is never called lost or damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.archive import verify
from engine.archive.lifecycle.compaction import Compactor
from engine.archive.lifecycle.scrub import Scrubber
from engine.archive.nodes.announcement import GROUP, Announcement
from engine.archive.nodes.growing_segments import GrowingSegments
from engine.archive.nodes.joining import join
from engine.archive.settings import Compaction
from engine.archive.tiering import bucket_restore
from engine.archive.tiering.residence import Residence
from engine.errors import StorageError
from engine.objects.bucket import Bucket, Place, SegmentName
from engine.objects.pages import PageCache
from engine.objects.settings import ObjectStore
from engine.storage.files import Files
from tests.archive.filled import contents, opened, study_query
from tests.archive.nodes.rig import Node, settings_of, uids
from tests.archive.nodes.test_nodes import SOMEBODY, Pair, assert_equal, exchange, fill, seal
from tests.archive.nodes.test_nodes import nodes as nodes
from tests.archive.tiering.stored import store_studies
from tests.cluster.postgres import Postgres
from tests.cluster.postgres import database as database
from tests.cluster.postgres import server as server
from tests.objects.s3 import s3 as s3
from tests.objects.s3 import s3_server as s3_server

pytest.importorskip("obstore", reason="obstore is not installed")


def reopened(node: Node) -> None:
    """The same node after a restart; the fixture closes it."""
    node.close()
    node.__dict__.update(Node(node.data, node.store).__dict__)


def fetch_all(node: Node) -> int:
    """Makes files of all segments that are in the bucket, as `filmroom object-store fetch` does."""
    parts = node.archive.parts
    residence = Residence(parts.layout, parts.files, node.follower._remote)
    return sum(residence.fetch(name) > 0 for name in residence.remote_names())


def trim(*nodes: Node) -> None:
    for node in nodes:
        node.membership.log.beat(node.archive.parts.index.position())
    for node in nodes:
        node.chains.trim(node.membership.slot)


def test_a_restore_from_the_bucket_has_what_all_nodes_have_stored(nodes: Pair, tmp_path: Path) -> None:
    first, second = nodes
    fill(first, 1)
    seal(first)
    fill(first, 2)
    fill(second, 3)
    seal(second)
    fill(second, 4)
    expected = assert_equal(*nodes)
    assert len(expected) == 16
    report = bucket_restore.restore(first.store, tmp_path / "new")
    assert report.findings == []
    with opened(tmp_path / "new") as archive:
        assert contents(archive) == expected
        assert not archive.losses()


@pytest.mark.parametrize("what", ["*.hint", "*.groups", "*"])
def test_what_is_known_of_other_nodes_comes_again_when_old_rows_are_gone(nodes: Pair, what: str) -> None:
    first, second = nodes
    fill(first, 1)
    seal(first)
    expected = assert_equal(*nodes)
    trim(*nodes)
    assert first.chains.after(0, 1_000_000) == []
    fill(first, 2)
    expected = assert_equal(*nodes)
    second.close()
    for path in (second.data / "elsewhere").glob(what):
        path.unlink()
    second.__dict__.update(Node(second.data, second.store).__dict__)
    assert assert_equal(*nodes) == expected
    assert not second.archive.losses()
    assert verify.check(second.archive, payloads=True).findings == []


def test_nothing_of_another_node_is_lost_where_it_cannot_be_opened(nodes: Pair) -> None:
    first, second = nodes
    fill(first, 1)
    seal(first)
    fill(first, 2)
    expected = assert_equal(*nodes)
    shutil.rmtree(second.data / "elsewhere")
    scrubber = Scrubber(second.archive, cycle_s=86400, rate_bytes_per_s_max=1 << 30)
    for _ in range(20):
        scrubber.step(1 << 30)
    assert scrubber.counters["damaged"] == 0
    assert not second.archive.losses() and not second.archive.parts.index.damage()
    reopened(second)
    assert assert_equal(*nodes) == expected


def test_what_a_node_has_fetched_stays_the_other_nodes(nodes: Pair) -> None:
    first, second = nodes
    fill(first, 1, 2)
    seal(first)
    fill(first, 3)
    seal(first)
    fill(first, 4)
    exchange(*nodes)
    assert fetch_all(second) >= 2
    expected = assert_equal(*nodes)
    assert second.publisher.backlog() == []
    second.publish()
    second.archive.delete(study_query(1), actor=SOMEBODY, reason="")
    expected = assert_equal(*nodes)
    assert not Compactor(second.archive, Compaction(), segment_bytes=1 << 20, everything=True).plan().groups
    Compactor(second.archive, Compaction(), segment_bytes=1 << 20, everything=True).run()
    assert assert_equal(*nodes) == expected
    assert Compactor(first.archive, Compaction(), segment_bytes=1 << 20, everything=True).run()
    first.publish()
    assert first.remove_gone()
    assert assert_equal(*nodes) == expected
    own = {path.name for path in (first.data / "segments").glob("*.seg")}
    fetched = {path.name for path in (second.data / "segments").glob("0000*.seg")}
    assert fetched <= own  # those that the compaction has removed have gone here too
    reopened(second)
    assert assert_equal(*nodes) == expected
    assert not second.archive.losses()
    assert verify.check(second.archive, payloads=True).findings == []


def test_a_node_without_its_note_is_no_archive_of_its_own_and_gets_it_again(
    nodes: Pair, server: Postgres, database: str
) -> None:
    first, second = nodes
    fill(first, 1)
    fill(second, 2)
    expected = assert_equal(*nodes)
    for node, name in zip(nodes, "ab", strict=True):
        slot = node.membership.slot
        node.close()
        (node.data / "cluster.json").unlink()
        with pytest.raises(StorageError, match="cluster join"):
            opened(node.data)
        with pytest.raises(Exception, match="there is a node"):  # two servers with one name
            join(node.data, settings_of(server.words(database), "ab".replace(name, "")), node.store)
        assert join(node.data, settings_of(server.words(database), name), node.store).slot == slot
        node.__dict__.update(Node(node.data, node.store).__dict__)
    store_studies(first.archive, 3, segment_bytes=1 << 20)
    assert assert_equal(*nodes).keys() == expected.keys() | uids(3, 4)


def test_a_bucket_with_an_archive_gets_no_second_one_from_a_first_node_that_has_lost_its_folder(
    server: Postgres, database: str, tmp_path: Path
) -> None:
    store = ObjectStore(url=f"file://{tmp_path}/bucket")
    (tmp_path / "bucket").mkdir()
    words = server.words(database)
    with pytest.raises(StorageError, match="holds no archive"):
        join(tmp_path / "a", settings_of(words, "a"), store)
    first = join(tmp_path / "a", settings_of(words, "a"), store, is_new=True)
    again = join(tmp_path / "a", settings_of(words, "a"), store, is_new=True)
    assert (again.archive_id, again.slot) == (first.archive_id, first.slot)
    with pytest.raises(StorageError, match="holds an archive already"):
        join(tmp_path / "b", settings_of(words, "b"), store, is_new=True)
    assert not (tmp_path / "b").exists()
    second = join(tmp_path / "b", settings_of(words, "b"), store)
    assert (second.archive_id, second.slot != first.slot) == (first.archive_id, True)


class _Counting(Files):
    """Counts the bytes that are read."""

    read_bytes = 0

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        data = super().pread(fd, length, offset)
        self.read_bytes += len(data)
        return data


def test_what_a_group_costs_to_add_does_not_grow_with_its_segment(tmp_path: Path) -> None:
    files, name = _Counting(), SegmentName(1 << 48, 7)
    pages = PageCache(str(tmp_path / "pages"), files, lambda: 0)

    def bucket() -> Bucket:
        raise AssertionError("nobody reads a payload")

    def add(growing: GrowingSegments, number: int) -> None:
        start = 4096 + number * 100 if number else 0
        end = 4196 + number * 100
        place = Place(1, 1, number)
        growing.add(Announcement(GROUP, name, start, end, place, records_end=end, header=b"h" * 100))

    growing = GrowingSegments(tmp_path, files, bucket, pages)
    for number in range(100):
        add(growing, number)
    assert files.read_bytes == 0
    with open(growing.path(name), "ab") as file:
        file.write(b"x" * 50)  # as a write that a power cut has torn
    add(growing, 100)  # over it
    assert files.read_bytes
    again = GrowingSegments(tmp_path, files, bucket, pages)
    add(again, 101)
    assert again.end(name) == 4196 + 101 * 100
