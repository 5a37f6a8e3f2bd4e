"""The fold rule: which of several records of one SOP Instance UID is current. Pure: `history` holds the rows.

In the order of their stamps:

    the first one                                            current
    same bytes (length, checksum, transfer syntax) as the
      current one, or with keep-first as a kept version      duplicate, dead
    to heal, same bytes as the current one or a version      takes that one's place, which is dead
    other bytes, keep-first                                  a version; the current one stays
    other bytes, replace                                     current; the one before is dead
    other bytes, keep-both                                   current; the one before is a version
    a tombstone                                              all before it are dead; the next one is the first again
    a tombstone with a target                                the one with that stamp is dead; if it was the current one
                                                             the oldest version is current
    put into the trash (PUT)                                 the current one and the versions wait under its stamp; the
                                                             next record is the first again
    RESTORE of a PUT                                         what waits is as it was, if no current one has come since.
                                                             If one has, it stays current, and other bytes are versions
    EMPTY of a PUT, without a RESTORE of it                  what waits, and what was dead before the PUT, is deleted

Records with one stamp: tombstones come first, then the trash, so that an instance stored at the moment of a deletion is
not lost; then by checksum and length. A tombstone without a target also ends what waits in the trash. Of *copies* (one
stamp, checksum and length; compaction makes them) the one at the last place counts, since the others will be removed.
Apart from that no order depends on the place of a record.

The index keeps the records of a UID until their segment is gone. So the rule can be applied again when a record arrives
out of order, and applying a record twice changes nothing. That is why a live index and a rebuilt one agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import TypeAlias

from engine.index.format import keys
from engine.index.format.entry import HEAL, POLICY_KEEP_FIRST, POLICY_MASK, POLICY_REPLACE, Entry
from engine.index.format.trash_record import TrashOperation
from engine.index.format.types import Outcome
from engine.storage.record import Kind, Position


class State(IntEnum):
    """The state that the fold rule gives a record."""

    CURRENT = 0
    VERSION = 1
    DUPLICATE = 2
    SUPERSEDED = 3
    DELETED = 4
    """A tombstone came after it."""
    TOMBSTONE = 5
    """A tombstone without a target, or a record of the trash."""
    QUARANTINED = 6
    """Set by `other_records`, not by this rule."""
    DROPPED = 7
    """A tombstone with a target named its stamp."""
    TRASHED = 8
    """It waits in the trash: hidden like a deleted one, and kept like a version."""
    EMPTIED = 9
    """The trash was emptied of it. Its meta block stays, since a record that arrives late may bring it back."""


LIVE = frozenset((State.CURRENT, State.VERSION, State.QUARANTINED, State.TRASHED))
KILLED = frozenset((State.DELETED, State.DROPPED, State.EMPTIED))

OUTCOMES = {
    State.CURRENT: Outcome.STORED,
    State.VERSION: Outcome.KEPT_ASIDE,
    State.DUPLICATE: Outcome.DUPLICATE,
    State.SUPERSEDED: Outcome.REPLACED,
    State.DELETED: Outcome.STORED,
    State.TOMBSTONE: Outcome.STORED,
    State.DROPPED: Outcome.STORED,
    State.TRASHED: Outcome.STORED,
    State.EMPTIED: Outcome.STORED,
}


@dataclass(slots=True)
class UidRecord:
    """One record of a SOP Instance UID that has more than one."""

    key: bytes
    """Order and place."""
    state: State | None
    """None: not applied yet."""
    kind: int
    flags: int
    position: Position
    transfer_syntax_uid: bytes = b""
    meta: bytes = b""
    """The record's meta block; text may have become UTF-8. Empty for tombstones and what they have deleted."""
    target_stamp: int = 0
    """For a tombstone: the stamp of the one record that it kills; 0: all. For RESTORE and EMPTY: of their PUT."""
    put_stamp: int = 0
    """For a record in the trash: the stamp of the PUT under which it waits."""

    @property
    def order(self) -> bytes:
        """Orders two records, apart from their kind."""
        return self.key[: keys.ORDER_BYTES]

    @property
    def stamp(self) -> int:
        """The record's stamp."""
        return int.from_bytes(self.key[:8], "big")

    @property
    def rank(self) -> tuple[bytes, int, bytes, int, int]:
        """Where the record comes in the order of the fold rule."""
        key = self.key
        turn = 0 if self.kind == Kind.TOMBSTONE else self.flags if self.kind == Kind.TRASH else 1 << 16
        return key[:8], turn, key[8:16], -self.position.segment_id, -self.position.offset

    @property
    def bytes_key(self) -> tuple[int, int, bytes]:
        """Identifies the data set: length, checksum and transfer syntax."""
        position = self.position
        return position.payload_length, position.payload_crc, self.transfer_syntax_uid

    def same_bytes(self, other: UidRecord) -> bool:
        """Whether both carry the same data set, judged by length and checksum."""
        return self.bytes_key == other.bytes_key

    def entry(self, sop_instance_uid: bytes) -> Entry:
        """The entry of a record that is not a tombstone."""
        return Entry.unpack_meta(self.position, self.flags, self.stamp, sop_instance_uid, self.meta)


