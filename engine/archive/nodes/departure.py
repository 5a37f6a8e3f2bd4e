"""Departure: how a node leaves, and how the others remove one that is lost.

    leave     on the node itself, whose server has stopped: all is in the bucket and announced, its chain is sealed
    remove    on another node, when the term of its lease is over:
              epoch + 1 in PostgreSQL   from now on nothing that the lost node announces counts
              SEAL in the bucket        from now on nothing that it ships counts (`tiering.tail`)
              adoption                  groups before the seal that it did not come to announce are announced
              the chain is sealed, the node forgotten; its slot is never given again

What a node acknowledged had been announced before. So a removal makes nothing visible that anybody waits for, but for
what had been on its way, and no node that is gone keeps the others from working: they read its instances in the bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from engine import log
from engine.archive.archive import Archive
from engine.archive.nodes.announcement import GROUP, Announcement, of_group
from engine.archive.nodes.announcer import Announcer
from engine.archive.nodes.membership import Membership
from engine.archive.tiering import connection
from engine.archive.tiering.publisher import Publisher
from engine.archive.tiering.tail import Tail, assembled, seal_chain
from engine.cluster.cluster import Cluster
from engine.cluster.nodes import Node
from engine.errors import ClusterError
from engine.objects.bucket import Bucket, Group, SegmentName
from engine.objects.settings import ObjectStore
from engine.storage import chain
from engine.storage.segment import FIRST_RECORD
from engine.storage.segment_bytes import SegmentBytes

logger = log.get("archive.departure")

ROWS_AT_ONCE = 256


def leave(archive: Archive, store: ObjectStore) -> int:
    """Ends a node whose server has stopped; returns how many segments it brought into the bucket. May be repeated.

    Raises ClusterError, ClusterUnreachable, StoreUnreachable, StorageError.
    """
    parts, membership = archive.parts, _membership_of(archive)
    bucket = connection.bucket_of(parts.layout.archive_id, store)
    cluster, slot = membership.cluster, membership.slot
    announcer = Announcer(parts.layout, parts.files, membership.log.append)
    publisher = Publisher(parts.layout, parts.files, bucket, store)
    try:
        count = 0
        for item in publisher.backlog():
            count += publisher.publish(item.name) is not None
        announcer.segments(list(publisher.published))
        tail = Tail(
            parts.layout,
            parts.files,
            bucket,
            store.url,
            group_bytes=store.group_bytes,
            announce=lambda group: announcer.group(group, parts.segments.open),
            keep_s=float("inf"),
        )
        tail.open()
        tail.step(publisher.published.keys())
        publisher.write_manifest([tail.next])
    finally:
        publisher.close()
        announcer.close()
    membership.log.beat(parts.index.position())
    epoch = membership.log.epoch
    assert epoch is not None
    cluster.nodes.drain(slot)
    cluster.chains.seal(slot, epoch)
    seal_chain(bucket, slot, bucket.places(slot))
    cluster.nodes.leave(slot)
    return count


def remove(archive: Archive, name: str, store: ObjectStore) -> int:
    """Removes a node that is lost; returns how many groups were adopted. May be repeated.

    Raises ClusterError if it is alive, or unknown; ClusterUnreachable, StoreUnreachable, ObjectWrong.
    """
    membership = _membership_of(archive)
    cluster = membership.cluster
    node = _named(cluster, name)
    if node.slot == membership.slot:
        raise ClusterError(f"{name} is this node: `filmroom cluster leave` ends it")
    adopted = 0
    if not node.is_sealed:
        epoch, number = cluster.nodes.take_over(node.slot, membership.slot)
        bucket = connection.bucket_of(archive.parts.layout.archive_id, store)
        seal_chain(bucket, node.slot, bucket.places(node.slot))
        for announcement in _unannounced(cluster, bucket, node):
            number += 1
            name_ = announcement.name
            group = chain.Group(number, name_.segment_id, name_.salt, announcement.start, announcement.end, False)
            cluster.chains.append(epoch, group, len(announcement.heads), announcement.message())
            adopted += 1
        cluster.chains.seal(node.slot, epoch)
    cluster.nodes.remove(node.slot)
    return adopted


def _membership_of(archive: Archive) -> Membership:
    if archive.membership is None:
        raise ClusterError("this archive is no node of a cluster")
    return archive.membership


def _named(cluster: Cluster, name: str) -> Node:
    for node in cluster.nodes.list():
        if node.name == name and node.state != "left":
            return node
    raise ClusterError(f"there is no node {name}")


def _unannounced(cluster: Cluster, bucket: Bucket, node: Node) -> Iterator[Announcement]:
    """What a node has brought into the bucket and did not come to announce."""
    known: dict[SegmentName, list[Announcement]] = {}
    published: set[SegmentName] = set()
    number = node.trimmed
    while rows := cluster.chains.after(node.slot, number, ROWS_AT_ONCE):
        for row in rows:
            number, group = row.group.number, row.group
            announcement = Announcement.of_row(group.segment_id, group.salt, group.start, group.end, row.heads)
            if announcement.kind == GROUP:
                known.setdefault(announcement.name, []).append(announcement)
            else:
                published.add(announcement.name)
    last = max((each.place for told in known.values() for each in told if each.place is not None), default=None)
    needed = [place for place in bucket.places(node.slot) if last is None or place > last]
    for told in known.values():  # a record that is larger than a group begins in one that was announced
        walked = max(each.records_end for each in told)
        needed += [each.place for each in told if each.place is not None and each.end > walked]
    groups = [bucket.group(place) for place in needed]
    for name, own in assembled(groups, published).items():
        told = known.get(name, [])
        end = max((each.end for each in told), default=0)
        walked = max((each.records_end for each in told), default=FIRST_RECORD)
        log_bytes = cast("SegmentBytes", _Groups(own, told))
        for group_ in own:
            if group_.end > end:
                announcement, walked = of_group(group_, log_bytes, walked)
                end = group_.end
                yield announcement


class _Groups:
    """The bytes of a segment in its groups, as far as a walk over heads reads them."""

    def __init__(self, groups: list[Group], announcements: list[Announcement]) -> None:
        self._groups = groups
        self._block = announcements[0].header.ljust(FIRST_RECORD, b"\0") if announcements else b""

    def size(self) -> int:
        return max(group.end for group in self._groups)

    def read(self, length: int, offset: int, /) -> bytes:
        if offset < len(self._block):
            return self._block[offset : offset + length]
        pieces = []
        for group in self._groups:
            if length and group.start <= offset < group.end:
                piece = group.data[offset - group.start : offset - group.start + length]
                pieces.append(piece)
                offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)

    def next_data(self, offset: int) -> int:
        return offset

    def next_hole(self, offset: int) -> int:
        return self.size()

    def expect_random(self) -> None:
        pass
