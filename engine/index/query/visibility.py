"""Reads for the change feed: how far the log has been applied, and the states of single records."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.index.apply.history import order_and_place, read_history
from engine.index.apply.versions import State
from engine.index.database.environment import Environment
from engine.index.format import keys
from engine.index.format.entry import Entry
from engine.index.format.rows import decode_mark
from engine.index.format.types import SegmentMark
from engine.storage.record import Kind

_START = struct.Struct("<QQQ")
"""The start of an instance's row: stamp and place (`format.keys.INSTANCE`)."""


@dataclass(frozen=True, slots=True)
class CurrentRecord:
    """The current record of a SOP Instance UID."""

    stamp: int
    segment_id: int
    offset: int


def marks_between(environment: Environment, ranges: Iterable[tuple[int, int]]) -> dict[int, SegmentMark]:
    """The marks of segments with ids in these ranges, ends included, read in one transaction."""
    marks: dict[int, SegmentMark] = {}
    with environment.reading() as txn, txn.cursor(db=environment.segments) as cursor:
        for first, last in ranges:
            has_row = cursor.set_range(keys.U64_KEY.pack(first))
            while has_row:
                segment_id = keys.U64_KEY.unpack(cursor.key())[0]
                if segment_id > last:
                    break
                marks[segment_id] = decode_mark(cursor.value())
                has_row = cursor.next()
    return marks


def current_of(txn: Any, environment: Environment, sop_key: bytes) -> CurrentRecord | None:
    """The current record of a UID."""
    where = txn.get(sop_key, db=environment.sop_uids)
    row = txn.get(where, db=environment.instances) if where else None
    return None if row is None else CurrentRecord(*keys.INSTANCE.unpack_from(row)[:3])


def states(environment: Environment, entries: Sequence[Entry]) -> list[State | None]:
    """The state of each of these records; None: the index does not know it."""
    states: list[State | None] = []
    with environment.reading() as txn:
        for entry in entries:
            sop_key = keys.bounded(entry.sop_instance_uid)
            position = entry.position
            where = txn.get(sop_key, db=environment.sop_uids)
            row = txn.get(where, db=environment.instances) if where else None
            if row is not None and row.startswith(_START.pack(entry.stamp, position.segment_id, position.offset)):
                states.append(State.CURRENT)
                continue
            value = txn.get(sop_key + b"\0" + order_and_place(entry.stamp, position), db=environment.history)
            states.append(None if value is None else State(value[0]))
    return states


def places_of_later(environment: Environment, sop_instance_uid: bytes, stamp: int) -> list[tuple[int, int]]:
    """Segment and offset of each record that comes after the one with this stamp, or kills it."""
    sop_key = keys.bounded(sop_instance_uid)
    with environment.reading() as txn:
        current = current_of(txn, environment, sop_key)
        places = [] if current is None or current.stamp <= stamp else [(current.segment_id, current.offset)]
        for record in read_history(txn, environment, sop_key):
            is_aimed = record.target_stamp != 0 and record.kind == Kind.TOMBSTONE
            if record.target_stamp == stamp if is_aimed else not record.target_stamp and record.stamp > stamp:
                places.append((record.position.segment_id, record.position.offset))
    return places


def current_records(environment: Environment, sop_instance_uids: Sequence[bytes]) -> list[CurrentRecord | None]:
    """The current record of each of these UIDs."""
    with environment.reading() as txn:
        return [current_of(txn, environment, keys.bounded(uid)) for uid in sop_instance_uids]
