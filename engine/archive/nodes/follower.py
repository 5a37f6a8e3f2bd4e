"""Follower: applies to this node's index what other nodes announce of their logs, and keeps what reads need of it.

    row of the feed     growing segments            index                           elsewhere
    GROUP               its entry is added       ─► its heads, and the number
    PUBLISHED           its file goes               what is missing, by the hint ◄─ the hint is fetched
    REMOVED             its file goes               the segment is forgotten        the hint goes

Each row is applied in one transaction that notes its number (`Catalog.apply_group`), so a stop at any point repeats at
most one row, and rows may be applied any number of times. Nodes do not wait for each other: a slot whose bucket or feed
fails stops alone, and is tried again.

A record that is damaged or unknown to this version stops its slot: a hole would never be noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from engine import log
from engine.archive.archive import Archive
from engine.archive.nodes import announcement as announcements
from engine.archive.nodes.announcement import GROUP, Announcement
from engine.archive.nodes.growing_segments import GrowingSegments
from engine.archive.parts import Parts
from engine.archive.tiering.remote_segments import RemoteSegments
from engine.cluster.chains import AnnouncedGroup
from engine.errors import ChainTrimmed, CorruptRecord, ObjectMissing, ObjectWrong, StoreUnreachable, for_log
from engine.index.format.entry import Item, unpack_record
from engine.index.format.types import SegmentMark
from engine.index.upkeep.rebuild import Report, load_sealed
from engine.objects.bucket import Bucket, SegmentName
from engine.storage.encryption import opened_or_shredded
from engine.storage.hints import read_hints
from engine.storage.record import SHREDDED, Record, decode_head
from engine.storage.segment import FIRST_RECORD, segment_path
from engine.storage.segment_ids import slot_of

logger = log.get("archive.follower")

ROWS_AT_ONCE: Final = 64


class Feed(Protocol):
    """What all nodes have announced. Raises ClusterUnreachable."""

    def positions(self) -> Mapping[int, int]:
        """The number of the last row of each slot."""

    def after(self, slot: int, number: int, limit: int) -> Sequence[AnnouncedGroup]:
        """The next rows of a slot, in order and without a gap. Raises ChainTrimmed if they are gone."""


class Follower:
    """For one thread of one process of a node."""

    def __init__(self, parts: Parts, remote: RemoteSegments, growing: GrowingSegments, bucket: Bucket) -> None:
        self._parts = parts
        self._index = parts.index
        self._files = parts.files
        self._remote = remote
        self._growing = growing
        self._bucket = bucket
        self.errors: dict[int, str] = {}
        """Why a slot cannot be followed now."""
        self.behind: dict[int, int] = {}
        """How many rows of each slot were not applied at the last step."""

    @classmethod
    def of(cls, archive: Archive) -> Follower:
        """The follower of a node. Raises StoreUnreachable when the archive does not say where its bucket is."""
        parts = archive.parts
        layout, files = parts.layout, parts.files
        remote = RemoteSegments(layout.data, layout.archive_id, files)
        return cls(parts, remote, GrowingSegments(layout.data, files, remote.bucket, remote.pages), remote.bucket())

    def step(self, feed: Feed) -> int:
        """Applies what is new of all other nodes; returns how many rows. Raises ClusterUnreachable."""
        own = self._parts.layout.slot
        position = self._index.position()
        count = 0
        for slot, last in sorted(feed.positions().items()):
            if slot == own:
                continue
            number = position.get(slot, 0)
            while number < last:
                try:
                    rows = feed.after(slot, number, ROWS_AT_ONCE)
                except ChainTrimmed as error:
                    number = self._begin(slot, error.trimmed)
                    continue
                applied = self._apply(slot, rows)
                number += applied
                count += applied
                if applied < len(rows) or not rows:
                    break
            self.behind[slot] = last - number
        return count

    def _begin(self, slot: int, number: int) -> int:
        """Applies what a slot had stored when rows up to `number` were trimmed: all of it is in sealed segments."""
        names = [name for name in self._bucket.hint_names() if slot_of(name.segment_id) == slot]
        logger.info("another node's log is read from its sealed segments", slot=slot, segments=len(names))
        for name in names:
            self._take_hint(name)
        self._index.skip_groups(slot, number)
        return number

    def mend(self, feed: Feed) -> None:
        """Adds the entries and hints that a power cut or a person has taken: for the start.

        Raises ClusterUnreachable, StoreUnreachable.
        """
        self._mend_hints()
        marks = self._index.segment_marks()
        lost: dict[int, dict[SegmentName, int]] = {}
        names = {name.segment_id: name for name in self._growing.names()}
        sealed = {name.segment_id for name in self._remote.names()}
        position = self._index.position()
        own = self._parts.layout.slot
        for segment_id, mark in marks.items():
            slot = slot_of(segment_id)
            if slot == own or slot not in position or mark.sealed or segment_id in sealed:
                continue
            name = names.get(segment_id)
            if name is None or self._growing.end(name) < mark.indexed_bytes:
                lost.setdefault(slot, {})[name or SegmentName(segment_id, 0)] = mark.indexed_bytes
        for slot, segments in lost.items():
            logger.warning("entries of growing segments are fetched again", slot=slot, segments=len(segments))
            ids = {name.segment_id for name in segments}
            for name in segments:
                if name.salt:
                    self._growing.discard(name)
            number = 0
            while number < position[slot]:
                try:
                    rows = feed.after(slot, number, ROWS_AT_ONCE)
                except ChainTrimmed as error:
                    number = error.trimmed  # those were of segments that are sealed
                    continue
                if not rows:
                    break
                for row in rows:
                    number = row.group.number
                    if row.group.segment_id in ids and number <= position[slot]:
                        announcement = _of(row)
                        if announcement.kind == GROUP:
                            self._growing.add(announcement)

    def _mend_hints(self) -> None:
        """Fetches the hints of sealed segments that the index needs and that are not here."""
        layout = self._parts.layout
        present = set(self._parts.segments.segment_ids())
        marks = self._index.segment_marks()
        lost = {number for number, mark in marks.items() if mark.sealed and not layout.writes(number)} - present
        if not lost:
            return
        names = [name for name in self._bucket.hint_names() if name.segment_id in lost]
        logger.warning("hints of other nodes' segments are fetched again", lost=len(lost), found=len(names))
        for name in names:
            try:
                self._remote.add(name, self._bucket.hint(name).encode())
            except (ObjectMissing, ObjectWrong) as error:  # a compaction has just removed it, or it is damaged
                logger.error("a hint cannot be fetched again", segment=str(name), error=for_log(error))

    def _apply(self, slot: int, rows: Sequence[AnnouncedGroup]) -> int:
        for count, row in enumerate(rows):
            try:
                self._apply_row(slot, row)
            except (CorruptRecord, StoreUnreachable, ObjectMissing, ObjectWrong) as error:
                if self.errors.get(slot) != str(error):
                    where = {"slot": slot, "row": row.group.number}
                    logger.error("another node's log cannot be followed", **where, error=for_log(error))
                self.errors[slot] = str(error)
                return count
        if rows and self.errors.pop(slot, None) is not None:
            logger.info("another node's log is followed again", slot=slot)
        return len(rows)

    def _apply_row(self, slot: int, row: AnnouncedGroup) -> None:
        announcement = _of(row)
        if announcement.slot != slot:
            raise CorruptRecord(f"a row of slot {slot} is of another slot", row.group.segment_id, row.group.start)
        match announcement.kind:
            case announcements.GROUP:
                self._apply_items(slot, row.group.number, announcement)
            case announcements.PUBLISHED:
                self._publish(slot, row.group.number, announcement.name)
            case _:
                self._remove(slot, row.group.number, announcement.name)

    def _apply_items(self, slot: int, number: int, announcement: Announcement) -> None:
        segment_id = announcement.name.segment_id
        if not self._remote.has(announcement.name):
            self._growing.add(announcement)
        self._index.apply_group(slot, number, items_of(announcement), {}, {segment_id: announcement.records_end})

    def _publish(self, slot: int, number: int, name: SegmentName) -> None:
        tail = self._take_hint(name)
        self._index.apply_group(slot, number, [], {name.segment_id: SegmentMark(tail, True)}, {name.segment_id: tail})
        self._growing.discard(name)
        self._parts.reader.drop(name.segment_id)

    def _take_hint(self, name: SegmentName) -> int:
        """Applies what the index lacks of a sealed segment; returns where its records end."""
        hint = self._bucket.hint(name)
        self._remote.add(name, hint.encode())
        mark = self._index.segment_marks().get(name.segment_id)
        report = Report()
        if mark is None or not mark.sealed:
            start = mark.indexed_bytes if mark is not None else FIRST_RECORD
            if not load_sealed(self._index, self._remote, name.segment_id, start, report):
                raise CorruptRecord("the hint of a published segment cannot be read", name.segment_id, 0)
            for finding in report.findings:
                logger.error("damage in another node's log", finding=str(finding))
        return hint.tail

    def _remove(self, slot: int, number: int, name: SegmentName) -> None:
        mark = self._index.segment_marks().get(name.segment_id)
        if mark is not None and not mark.live_count:
            self._index.forget_segment(name.segment_id, self._records(name))
        if mark is not None and mark.live_count:
            logger.error("a segment was removed that is needed", segment=str(name), records=mark.live_count)
            self._index.apply_group(slot, number, [], {}, {})
            return
        self._remote.discard(name)
        self._growing.discard(name)
        self._files.unlink(segment_path(self._parts.layout.segments, name.segment_id))  # if it was fetched
        self._parts.reader.drop(name.segment_id)
        self._index.apply_group(slot, number, [], {}, {})

    def _records(self, name: SegmentName) -> list[Record]:
        """The records of a sealed segment; none if its hint is not here: then all rows of the index are read."""
        try:
            return read_hints(self._remote.open(name.segment_id, salt=name.salt), name.segment_id) or []
        except (CorruptRecord, StoreUnreachable):
            return []


def items_of(announcement: Announcement) -> list[Item]:
    """The records of a GROUP. Raises CorruptRecord, KeyMissing, IndexError_."""
    header = announcement.segment_header()
    seed, segment_id = header.seed, header.segment_id
    items: list[Item] = []
    for offset, head in announcement.heads:
        record = opened_or_shredded(decode_head(head, seed, segment_id, offset), head)
        if record.kind != SHREDDED:
            items.append(unpack_record(record))
    return items


def _of(row: AnnouncedGroup) -> Announcement:
    group = row.group
    return Announcement.of_row(group.segment_id, group.salt, group.start, group.end, row.heads)
