"""Announcer: tells the other nodes what is new in this node's log, when it is in the bucket.

    a group of the tail was created      ─► durable here too ─► a row GROUP, before anybody gets a receipt for it
    a sealed segment was published       ─► a row PUBLISHED
    a compaction's leavings are removed  ─► a row REMOVED, before the objects go

    DATA/announced    ["archive", archive id], then a line for each step (`storage.journal`)
                      ["published", id, salt]   ["removed", id, salt]   ["group", epoch, number]

The feed has one writer a slot: whoever took this node's slot over makes `append` raise Fenced, and then nothing is
acknowledged here. What a stop has left unannounced is announced at the next start, some of it twice: rows may be
applied any number of times. Only the archive's own log is announced, no log of DATA/hospital.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Final, Protocol

from engine import log
from engine.archive.archive import Archive
from engine.archive.copies import shipped_logs
from engine.archive.layout import Layout
from engine.archive.nodes.announcement import PUBLISHED, REMOVED, Announcement, of_group
from engine.archive.nodes.membership import ANNOUNCED
from engine.errors import SegmentGone
from engine.objects.bucket import Group, SegmentName
from engine.storage.files import Files
from engine.storage.journal import Journal
from engine.storage.segment import FIRST_RECORD
from engine.storage.segment_bytes import SegmentBytes

logger = log.get("archive.announcer")

NOTE_EVERY: Final = 64
"""Groups between two notes of how far they are announced: a start announces as many again at most."""


class Append(Protocol):
    """Adds a row to the end of this node's chain. Raises Fenced, ClusterUnreachable."""

    def __call__(self, announcement: Announcement) -> None: ...


class Announcer:
    """Thread-safe."""

    def __init__(self, layout: Layout, files: Files, append: Append) -> None:
        """Reads DATA/announced; announces nothing."""
        self._append = append
        self._lock = threading.Lock()
        self._journal = Journal(str(layout.data / ANNOUNCED), files)
        self._published: set[SegmentName] = set()
        self._last = (0, -1)
        """Epoch and number of the last group that is noted."""
        self._walked: dict[SegmentName, int] = {}
        """Where the records of a growing segment begin that no group has announced."""
        self._unnoted = 0
        head = [["archive", layout.archive_id.hex()]]
        if self._journal.notes[:1] != head:
            self._journal.replace(head)
            return
        for note in self._journal.notes[1:]:
            match note:
                case ["published", int(segment_id), int(salt)]:
                    self._published.add(SegmentName(segment_id, salt))
                case ["removed", int(segment_id), int(salt)]:
                    self._published.discard(SegmentName(segment_id, salt))
                case ["group", int(epoch), int(number)]:
                    self._last = (epoch, number)

    @classmethod
    def of(cls, archive: Archive) -> Announcer | None:
        """The announcer of a node; None: the archive has one node."""
        parts, membership = archive.parts, archive.membership
        return None if membership is None else cls(parts.layout, parts.files, membership.log.append)

    def close(self) -> None:
        """Closes DATA/announced."""
        self._journal.close()

    def group(self, group: Group, open_log: Callable[[int], SegmentBytes]) -> None:
        """Announces a group that is in the bucket. `open_log` opens a segment of this machine."""
        with self._lock:
            self._group(group, open_log)

    def _group(self, group: Group, open_log: Callable[[int], SegmentBytes]) -> None:
        place, name = group.place, group.name
        if (place.epoch, place.number) <= self._last or not shipped_logs.is_image_log(name.segment_id):
            return
        try:
            walked = self._walked.get(name, FIRST_RECORD)
            data = open_log(name.segment_id)
            data.sync()  # what others have must not be lost here: a power cut would leave them what this node lacks
            announcement, walked = of_group(group, data, walked)
        except SegmentGone:
            return  # compacted since: what was needed of it is in a later segment
        self._append(announcement)
        self._walked[name] = walked
        self._last = (place.epoch, place.number)
        self._unnoted += 1
        if self._unnoted >= NOTE_EVERY:
            self._note("group", *self._last)
            self._unnoted = 0

    def segments(self, published: Collection[SegmentName]) -> None:
        """Announces segments that are in the bucket as a whole and were not announced."""
        with self._lock:
            for name in sorted(set(published) - self._published):
                if shipped_logs.is_image_log(name.segment_id):
                    self._append(Announcement(PUBLISHED, name))
                self._published.add(name)
                self._walked.pop(name, None)
                self._note("published", *name)

    def removed(self, name: SegmentName) -> None:
        """Announces that a segment is removed from the bucket."""
        with self._lock:
            if shipped_logs.is_image_log(name.segment_id):
                self._append(Announcement(REMOVED, name))
            self._published.discard(name)
            self._note("removed", *name)

    def _note(self, kind: str, *numbers: int) -> None:
        self._journal.append([[kind, *numbers]])
