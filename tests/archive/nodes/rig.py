"""Nodes of one archive in this process: a bucket and PostgreSQL between them, and steps instead of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.archive.archive import Archive
from engine.archive.nodes.announcer import Announcer
from engine.archive.nodes.follower import Follower
from engine.archive.nodes.joining import join
from engine.archive.nodes.membership import FollowingIndex
from engine.archive.tiering import connection
from engine.archive.tiering.publisher import Publisher
from engine.archive.tiering.tail import Tail
from engine.cluster.cluster import Cluster
from engine.cluster.settings import ClusterSettings
from engine.objects.settings import ObjectStore
from tests.archive.filled import opened, uid


class Node:
    """A node with its archive open, and what its caretaker does as methods."""

    def __init__(self, data: Path, store: ObjectStore, *, group_bytes: int = 1 << 20) -> None:
        self.data = data
        self.store = store
        self.archive: Archive = opened(data)
        parts = self.archive.parts
        assert self.archive.membership is not None
        self.membership = self.archive.membership
        bucket = connection.bucket_of(parts.layout.archive_id, store)
        self.publisher = Publisher(parts.layout, parts.files, bucket, store)
        self.announcer = Announcer(parts.layout, parts.files, self.membership.log.append)
        self.tail = Tail(
            parts.layout,
            parts.files,
            bucket,
            store.url,
            group_bytes=group_bytes,
            announce=lambda group: self.announcer.group(group, parts.segments.open),
            keep_s=1e9,
        )
        self.tail.open()
        self.follower = Follower.of(self.archive)
        self.follower.mend(self.chains)
        catch_up = self.membership.catch_up

        def follow_and_catch_up(index: FollowingIndex) -> None:
            self.follow()
            catch_up(index)

        self.membership.catch_up = follow_and_catch_up  # type: ignore[method-assign]
        self.membership.wait_announced = lambda position: self.ship()  # type: ignore[method-assign,assignment,misc]

    @property
    def chains(self):  # type: ignore[no-untyped-def]
        return self.membership.cluster.chains

    def ship(self) -> None:
        """Brings what is new into the bucket, and announces it."""
        self.announcer.segments(list(self.publisher.published))
        self.tail.step(self.publisher.published.keys())

    def publish(self) -> None:
        """Brings sealed segments into the bucket, and announces them."""
        for item in self.publisher.backlog():
            self.publisher.publish(item.name)
        self.announcer.segments(list(self.publisher.published))

    def follow(self) -> int:
        """Applies what others have announced."""
        return self.follower.step(self.chains)

    def remove_gone(self) -> int:
        """Removes from the bucket, and announces, what a compaction has removed here."""
        marks = self.archive.parts.index.segment_marks()
        self.publisher.backlog()
        self.publisher.write_manifest([self.tail.next])

        def is_needed(segment_id: int) -> bool:
            return segment_id in marks and marks[segment_id].live_count > 0

        self.publisher.remove_gone(is_needed, (), self.announcer.removed)
        self.publisher._manifest_s = -1e9
        self.publisher.write_manifest([self.tail.next])
        return self.publisher.remove_gone(is_needed, (), self.announcer.removed)

    def close(self) -> None:
        self.archive.close()
        self.publisher.close()
        self.announcer.close()
        self.membership.close()


def settings_of(words: str, name: str) -> ClusterSettings:
    return ClusterSettings(database=words, node=name, address=f"{name}:11112", wait_s=60.0, timeout_s=60.0)


def begin(words: str, archive_id: bytes) -> None:
    """Makes the tables."""
    with Cluster(settings_of(words, "setup"), archive_id) as cluster:
        cluster.init()


@contextmanager
def two_nodes(words: str, store: ObjectStore, folder: Path, **options: int) -> Iterator[tuple[Node, Node]]:
    """The first node, with an archive that was there before, and a new one. Slots 0 and 1."""
    with opened(folder / "a") as archive:
        begin(words, archive.parts.layout.archive_id)
    join(folder / "a", settings_of(words, "a"), store)
    first = Node(folder / "a", store, **options)  # type: ignore[arg-type]
    try:
        join(folder / "b", settings_of(words, "b"), store)
        second = Node(folder / "b", store, **options)  # type: ignore[arg-type]
        try:
            yield first, second
        finally:
            second.close()
    finally:
        first.close()


def uids(study: int, count: int) -> set[str]:
    """What `store_studies` stores of a study."""
    return {uid(study, 1, number) for number in range(count)}