Members: TypeAlias = tuple[tuple[bytes, ...], ...]
"""The keys of the live records, then for each PUT its stamp and the keys of the records that wait."""


class LiveRecords:
    """The live records of a UID, and those in the trash. Apply records to it in rank order; plain tombstones are left
    to the caller, and so is an EMPTY beside a RESTORE.

    Each record costs the same, however many versions there are.
    """

    __slots__ = ("_next", "_slots", "current", "trash", "versions")

    def __init__(self, current: UidRecord | None = None, versions: Iterable[UidRecord] = ()) -> None:
        """`versions`: in the order in which they were kept aside. To apply one record, pass those with its bytes."""
        self.current = current
        self.versions = dict(enumerate(versions))
        """The versions kept aside, by slot; the slots are in the order in which they were kept aside."""
        self.trash: dict[int, list[UidRecord]] = {}
        """By the stamp of a PUT: the records that wait, first the one that was current."""
        self._next = len(self.versions)
        self._slots: dict[tuple[int, int, bytes], tuple[int, ...]] = {}
        for slot, version in self.versions.items():
            self._slots[version.bytes_key] = (*self._slots.get(version.bytes_key, ()), slot)

    def copy(self) -> LiveRecords:
        """A copy that can take other records."""
        other = LiveRecords(self.current)
        other.versions = dict(self.versions)
        other.trash = {stamp: list(records) for stamp, records in self.trash.items()}
        other._next = self._next
        other._slots = dict(self._slots)
        return other

    def members(self) -> Iterator[UidRecord]:
        """The current record and the versions."""
        if self.current is not None:
            yield self.current
        yield from self.versions.values()

    def identity(self) -> Members:
        """The keys of all records that are alive or in the trash; equal if the same records do the same."""
        lanes = [tuple([each.key for each in self.members()])]
        for stamp, records in sorted(self.trash.items()):
            lanes.append((stamp.to_bytes(8, "big"), *[each.key for each in records]))
        return tuple(lanes)

    def take_any(self, record: UidRecord) -> None:
        """Applies a record of any kind but a plain tombstone."""
        if record.kind != Kind.TRASH:
            self.take(record)
        elif record.flags == TrashOperation.PUT:
            self.put(record.stamp)
        elif record.flags == TrashOperation.RESTORE:
            self.restore(record.target_stamp)
        elif record.flags == TrashOperation.EMPTY:
            self.trash.pop(record.target_stamp, None)

    def put(self, stamp: int) -> None:
        """Puts everything into the trash, under the stamp of a PUT."""
        if self.current is not None:
            self.trash[stamp] = [*self.trash.get(stamp, ()), *self.members()]
        self.current = None
        self.versions = {}
        self._slots = {}

    def restore(self, stamp: int) -> list[UidRecord]:
        """Brings back what waits under the stamp of a PUT. Returns the duplicates of records that have come since."""
        records = self.trash.pop(stamp, [])
        duplicates: list[UidRecord] = []
        for record in records:
            if self.current is None:
                self.current = record
            elif records[0] is self.current or not (record.same_bytes(self.current) or self._has(record)):
                self._keep(record)
            else:
                duplicates.append(record)
        return duplicates

    def _has(self, record: UidRecord) -> bool:
        return bool(self._slots.get(record.bytes_key))

    def take(self, record: UidRecord) -> tuple[bool, UidRecord | None]:
        """Applies a record. Returns whether it is alive now, and the record that it displaces."""
        if record.target_stamp:
            self._drop(record.target_stamp)
            return False, None
        current = self.current
        if current is None:
            self.current = record
            return True, None
        heals = bool(record.flags & HEAL)
        if record.same_bytes(current):
            if not heals or record.order == current.order:
                return False, None
            self.current = record
            return True, current
        policy = record.flags & POLICY_MASK
        if heals or policy == POLICY_KEEP_FIRST:
            slots = self._slots.get(record.bytes_key)
            if slots:
                return self._heal(slots[0], record) if heals else (False, None)
            if policy == POLICY_KEEP_FIRST:
                self._keep(record)
                return True, None
        self.current = record
        if policy == POLICY_REPLACE:
            return True, current
        self._keep(current)
        return True, None

    def _heal(self, slot: int, record: UidRecord) -> tuple[bool, UidRecord | None]:
        version = self.versions[slot]
        if record.order == version.order:
            return False, None
        self.versions[slot] = record
        return True, version

    def _keep(self, version: UidRecord) -> None:
        self.versions[self._next] = version
        self._slots[version.bytes_key] = (*self._slots.get(version.bytes_key, ()), self._next)
        self._next += 1

    def _forget(self, slot: int) -> UidRecord:
        version = self.versions.pop(slot)
        remaining = tuple([other for other in self._slots[version.bytes_key] if other != slot])
        self._slots[version.bytes_key] = remaining
        return version

    def _drop(self, target_stamp: int) -> None:
        for slot in [slot for slot, version in self.versions.items() if version.stamp == target_stamp]:
            self._forget(slot)
        if self.current is not None and self.current.stamp == target_stamp:
            self.current = self._forget(next(iter(self.versions))) if self.versions else None


