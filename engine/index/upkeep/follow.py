"""Follows the logs of other nodes: applies their groups to this index, each chain in its order.

    position of the index {slot: number} ──► groups behind it ──► records from the segment store ──► Catalog.apply_group

A record may arrive before, after or between those of other nodes, and again after a crash: applying is free of order
and repeatable (`apply`), and the position is written in the same transaction. So a follower keeps no state of its own.
`Catalog.wait` tells any process when what another node has acknowledged is visible here.

A record that is damaged, or of a kind that this version does not know, stops its chain: a hole would never be noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from engine.errors import CorruptRecord
from engine.index.format.entry import Item, unpack_record
from engine.index.format.types import SegmentMark
from engine.storage.chain import Group
from engine.storage.hints import read_header_or_trailer
from engine.storage.segment import Damage, Walk
from engine.storage.segment_store import SegmentStore


class GroupFeed(Protocol):
    """The groups of one slot."""

    def after(self, number: int) -> Sequence[Group]:
        """The next groups behind a number, in order; not all of them need to come at once."""


class FollowingCatalog(Protocol):
    """What a follower needs of the catalogue."""

    def position(self) -> dict[int, int]:
        """The number of the last applied group of each slot."""

    def apply_group(
        self,
        slot: int,
        number: int,
        items: Sequence[Item],
        marks: Mapping[int, SegmentMark] | None = None,
        covered: Mapping[int, int] | None = None,
    ) -> bool:
        """Applies a group; False: it has been applied before."""


def follow(
    feeds: Mapping[int, GroupFeed],
    store: SegmentStore,
    catalog: FollowingCatalog,
    observe: Callable[[int], object] = lambda stamp: None,
) -> int:
    """Applies what the feeds, by slot, have behind the catalogue's position; returns the number of groups.

    `observe` is called with the largest stamp of each group: this node's clock steps over it. Raises CatalogBehind at a
    gap, CorruptRecord, StoreUnreachable, IndexError_; groups before the one at fault have been applied.
    """
    position = catalog.position()
    count = 0
    for slot, feed in feeds.items():
        for group in feed.after(position.get(slot, 0)):
            items = _items(store, group)
            marks = {group.segment_id: SegmentMark(group.end, True)} if group.is_sealed else {}
            count += catalog.apply_group(slot, group.number, items, marks, {group.segment_id: group.end})
            observe(max((item.stamp for item in items), default=0))
    return count


def _items(store: SegmentStore, group: Group) -> list[Item]:
    data = store.open(group.segment_id, group.start, salt=group.salt)
    header = read_header_or_trailer(data, group.segment_id)
    walk = Walk(data, header, group.start, end=group.end)
    items = []
    for record in walk:
        if isinstance(record, Damage):
            raise record.error()
        items.append(unpack_record(record))
    if walk.tail != group.end:
        raise CorruptRecord(walk.torn or "records of a group are missing", group.segment_id, walk.tail)
    return items
