"""What several records of one SOP Instance UID come to: the fold rule. Pure, but for reading `history`.

In the order of (stamp, segment id, offset):

    the first one                                            current
    same bytes (length, checksum, transfer syntax) as the
      current one, or with keep-first as a kept version      duplicate, dead
    other bytes, keep-first                                  a version; the current one stays
    other bytes, replace                                     current; the one before is dead
    other bytes, keep-both                                   current; the one before is a version
    a tombstone                                              all before it are dead; the next one is the first again

The records of a UID are remembered until a rebuild, so the rule can be applied again when one arrives out of order, and
a record that is applied twice changes nothing. That is why a live index and a rebuilt one agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from engine.index import keys
from engine.index.entry import POLICY_KEEP_FIRST, POLICY_MASK, POLICY_REPLACE, Entry
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
    TOMBSTONE = 5


LIVE = frozenset((State.CURRENT, State.VERSION))

OUTCOMES = {
    State.CURRENT: Outcome.STORED,
    State.VERSION: Outcome.KEPT_ASIDE,
    State.DUPLICATE: Outcome.DUPLICATE,
    State.SUPERSEDED: Outcome.REPLACED,
    State.DELETED: Outcome.STORED,
    State.TOMBSTONE: Outcome.STORED,
}


@dataclass(slots=True)
class Told:
    """One record of a SOP Instance UID that has more than one."""

    order: bytes
    state: State | None
    """None: not applied yet."""
    kind: int
    flags: int
    position: Position
    transfer_syntax_uid: bytes
    meta: bytes
    """The record's meta block; text may have become UTF-8."""

    def same_bytes(self, other: Told) -> bool:
        """Whether both carry the same data set, as far as length and checksum can tell."""
        return (
            self.position.payload_length == other.position.payload_length
            and self.position.payload_crc == other.position.payload_crc
            and self.transfer_syntax_uid == other.transfer_syntax_uid
        )

    def entry(self, sop_instance_uid: bytes) -> Entry:
        """The instance, for one that is none of a tombstone."""
        stamp = keys.ORDER.unpack(self.order)[0]
        return Entry.unpack_meta(self.position, self.flags, stamp, sop_instance_uid, self.meta)


def fold(told: Sequence[Told]) -> dict[bytes, State]:
    """Order → state, for all records of one UID in their order. The rule in the module's head."""
    states: dict[bytes, State] = {}
    current: Told | None = None
    versions: list[Told] = []
    for record in told:
        if record.kind == Kind.TOMBSTONE:
            for order, state in states.items():
                if state != State.TOMBSTONE:
                    states[order] = State.DELETED
            states[record.order] = State.TOMBSTONE
            current = None
            versions = []
            continue
        policy = record.flags & POLICY_MASK
        if current is None:
            states[record.order] = State.CURRENT
            current = record
        elif record.same_bytes(current):
            states[record.order] = State.DUPLICATE
        elif policy == POLICY_KEEP_FIRST:
            is_known = any(record.same_bytes(version) for version in versions)
            states[record.order] = State.DUPLICATE if is_known else State.VERSION
            versions.append(record)
        else:
            states[current.order] = State.SUPERSEDED if policy == POLICY_REPLACE else State.VERSION
            if policy != POLICY_REPLACE:
                versions.append(current)
            states[record.order] = State.CURRENT
            current = record
    return states


def told_of(entry: Entry, order: bytes) -> Told:
    """A record that has not been applied yet."""
    return Told(order, None, Kind.INSTANCE, entry.flags, entry.position, entry.transfer_syntax_uid, entry.pack_meta())


def pack_history(record: Told, state: State) -> bytes:
    """The row of `history` for a record."""
    position = record.position
    return (
        keys.HISTORY.pack(
            state,
            record.kind,
            record.flags,
            position.payload_length,
            position.payload_crc,
            position.meta_length,
            position.key_length,
        )
        + record.meta
    )


def read_history(txn: Any, environment: Environment, sop_key: bytes) -> Iterator[Told]:
    """Every record of a UID but its current one, in their order."""
    prefix = sop_key + b"\0"
    for key, value in list(scan_prefix(txn, environment.history, prefix)):
        order = key[len(prefix) :]
        _, segment_id, offset = keys.ORDER.unpack(order)
        state, kind, flags, payload_length, payload_crc, meta_length, key_length = keys.HISTORY.unpack_from(value)
        position = Position(segment_id, offset, key_length, meta_length, payload_length, payload_crc)
        meta = value[keys.HISTORY.size :]
        syntax = Entry.unpack_meta(position, flags, 0, b"", meta).transfer_syntax_uid if meta else b""
        yield Told(order, State(state), kind, flags, position, syntax, meta)
