"""Segment ids: whose writer gives which number to a new segment.

    63         48 47                                     0
    +------------+----------------------------------------+
    |  slot u16  |              counter u48               |
    +------------+----------------------------------------+

A slot belongs to one node at a time, and only that node makes segments with it. Slot 0 is the only one of an archive
with one node, so its ids are plain numbers. A segment keeps its id wherever it is copied, and a number is never given
twice: a reader may still have positions in the segment that had it. Compare ids of one slot only: a greater id is of a
later segment there, and says nothing about other slots.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol

from engine.errors import StorageError
from engine.storage.segment_store import SegmentStore

COUNTER_BITS = 48
COUNTER_MAX = (1 << COUNTER_BITS) - 1
SLOT_MAX = (1 << 16) - 3
"""The last two are for other logs than the archive's own, in copies of it (`archive.copies.shipped_logs`)."""


class SegmentIds(Protocol):
    """Gives ids to new segments."""

    def next(self) -> int:
        """An id that no segment has had, as far as this process can see; another process may take it first, so the
        caller creates the file, and asks again if it exists. Raises StorageError."""


def segment_id_of(slot: int, counter: int) -> int:
    """The id with this slot and counter."""
    return slot << COUNTER_BITS | counter


def slot_of(segment_id: int) -> int:
    """The slot of a segment."""
    return segment_id >> COUNTER_BITS


def id_in_log(number: int) -> int:
    """The id that a segment has in its own log, by the number that it has among the segments of all logs."""
    return number if slot_of(number) <= SLOT_MAX else number & COUNTER_MAX


def newest_of_slots(segment_ids: Iterable[int]) -> dict[int, int]:
    """The newest of these segments in each slot."""
    newest: dict[int, int] = {}
    for segment_id in segment_ids:
        slot = slot_of(segment_id)
        newest[slot] = max(segment_id, newest.get(slot, segment_id))
    return newest


class ListedIds:
    """Takes the number after the newest segment of a slot, wherever that is stored.

    The newest segment of a slot is never removed (`archive.lifecycle.compaction`), so no number is used twice.
    Thread-safe.
    """

    def __init__(self, store: SegmentStore, slot: int = 0) -> None:
        self._store = store
        self._slot = slot
        self._lock = threading.Lock()
        self._last = segment_id_of(slot, 0) - 1

    def next(self) -> int:
        """The next number. Raises StorageError as `SegmentStore.segment_ids`, and if no number is left."""
        newest = newest_of_slots(self._store.segment_ids()).get(self._slot, -1)
        with self._lock:
            segment_id = max(self._last, newest) + 1
            if segment_id > segment_id_of(self._slot, COUNTER_MAX):
                raise StorageError(f"no segment can follow {segment_id - 1:016x}: a file has a number that is too high")
            self._last = segment_id
        return segment_id
