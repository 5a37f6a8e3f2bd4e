"""Decides whether the dead records of a UID in a segment may be removed without changing what is alive. Pure.

The rule of `versions` is applied to all records, and to those that would remain. `index.upkeep.liveness` asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from engine.index.apply.versions import LIVE, LiveRecords, Members, State, UidRecord, without_void
from engine.index.format.entry import POLICY_MASK, POLICY_REPLACE
from engine.storage.record import Kind

FOLDS_MAX = 64
"""How many pairs of outcomes `is_needed` follows before it answers yes."""

RECORDS_MAX = 1000
"""With more records of one UID, `is_needed` answers yes at once: the dead ones then stay a while longer."""


def is_needed(records: Sequence[UidRecord], segment_id: int) -> bool:
    """Whether other records might be alive if dead records of this segment were missing.

    Applies the rule to all records, and again without this segment's dead ones, and compares what is alive. Does so for
    every set of dead records that may be missing from earlier segments. So two segments with the answer no may be
    removed at once, in any order. The records come in rank order.
    """
    if _is_replaced_only(records):
        return False
    if len(records) > RECORDS_MAX:
        return True
    pairs: _Pairs = {}
    _put(pairs, LiveRecords(), LiveRecords())
    for record in without_void(records):
        if record.kind == Kind.TOMBSTONE and not record.target_stamp:
            pairs = {}
            _put(pairs, LiveRecords(), LiveRecords())
            continue
        is_dead = record.state not in LIVE and record.state != State.TOMBSTONE
        is_in_segment = is_dead and record.position.segment_id == segment_id
        may_be_missing = is_dead and record.position.segment_id < segment_id
        after: _Pairs = dict(pairs) if may_be_missing else {}
        for with_all, without in pairs.values():
            live = _with(with_all, record)
            if is_in_segment:
                _put(after, live, without)
            _put(after, live, _with(without, record))
        if len(after) > FOLDS_MAX:
            return True
        pairs = after
    return any(_unordered(one) != _unordered(other) for one, other in pairs)


_Pairs: TypeAlias = "dict[tuple[Members, Members], tuple[LiveRecords, LiveRecords]]"
"""By their members: the live records with all records applied, and without some of them."""


def _unordered(members: Members) -> list[tuple[tuple[bytes, ...], frozenset[bytes]]]:
    """The members without the order of the versions; the current one comes first."""
    live, *trash = members
    return [(live[:1], frozenset(live[1:])), *((one[:2], frozenset(one[2:])) for one in trash)]


def _with(live: LiveRecords, record: UidRecord) -> LiveRecords:
    after = live.copy()
    after.take_any(record)
    return after


def _put(pairs: _Pairs, one: LiveRecords, other: LiveRecords) -> None:
    pairs[one.identity(), other.identity()] = one, other


def _is_replaced_only(records: Sequence[UidRecord]) -> bool:
    """Whether each record simply replaced the one before it, as a sender's corrected instances do by the hundred."""
    last: UidRecord | None = None
    others: list[UidRecord] = []
    for record in records:
        if record.kind != Kind.INSTANCE:
            if record.kind == Kind.TRASH or record.target_stamp:
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
