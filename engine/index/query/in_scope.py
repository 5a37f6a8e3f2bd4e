"""The studies that a scope may admit, found by its keys: some as a list, the others by keys of `access`.

    few keys        ids are read in their order, up or down, during the walk; a study is looked up among the keys
    many keys       the ids of all are read at once, if they are few enough
    none            the scope has no keys, or its table is not filled yet: `admission` tests each study

Every alternative of the scope gives those of its requirements that have the fewest ids. Too many are right, too few are
not: `walk` tests each.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice

from engine.access.scope import Matching
from engine.index.apply.access_tags import read_fill
from engine.index.format import keys
from engine.index.format.access_tags import KIND_OF
from engine.index.query.admission import Admission
from engine.index.query.candidates import ascending
from engine.index.query.ranges import count_ids, read_ids
from engine.index.query.reading import Reading
from engine.index.query.scope_keys import ScopeKeys, is_key_admitted, keys_of

MERGED_MAX = 64
"""Keys of `access` whose ids are read in one order."""
ASKED_MAX = 8
"""Keys of `access` among which looking a study up costs less than testing it."""
MATCHED_MAX = 20_000
"""Keys that are compared with wildcards."""
_COUNTED_KEYS = 32
"""Keys of `search` to count."""
_FIRST, _LAST = keys.ID.pack(0), keys.ID.pack(0xFFFFFFFF)


@dataclass(slots=True)
class InScope:
    """Ids of studies: of a list, and of keys of `access`."""

    ids: array[int] = field(default_factory=lambda: array("I"))
    """Ascending."""
    access: Sequence[bytes] = ()
    count: int = 0
    """How many there are, or more."""

    @property
    def is_asked(self) -> bool:
        """Whether `admits` costs less than the test of a study."""
        return len(self.access) <= ASKED_MAX

    def admits(self, reading: Reading, number: int) -> bool:
        """Whether a study is among them."""
        at = bisect_left(self.ids, number)
        if at < len(self.ids) and self.ids[at] == number:
            return True
        study_id = keys.ID.pack(number)
        table = reading.environment.access_table
        with reading.txn.cursor(db=table) as cursor:
            return any(cursor.set_range_dup(key, study_id) and cursor.value() == study_id for key in self.access)

    def after(self, reading: Reading, number: int) -> Iterator[int]:
        """The ids above `number`, ascending: see `candidates.Ids`."""
        of_list = islice(self.ids, bisect_right(self.ids, number), None)
        return _once(merge(of_list, *(_ids_after(reading, key, number) for key in self.access)))

    def before(self, reading: Reading, number: int) -> Iterator[int]:
        """The ids below `number`, descending."""
        of_list = reversed(self.ids[: bisect_left(self.ids, number)])
        return _once(merge(of_list, *(_ids_before(reading, key, number) for key in self.access), reverse=True))

    def all(self, reading: Reading) -> set[int]:
        """Every id."""
        return set(self.ids).union(*(_ids_of(reading, key) for key in self.access))


def _once(ids: Iterator[int]) -> Iterator[int]:
    last = -1
    for number in ids:
        if number != last:
            last = number
            yield number


def _ids_after(reading: Reading, key: bytes, number: int) -> Iterator[int]:
    if number >= 0xFFFFFFFF:
        return
    with reading.txn.cursor(db=reading.environment.access_table) as cursor:
        if cursor.set_range_dup(key, keys.ID.pack(number + 1)):
            yield from map(_number_of, cursor.iternext_dup(keys=False, values=True))


def _ids_before(reading: Reading, key: bytes, number: int) -> Iterator[int]:
    with reading.txn.cursor(db=reading.environment.access_table) as cursor:
        if cursor.set_range_dup(key, keys.ID.pack(number)):
            has_row = cursor.prev_dup()
        else:
            has_row = cursor.set_key(key) and cursor.last_dup() and cursor.value() < keys.ID.pack(number)
        if has_row:
            yield from map(_number_of, cursor.iterprev_dup(keys=False, values=True))


def _number_of(study_id: bytes) -> int:
    return int.from_bytes(study_id, "big")


def _ids_of(reading: Reading, key: bytes) -> array[int]:
    with reading.txn.cursor(db=reading.environment.access_table) as cursor:
        rows = bytes(cursor.getmulti([key], dupdata=True, dupfixed_bytes=4, keyfixed=True))
    length = len(key)
    data = bytearray(len(rows) // (length + 4) * 4)
    for byte in range(4):
        data[byte::4] = rows[length + byte :: length + 4]
    ids = array("I", bytes(data))
    ids.byteswap()
    return ids


# from a scope --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Way:
    """How to find the studies of one requirement."""

    count: int
    keys: ScopeKeys
    access: Sequence[bytes] = ()


def find_in_scope(reading: Reading, admission: Admission, wide: int) -> Generator[None, None, InScope | None]:
    """All that may be in scope; None: testing each study costs less, or is the only way. More than `wide` ids are not
    read at once."""
    alternatives = keys_of(admission.scope, admission.today, reading.environment.schema)
    if alternatives is None:
        return None
    is_filled = reading.environment.access is not None and read_fill(reading.txn, reading.environment).is_complete
    ids: set[int] = set()
    access: dict[bytes, None] = {}
    count = 0
    for alternative in alternatives:
        found = [way for each in alternative if (way := _way(reading, admission, each, is_filled)) is not None]
        best = min(found, key=lambda way: way.count, default=None)
        if best is None:
            return None
        if best.access:
            access.update(dict.fromkeys(best.access))
            count += best.count
            continue
        if best.keys.study_instance_uids:
            of_uids = (reading.txn.get(keys.bounded(uid), db=reading.environment.study_uids)
                       for uid in best.keys.study_instance_uids)  # fmt: skip
            ids.update(_number_of(study_id) for study_id in of_uids if study_id is not None)
            continue
        of_ranges = yield from read_ids(reading, best.keys.ranges, wide)
        if of_ranges is None:
            return None
        ids |= of_ranges
    in_scope = InScope(ascending(ids), list(access), len(ids) + count)
    if len(access) <= MERGED_MAX:
        return in_scope
    if in_scope.count > wide:
        return None
    everything = ascending(in_scope.all(reading))
    return InScope(everything, (), len(everything))


def _way(reading: Reading, admission: Admission, each: ScopeKeys, is_filled: bool) -> _Way | None:
    if each.access or each.matching is not None:
        if not is_filled:
            return None
        access = each.access if each.matching is None else _matching_keys(reading, admission, each.matching)
        return None if access is None else _counted(reading, each, access)
    if each.ranges:
        return _Way(count_ids(reading, each.ranges, _COUNTED_KEYS)[0], each)
    return _Way(len(each.study_instance_uids), each)


def _counted(reading: Reading, each: ScopeKeys, access: Sequence[bytes]) -> _Way:
    count = 0
    held = []
    with reading.txn.cursor(db=reading.environment.access_table) as cursor:
        for key in access:
            if cursor.set_key(key):
                count += cursor.count()
                held.append(key)
    return _Way(count, ScopeKeys() if not held else each, held)


def _matching_keys(reading: Reading, admission: Admission, matching: Matching) -> list[bytes] | None:
    """The keys that a requirement with wildcards admits; None: there are too many to compare."""
    found = []
    kind = KIND_OF[matching.attribute]
    remaining = MATCHED_MAX
    with reading.txn.cursor(db=reading.environment.access_table) as cursor:
        if cursor.set_range(kind):
            for key in cursor.iternext_nodup(keys=True, values=False):
                if key[:1] != kind:
                    break
                remaining -= 1
                if not remaining:
                    return None
                if is_key_admitted(key, matching, admission.today):
                    found.append(key)
    return found
