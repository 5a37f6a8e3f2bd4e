"""Which patients or studies a query has to look at: by the most selective access that its keys allow.

    unique keys      the UIDs asked for, the lowest level last
    search           the shortest ranges of keys; among long ones by the order of `terms.SEARCHED`
    neither          every patient or study, in the order of arrival

What is found may be too much, never too little: `walk` tests everything. Works in the walk's transaction.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from engine.dicom import tags
from engine.index import keys
from engine.index.matching import condition
from engine.index.rows import scan_prefix
from engine.index.statements import LEVEL_OF
from engine.index.terms import SEARCHED, Range
from engine.index.types import Level

if TYPE_CHECKING:
    from engine.index.walk import Walk

KEYS_MAX = 20_000
"""Keys of `search` read in one read transaction."""
_ESTIMATE_MAX = 256
"""A range is counted up to here to find the shortest."""


def find_candidates(walk: Walk, collect: Callable[[Walk, Sequence[Range]], set[int]]) -> None:
    """Chooses the access; `collect` reads the owners of ranges."""
    studies = _studies_by_uid(walk)
    if studies is None:
        studies = _studies_by_range(walk, collect)
    if studies is None:
        return
    if walk.query.level == Level.PATIENT:
        rows = (walk.txn.get(keys.ID.pack(study_id), db=walk.environment.studies) for study_id in studies)
        studies = {keys.UID_HEAD.unpack_from(row)[0] for row in rows if row is not None}
    walk.tops = array("I", sorted(studies))


def _studies_by_uid(walk: Walk) -> set[int] | None:
    """By the unique keys, the lowest level last: what it finds is the fewest."""
    plan, txn, environment = walk.plan, walk.txn, walk.environment
    found: set[int] | None = None
    if Level.IMAGE in plan.uids:
        walk.instances = _instances_by_uid(walk, plan.uids[Level.IMAGE])
        rows = (txn.get(series_id, db=environment.series) for series_id in walk.instances)
        found = {keys.UID_HEAD.unpack_from(row)[0] for row in rows if row is not None}
    elif Level.SERIES in plan.uids and Level.STUDY not in plan.uids:
        found = set()
        for uid in plan.uids[Level.SERIES]:
            prefix = keys.bounded(uid) + b"\0"
            found.update(keys.ID.unpack(key[-4:])[0] for key, _ in scan_prefix(txn, environment.series_uids, prefix))
    if Level.STUDY in plan.uids:
        ids = (txn.get(keys.bounded(uid), db=environment.study_uids) for uid in plan.uids[Level.STUDY])
        by_study = {keys.ID.unpack(study_id)[0] for study_id in ids if study_id is not None}
        found = by_study if found is None else found & by_study
    return found


def _instances_by_uid(walk: Walk, uids: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for uid in uids:
        where = walk.txn.get(keys.bounded(uid), db=walk.environment.sop_uids)
        if where:
            found.setdefault(where[:4], []).append(where)
    for where_list in found.values():
        where_list.sort()
    return found


def _studies_by_range(walk: Walk, collect: Callable[[Walk, Sequence[Range]], set[int]]) -> set[int] | None:
    """By the condition whose ranges hold the fewest keys; among long ones by the order of `SEARCHED`."""
    best: tuple[int, Sequence[Range]] | None = None
    best_count = _ESTIMATE_MAX + 1
    for tag, ranges in _ranged(walk):
        count = _estimate(walk, ranges)
        if count < best_count:
            best, best_count = (tag, ranges), count
            if count <= 1:
                break
    if best is None:
        return None
    tag, ranges = best
    owners = collect(walk, ranges)
    if LEVEL_OF[tag] < Level.SERIES:
        return owners
    rows = (walk.txn.get(keys.ID.pack(series_id), db=walk.environment.series) for series_id in owners)
    return {keys.UID_HEAD.unpack_from(row)[0] for row in rows if row is not None}


def _ranged(walk: Walk) -> list[tuple[int, Sequence[Range]]]:
    asked = [item for level in Level for item in walk.plan.conditions[level]]
    for item in walk.plan.computed:
        if item.tag == tags.ModalitiesInStudy:
            value = walk.query.keys[item.tag]
            by_series = condition(tags.Modality, value, walk.query.character_set)
            if by_series is not None:
                asked.append(by_series)
    ranged = [(item.tag, item.ranges) for item in asked if item.ranges is not None]
    return sorted(ranged, key=lambda item: SEARCHED.index(item[0]))


def _estimate(walk: Walk, ranges: Sequence[Range]) -> int:
    """How many keys the ranges hold, _ESTIMATE_MAX for that many or more."""
    count = 0
    with walk.txn.cursor(db=walk.environment.search) as cursor:
        for start, end in ranges:
            if not cursor.set_range(start):
                continue
            for key in cursor.iternext(keys=True, values=False):
                if key >= end:
                    break
                count += 1
                if count >= _ESTIMATE_MAX:
                    return count
    return count


def collect_here(walk: Walk, ranges: Sequence[Range]) -> set[int]:
    """The owners of ranges, all in the walk's transaction: for what is done in one transaction anyway."""
    owners: set[int] = set()
    for start, end in ranges:
        _collect_some(walk, start, end, owners, 1 << 62)
    return owners


def _collect_some(walk: Walk, start: bytes, end: bytes, owners: set[int], count_max: int) -> bytes | None:
    """Reads owners from `start`; returns where to go on, None at the end."""
    unpack = struct.Struct(">I").unpack_from
    with walk.txn.cursor(db=walk.environment.search) as cursor:
        if not cursor.set_range(start):
            return None
        for key in cursor.iternext(keys=True, values=False):
            if key >= end:
                return None
            owners.add(unpack(key, len(key) - 4)[0])
            count_max -= 1
            if not count_max:
                return bytes(key) + b"\0"
    return None


def collect_in_steps(walk: Walk, ranges: Sequence[Range], renew: Callable[[], Any]) -> set[int]:
    """The same with a fresh transaction every KEYS_MAX keys."""
    owners: set[int] = set()
    for start, end in ranges:
        at: bytes | None = start
        while at is not None:
            at = _collect_some(walk, at, end, owners, KEYS_MAX)
            if at is not None:
                walk.txn = renew()
    return owners
