"""The studies that a scope may admit, found by its keys: some as a list, the others by keys of `access`.

    few keys        ids are read in their order, up or down, during the walk; a study is looked up among the keys
    many keys       the ids of all are read at once, if they are few enough
    none            the scope has no keys, or its table is not filled yet: `admission` tests each study

Every alternative of the scope is a part: the ids of the requirement that has the fewest, and only those that have a key
of each other requirement with few keys. Too many are right, too few are not: `walk` tests each, unless all keys are
exact (`scope_keys`) and none was left out.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from typing import NamedTuple

from engine.access.scope import Matching
from engine.index.apply.access_tags import read_fill
from engine.index.apply.changed_studies import count_changes
from engine.index.database.transactions import Cursor
from engine.index.format import keys
from engine.index.format.access_tags import key_of, text_of
from engine.index.query.admission import Admission
from engine.index.query.candidates import ascending
from engine.index.query.ranges import count_ids, ids_of_keys, read_ids
from engine.index.query.reading import Reading
from engine.index.query.scope_keys import ScopeKeys, is_key_admitted, keys_of, starts_of

MERGED_MAX = 64
"""Keys of `access` whose ids are read in one order."""
PASSED_MAX = 2000
"""Ids without a further key after which a search may pause."""
ASKED_MAX = 16
"""Keys of `access` among which looking a study up costs less than testing it."""
MATCHED_MAX = 20_000
"""Keys that are compared with wildcards."""
_COUNTED_KEYS = 32
"""Keys of `search` to count."""
_FIRST, _LAST = keys.ID.pack(0), keys.ID.pack(0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Part:
    """The studies that have one key of each requirement of an alternative."""

    access: Sequence[bytes]
    """The keys of the requirement with the fewest ids."""
    also: Sequence[Sequence[bytes]] = ()
    """Of the others, those with few keys."""


class Mark(NamedTuple):
    """The state of the index in a transaction."""

    transaction: int = 0
    change_count: int = 0
    """Changes of studies: see `apply.changed_studies`."""
    last_study: int = 0
    """The highest id."""


_NO_MARK = Mark()


@dataclass(slots=True)
class InScope:
    """Ids of studies: of a list, and of keys of `access`."""

    ids: array[int] = field(default_factory=lambda: array("I"))
    """Ascending."""
    parts: Sequence[Part] = ()
    count: int = 0
    """How many there are, or more."""
    is_exact: bool = False
    """Whether there are no others than those that the scope admits: see `are_admitted`."""
    mark: Mark = _NO_MARK
    """The state in which the parts were found; the ids may be of a later one."""
    is_of_mark: bool = False
    """Whether the ids are those of the mark, so that they may have left the scope since."""

    @property
    def is_narrower(self) -> bool:
        """Whether `count` may be far more than there are, since a part has further keys."""
        return any(part.also for part in self.parts)

    @property
    def is_asked(self) -> bool:
        """Whether `admits` costs less than the test of a study."""
        return sum(len(part.access) for part in self.parts) <= ASKED_MAX

    def are_admitted(self, reading: Reading) -> bool:
        """Whether the scope admits all that is read in this transaction."""
        return self.is_exact and (not self.is_of_mark or reading.txn.id() == self.mark.transaction)

    def admits(self, reading: Reading, number: int) -> bool:
        """Whether a study is among them."""
        at = bisect_left(self.ids, number)
        if at < len(self.ids) and self.ids[at] == number:
            return True
        study_id = keys.ID.pack(number)
        with reading.txn.cursor(db=reading.environment.access_table) as cursor:
            return any(
                _has_one(cursor, part.access, study_id) and _has_all(cursor, part.also, study_id) for part in self.parts
            )

    def after(self, reading: Reading, number: int) -> Iterator[int]:
        """The ids above `number`, ascending: see `candidates.Ids`."""
        of_list = islice(self.ids, bisect_right(self.ids, number), None)
        parts = [_ids_of_part(reading, part, number, _ids_after) for part in self.parts]
        return _once([of_list, *parts] if self.ids else parts, has_marks=self.is_narrower)

    def before(self, reading: Reading, number: int) -> Iterator[int]:
        """The ids below `number`, descending."""
        of_list = reversed(self.ids[: bisect_left(self.ids, number)])
        parts = [_ids_of_part(reading, part, number, _ids_before) for part in self.parts]
        return _once([of_list, *parts] if self.ids else parts, reverse=True)

    def all(self, reading: Reading) -> set[int]:
        """Every id, and perhaps some that lack a further key of their part."""
        return set(self.ids).union(*(_ids_of(reading, key) for part in self.parts for key in part.access))


def _has_one(cursor: Cursor, access: Sequence[bytes], study_id: bytes) -> bool:
    return any(cursor.set_range_dup(key, study_id) and cursor.value() == study_id for key in access)


def _has_all(cursor: Cursor, also: Sequence[Sequence[bytes]], study_id: bytes) -> bool:
    return all(_has_one(cursor, access, study_id) for access in also)


def _ids_of_part(
    reading: Reading, part: Part, number: int, read: Callable[[Reading, bytes, int], Iterator[int]]
) -> Iterator[int]:
    ids = _once([read(reading, key, number) for key in part.access], reverse=read is _ids_before)
    return _with_all(reading, part, ids, has_marks=read is _ids_after) if part.also else ids


def _with_all(reading: Reading, part: Part, ids: Iterator[int], *, has_marks: bool) -> Iterator[int]:
    """Those ids that have the further keys of their part. `has_marks`: negative ones too, see `candidates.Ids`."""
    with reading.txn.cursor(db=reading.environment.access_table) as cursor:
        for count, each in enumerate(ids, 1):
            if _has_all(cursor, part.also, keys.ID.pack(each)):
                yield each
            elif has_marks and not count % PASSED_MAX:
                yield -each


def _once(ids: Sequence[Iterator[int]], *, reverse: bool = False, has_marks: bool = False) -> Iterator[int]:
    """Ids from several sources in one order, each once. `has_marks`: some are negative, see `candidates.Ids`."""
    return ids[0] if len(ids) == 1 else _merged(ids, reverse=reverse, has_marks=has_marks)


def _merged(ids: Sequence[Iterator[int]], *, reverse: bool, has_marks: bool) -> Iterator[int]:
    last = 0
    # A mark that an id is passed comes after that id from another source.
    key = (lambda number: (abs(number), number < 0)) if has_marks else None
    for number in merge(*ids, key=key, reverse=reverse):
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
        return ids_of_keys(cursor, [key])


# from a scope --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Way:
    """How to find the studies of one requirement."""

    count: int
    keys: ScopeKeys
    access: Sequence[bytes] = ()

    @property
    def is_exact(self) -> bool:
        """Whether the keys find only studies that the requirement admits."""
        return self.keys.is_exact and all(text_of(key) is not None for key in self.access)


def find_in_scope(reading: Reading, admission: Admission, wide: int) -> Generator[None, None, InScope | None]:
    """All that may be in scope; None: testing each study costs less, or is the only way. More than `wide` ids are not
    read at once."""
    alternatives = keys_of(admission.scope, admission.today, reading.environment.schema)
    if alternatives is None:
        return None
    mark = _mark(reading)
    is_filled = reading.environment.access is not None and read_fill(reading.txn, reading.environment).is_complete
    ids: set[int] = set()
    parts: dict[bytes, Part] = {}
    count = 0
    is_exact = True
    for requirements, alternative in zip(admission.scope.alternatives, alternatives, strict=True):
        found = [way for each in alternative if (way := _way(reading, admission, each, is_filled)) is not None]
        best = min(found, key=lambda way: way.count, default=None)
        if best is None:
            return None
        if best.access:
            also = [way.access for way in found if way is not best and 0 < len(way.access) <= ASKED_MAX]
            part = Part(best.access, also)
            parts[b"\0".join(best.access) + repr(also).encode()] = part
            count += best.count
            is_exact = is_exact and len(also) + 1 == len(requirements) and all(way.is_exact for way in found)
            continue
        is_exact = is_exact and len(requirements) == 1 and best.is_exact
        if best.keys.study_instance_uids:
            of_uids = (reading.txn.get(keys.bounded(uid), db=reading.environment.study_uids)
                       for uid in best.keys.study_instance_uids)  # fmt: skip
            ids.update(_number_of(study_id) for study_id in of_uids if study_id is not None)
            continue
        of_ranges = yield from read_ids(reading, best.keys.ranges, wide)
        if of_ranges is None:
            return None
        ids |= of_ranges
    in_scope = InScope(ascending(ids), list(parts.values()), len(ids) + count, is_exact, mark)
    if sum(len(part.access) for part in in_scope.parts) <= MERGED_MAX:
        return in_scope
    if in_scope.count > wide:
        return None
    everything = ascending(in_scope.all(reading))
    return InScope(everything, (), len(everything), mark=mark)


def _mark(reading: Reading) -> Mark:
    with reading.txn.cursor(db=reading.environment.studies) as cursor:
        last_study = _number_of(cursor.key()) if cursor.last() else 0
    return Mark(reading.txn.id(), count_changes(reading.txn, reading.environment), last_study)


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
    table = reading.environment.access_table
    found = {key_of(matching.attribute, text) for text in matching.values}
    remaining = MATCHED_MAX
    for start in starts_of(matching):
        with reading.txn.cursor(db=table) as cursor:
            if not cursor.set_range(start):
                continue
            for key in cursor.iternext_nodup(keys=True, values=False):
                if not key.startswith(start):
                    break
                remaining -= 1
                if not remaining:
                    return None
                if is_key_admitted(key, matching, admission.today):
                    found.add(key)
    return sorted(found)
