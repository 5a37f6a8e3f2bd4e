"""What several records of one SOP Instance UID come to: the fold rule. Pure, but for reading `history`.

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

With one stamp: tombstones first, so that nothing that was stored at the moment of a deletion is lost; then by checksum
and length; and of *copies* (one stamp, one checksum and length: compaction makes them) the one that lies last counts,
since the others are on their way out. No order depends on where a record lies otherwise.

The records of a UID are remembered until their segment is gone, so the rule can be applied again when one arrives out
of order, and a record that is applied twice changes nothing. That is why a live index and a rebuilt one agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from engine.index import keys
from engine.index.entry import HEAL, POLICY_KEEP_FIRST, POLICY_MASK, POLICY_REPLACE, Entry, Tombstone
from engine.index.environment import Environment
from engine.index.rows import scan_prefix
from engine.index.types import Outcome
from engine.storage.record import Kind, Position


class State(IntEnum):
    """What the fold rule makes of a record."""

    CURRENT = 0
    VERSION = 1
    DUPLICATE = 2
    SUPERSEDED = 3
    DELETED = 4
    """A tombstone came after it."""
    TOMBSTONE = 5
    QUARANTINED = 6
    """Not of this rule: see `apart`."""
    DROPPED = 7
    """A tombstone named its stamp."""


LIVE = frozenset((State.CURRENT, State.VERSION, State.QUARANTINED))
KILLED = frozenset((State.DELETED, State.DROPPED))

OUTCOMES = {
    State.CURRENT: Outcome.STORED,
    State.VERSION: Outcome.KEPT_ASIDE,
    State.DUPLICATE: Outcome.DUPLICATE,
    State.SUPERSEDED: Outcome.REPLACED,
    State.DELETED: Outcome.STORED,
    State.TOMBSTONE: Outcome.STORED,
    State.DROPPED: Outcome.STORED,
}


@dataclass(slots=True)
class Told:
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
    """Of a tombstone: the one record that it kills, 0 for all."""

    @property
    def order(self) -> bytes:
        """Which of two records is first, but for the kind."""
        return self.key[: keys.ORDER_BYTES]

    @property
    def stamp(self) -> int:
        """The record's stamp."""
        return int.from_bytes(self.key[:8], "big")

    @property
    def rank(self) -> tuple[bytes, bool, bytes, int, int]:
        """The order of the fold rule; see the module's head."""
        key = self.key
        return key[:8], self.kind != Kind.TOMBSTONE, key[8:16], -self.position.segment_id, -self.position.offset

    def same_bytes(self, other: Told) -> bool:
        """Whether both carry the same data set, as far as length and checksum can tell."""
        return (
            self.position.payload_length == other.position.payload_length
            and self.position.payload_crc == other.position.payload_crc
            and self.transfer_syntax_uid == other.transfer_syntax_uid
        )

    def entry(self, sop_instance_uid: bytes) -> Entry:
        """The instance, for one that is none of a tombstone."""
        return Entry.unpack_meta(self.position, self.flags, self.stamp, sop_instance_uid, self.meta)


Alive = tuple["Told | None", tuple[Told, ...]]
"""The current record, and the versions in the order in which they were kept aside."""

NOTHING: Alive = (None, ())


def step(alive: Alive, record: Told) -> Alive:
    """What is alive after one more record: the rule in the module's head, but for plain tombstones."""
    current, versions = alive
    if record.target_stamp:
        versions = tuple([version for version in versions if version.stamp != record.target_stamp])
        if current is not None and current.stamp == record.target_stamp:
            return (versions[0], versions[1:]) if versions else NOTHING
        return current, versions
    if current is None:
        return record, versions
    heals = bool(record.flags & HEAL)
    if record.same_bytes(current):
        return (record if heals and record.order != current.order else current), versions
    policy = record.flags & POLICY_MASK
    if heals or policy == POLICY_KEEP_FIRST:
        known = next((version for version in versions if record.same_bytes(version)), None)
        if known is not None:
            if not heals or record.order == known.order:
                return alive
            return current, tuple([record if version is known else version for version in versions])
        if policy == POLICY_KEEP_FIRST:
            return current, (*versions, record)
    return record, versions if policy == POLICY_REPLACE else (*versions, current)


def fold(told: Sequence[Told]) -> dict[bytes, State]:
    """Key → state, for all records of one UID, given in the order of their ranks."""
    states: dict[bytes, State] = {}
    alive = NOTHING
    for record in told:
        if record.kind == Kind.TOMBSTONE and not record.target_stamp:
            for key, state in states.items():
                if state != State.TOMBSTONE:
                    states[key] = State.DELETED
            states[record.key] = State.TOMBSTONE
            alive = NOTHING
            continue
        before = {one.key for one in members(alive)}
        alive = step(alive, record)
        after = {one.key for one in members(alive)}
        for key in before - after:
            states[key] = State.SUPERSEDED
        if record.kind == Kind.TOMBSTONE:
            target = record.target_stamp.to_bytes(8, "big")
            for key, state in states.items():
                if key[:8] == target and key not in after and state not in (State.TOMBSTONE, State.DELETED):
                    states[key] = State.DROPPED
            states[record.key] = State.TOMBSTONE
        else:
            states[record.key] = State.VERSION if record.key in after else State.DUPLICATE
    current, versions = alive
    for version in versions:
        states[version.key] = State.VERSION
    if current is not None:
        states[current.key] = State.CURRENT
    return states