@dataclass(slots=True)
class Fold:
    """The result of the fold rule."""

    states: dict[bytes, State]
    """By key."""
    put_stamps: dict[bytes, int]
    """Key of a record in the trash → stamp of the PUT under which it waits."""


def fold(records: Sequence[UidRecord]) -> Fold:
    """Applies the rule to all records of one UID, given in the order of their ranks."""
    states: dict[bytes, State] = {}
    live = LiveRecords()
    since: _Keys = {}
    """The instances since the last plain tombstone or PUT; earlier ones stay as they are."""
    waiting: dict[int, _Keys] = {}
    """By the stamp of a PUT: the instances that were in `since`."""
    for record in without_void(records):
        if record.kind == Kind.INSTANCE:
            is_alive, displaced = live.take(record)
            states[record.key] = State.VERSION if is_alive else State.DUPLICATE
            if displaced is not None:
                states[displaced.key] = State.SUPERSEDED
            since.setdefault(record.key[:8], []).append(record.key)
        elif record.kind == Kind.TRASH:
            since = _fold_trash(record, live, states, since, waiting)
        elif record.target_stamp:
            live.take(record)
            for key in since.get(record.target_stamp.to_bytes(8, "big"), ()):
                states[key] = State.DROPPED
        else:
            for keys_ in (since, *waiting.values()):
                states |= dict.fromkeys(chain.from_iterable(keys_.values()), State.DELETED)
            since, waiting = {}, {}
            live = LiveRecords()
    states |= dict.fromkeys((one.key for one in records if one.kind != Kind.INSTANCE), State.TOMBSTONE)
    states |= dict.fromkeys((version.key for version in live.versions.values()), State.VERSION)
    if live.current is not None:
        states[live.current.key] = State.CURRENT
    put_stamps = {one.key: stamp for stamp, trashed in live.trash.items() for one in trashed}
    states |= dict.fromkeys(put_stamps, State.TRASHED)
    return Fold(states, put_stamps)


_Keys: TypeAlias = dict[bytes, list[bytes]]
"""Stamp → keys of the instances with this stamp."""


def _fold_trash(
    record: UidRecord, live: LiveRecords, states: dict[bytes, State], since: _Keys, waiting: dict[int, _Keys]
) -> _Keys:
    """Applies a record of the trash. Returns the instances since then."""
    if record.flags == TrashOperation.PUT:
        live.put(record.stamp)
        waiting[record.stamp] = _joined(waiting.pop(record.stamp, {}), since)
        return {}
    if record.flags == TrashOperation.RESTORE:
        states |= dict.fromkeys((one.key for one in live.restore(record.target_stamp)), State.DUPLICATE)
        return _joined(since, waiting.pop(record.target_stamp, {}))
    if record.flags == TrashOperation.EMPTY:
        live.take_any(record)
        ended = waiting.get(record.target_stamp, {})
        states |= dict.fromkeys(chain.from_iterable(ended.values()), State.EMPTIED)
    return since


def _joined(one: _Keys, other: _Keys) -> _Keys:
    return {stamp: [*one.get(stamp, ()), *other.get(stamp, ())] for stamp in one.keys() | other.keys()}


def without_void(records: Sequence[UidRecord]) -> Sequence[UidRecord]:
    """The records without those that empty the trash of what another record restores."""
    restored = {one.target_stamp for one in records if one.kind == Kind.TRASH and one.flags == TrashOperation.RESTORE}
    if not restored:
        return records
    return [
        one
        for one in records
        if one.kind != Kind.TRASH or one.flags != TrashOperation.EMPTY or one.target_stamp not in restored
    ]


def in_order(records: Iterable[UidRecord]) -> list[UidRecord]:
    """The records in rank order."""
    return sorted(records, key=lambda record: record.rank)