def members(alive: Alive) -> Iterator[Told]:
    """The current record and the versions."""
    current, versions = alive
    if current is not None:
        yield current
    yield from versions


FOLDS_MAX = 64
"""How many courses `is_needed` follows before it answers yes."""


def is_needed(told: Sequence[Told], segment_id: int) -> bool:
    """Whether what is alive depends on dead records of a segment: whether it might come out otherwise without them.

    Asks for all courses in which any of the dead records of this segment and of earlier ones are gone, so that two
    segments whose answer is no may go at once, in any order. `told` is in the order of ranks.
    """
    if _is_replaced_only(told):
        return False
    courses: dict[tuple[bytes, ...], Alive] = {(): NOTHING}
    for record in told:
        if record.kind == Kind.TOMBSTONE and not record.target_stamp:
            courses = {(): NOTHING}
            continue
        may_go = record.state not in LIVE and record.state != State.TOMBSTONE
        may_go = may_go and record.position.segment_id <= segment_id
        next_courses = dict(courses) if may_go else {}
        for alive in courses.values():
            after = step(alive, record)
            next_courses[tuple([one.key for one in members(after)])] = after
        if len(next_courses) > FOLDS_MAX:
            return True
        courses = next_courses
    ends = {(key[:1], frozenset(key[1:])) for key in courses}
    return len(ends) > 1


def _is_replaced_only(told: Sequence[Told]) -> bool:
    """Whether each record plainly replaced the one before it: corrections, of which there may be hundreds."""
    last: Told | None = None
    others: list[Told] = []
    for record in told:
        if record.kind == Kind.TOMBSTONE:
            if record.target_stamp:
                return False
            last, others = None, []
        elif record.flags & POLICY_MASK != POLICY_REPLACE:
            return False
        elif record.state in LIVE:
            if last is not None:
                return False
            last = record
        elif last is None:
            others.append(record)
        elif record.order != last.order:
            return False
    return last is not None and not any(record.same_bytes(last) for record in others)


# rows ----------------------------------------------------------------------------------------------


def told_of(entry: Entry) -> Told:
    """A record that has not been applied yet."""
    position = entry.position
    return Told(
        told_key(entry.stamp, position),
        None,
        Kind.INSTANCE,
        entry.flags,
        position,
        entry.transfer_syntax_uid,
        entry.pack_meta(),
    )


def told_of_tombstone(tombstone: Tombstone) -> Told:
    """A tombstone without a target, as one of the records of its UIDs."""
    position = tombstone.position
    key = keys.TOLD.pack(tombstone.stamp, 0, position.segment_id, position.offset)
    return Told(key, None, Kind.TOMBSTONE, 0, position)


def told_key(stamp: int, position: Position) -> bytes:
    """Order and place of a record."""
    segment_id, offset, _, _, payload_length, payload_crc = position
    return keys.TOLD.pack(stamp, keys.tie_of(payload_length, payload_crc), segment_id, offset)


def pack_history(record: Told, state: State) -> bytes:
    """The row of `history` for a record. What a tombstone came after is never needed again: its meta is left out."""
    position = record.position
    head = keys.HISTORY.pack(
        state,
        record.kind,
        record.flags,
        position.payload_length,
        position.payload_crc,
        position.meta_length,
        position.key_length,
    )
    return head if state == State.DELETED else head + record.meta


def unpack_history(key: bytes, value: bytes) -> Told:
    """The record of a row; `key` is order and place, the end of the row's key."""
    segment_id, offset = keys.PLACE.unpack_from(key, keys.ORDER_BYTES)
    state, kind, flags, payload_length, payload_crc, meta_length, key_length = keys.HISTORY.unpack_from(value)
    position = Position(segment_id, offset, key_length, meta_length, payload_length, payload_crc)
    meta = value[keys.HISTORY.size :]
    syntax = Entry.unpack_meta(position, flags, 0, b"", meta).transfer_syntax_uid if meta else b""
    return Told(key, State(state), kind, flags, position, syntax, meta)


def read_history(txn: Any, environment: Environment, sop_key: bytes) -> list[Told]:
    """Every record of a UID but its current one, and the tombstones with a target; not in the order of ranks."""
    prefix = sop_key + b"\0"
    start = len(prefix)
    told = [unpack_history(key[start:], value) for key, value in scan_prefix(txn, environment.history, prefix)]
    for key, _ in scan_prefix(txn, environment.drops, prefix):
        target, stamp, segment_id, offset = keys.TOLD.unpack_from(key, start)
        place = Position(segment_id, offset, 0, 0, 0, 0)
        order = keys.TOLD.pack(stamp, 0, segment_id, offset)
        told.append(Told(order, State.TOMBSTONE, Kind.TOMBSTONE, 0, place, target_stamp=target))
    return told


def in_order(told: Iterable[Told]) -> list[Told]:
    """In the order of the fold rule."""
    return sorted(told, key=lambda record: record.rank)
