"""Studies in the order of one of their attributes, from any place on: what a list of a million of them needs.

    natural     attributes of patient and study that have keys in `search`, and arrival: the keys are walked in their
                order, a chunk at a time, and each study is tested; a window costs what lies before it in the order is
                not asked for. What has no value has no key, and comes last in both directions
    gathered    few candidates, or any other column: all matches are made and sorted, GATHERED_MAX at most

A bookmark is the key and the id behind which to go on; it stays valid whatever is stored or deleted. A person name has
a key for each of its groups: only the first one counts here, and a study is told of once.

Which of the two is taken is decided by the access that the query allows (`access`). Gives way as `search_steps` does.
Not here: which rows a page has, and how long it may take (`web.api.studies`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Final

from engine.dicom import tags
from engine.dicom.schema import Schema
from engine.errors import QueryError
from engine.index.database.environment import Environment
from engine.index.database.transactions import Cursor
from engine.index.format import keys, terms
from engine.index.format.types import Bookmark, Level, Match, Order, PlacedMatch, Query
from engine.index.query.access import find_in_steps
from engine.index.query.candidates import Candidates, IdList, ascending
from engine.index.query.explanation import Explanation
from engine.index.query.plan import COMPUTED, Plan, level_of
from engine.index.query.scope import Scope
from engine.index.query.walk import Walk

CHUNK: Final = 128
"""Studies tested in one read transaction."""
SKIPPED_AT_ONCE: Final = 20_000
"""Keys passed over in one read transaction where only their number counts."""
FEW: Final = 5000
FEW_MIN: Final = 1000
FEW_SHARE: Final = 200
"""So many candidates, up to one in FEW_SHARE studies, are rather sorted than looked for in the order of all: those that
are more frequent are met soon enough."""
GATHERED_MAX: Final = 50_000
"""Matches that are sorted in memory: some 50 MB."""

_NUMBERS: Final = frozenset(
    (
        tags.NumberOfStudyRelatedInstances,
        tags.NumberOfStudyRelatedSeries,
        tags.NumberOfPatientRelatedStudies,
    )
)


def is_natural(order: Order, schema: Schema) -> bool:
    """Whether the index has keys in this order."""
    if order.tag is None:
        return True
    level = level_of(order.tag, schema)
    return order.tag in schema.searched and level is not None and level <= Level.STUDY and order.tag not in COMPUTED


def ordered_steps(
    environment: Environment,
    query: Query,
    order: Order,
    after: Bookmark | None,
    explanation: Explanation,
    *,
    skip: int = 0,
) -> Iterator[PlacedMatch | Bookmark | None]:
    """The studies that match, in order, behind a place, `skip` of them left out.

    A None is a place to look around; a bookmark one to stop at for good: the rest is behind it.

    Raises QueryError, at once or when too much would have to be sorted.
    """
    schema = environment.schema
    if query.level != Level.STUDY:
        raise QueryError("only studies are ordered")
    if order.tag is not None:
        level = level_of(order.tag, schema)
        if level is None or level > Level.STUDY:
            raise QueryError(f"studies cannot be ordered by {tags.keyword_of(order.tag)}", order.tag)
        query = replace(query, keys={order.tag: b"", **query.keys})
    return _Ordering(environment, query, order, explanation).steps(after, skip)


def key_of(order: Order, match: Match, schema: Schema) -> bytes:
    """What a match is ordered by; b"": it has no value."""
    tag = order.tag
    if tag is None:
        return b""
    value = match.attributes.get(tag, b"")
    if tag in _NUMBERS:
        return int(value.strip() or b"0").to_bytes(8, "big")
    return value_key(tag, value, schema)


def bookmark_at(order: Order, text: str, schema: Schema) -> Bookmark:
    """Where values begin that are `text` or go on from it: studies behind it are the first from there on.

    Raises QueryError for an order without keys.
    """
    if order.tag is None or not is_natural(order, schema):
        raise QueryError("this order has no place that a text names")
    normal = next(iter(terms.normal_values(schema.vr_of(order.tag), text.encode("utf-8", "replace"))), "")
    key = keys.search_key(order.tag, normal.encode("utf-8", "replace"), terms.WHOLE)
    return Bookmark(key + b"\xff" if order.is_descending else key, 0)


def value_key(tag: int, value: bytes, schema: Schema) -> bytes:
    """The key of the first value, or of a name's first group, as `search` has it."""
    vr = schema.vr_of(tag)
    for normal in terms.normal_values(vr, value):
        text = next(filter(None, normal.split("=")), "") if vr == "PN" else normal
        if text:
            return keys.search_key(tag, text.encode("utf-8", "replace"), terms.WHOLE)
    return b""


class _Ordering:
    """One query under way."""

    def __init__(self, environment: Environment, query: Query, order: Order, explanation: Explanation) -> None:
        self._environment = environment
        self._order = order
        self._schema = environment.schema
        self._scope = Scope(environment, query, Plan.of(query, environment.schema), explanation)
        self._has_conditions = bool(
            self._scope.plan.computed or any(self._scope.plan.conditions[level] for level in Level)
        )

    def steps(self, after: Bookmark | None, skip: int) -> Iterator[PlacedMatch | Bookmark | None]:
        candidates = Candidates()
        if self._has_conditions:
            yield from find_in_steps(self._scope, candidates)
        has_keys = is_natural(self._order, self._schema)
        tops = candidates.tops
        placed: list[PlacedMatch] | None = None
        few = min(FEW, max(FEW_MIN, self._study_count() // FEW_SHARE))
        if not has_keys and not self._has_conditions:
            if self._study_count() <= GATHERED_MAX:
                placed = yield from self._gather(candidates, GATHERED_MAX)
        elif not has_keys or (isinstance(tops, IdList) and len(tops.ids) <= few):
            placed = yield from self._gather(candidates, GATHERED_MAX)
        elif tops is not None and not isinstance(tops, IdList):
            placed = yield from self._gather(candidates, few)
        if placed is not None:
            yield from self._sorted(placed, after, skip)
        elif has_keys:
            yield from self._walked(after, skip)
        else:
            what = "arrival" if self._order.tag is None else tags.keyword_of(self._order.tag)
            raise QueryError(f"more than {GATHERED_MAX} studies would have to be sorted by {what}: narrow the search")

    def _study_count(self) -> int:
        with self._scope.reading():
            return self._scope.txn.stat(self._environment.studies)["entries"]

    # -- gathered

    def _gather(self, candidates: Candidates, most: int) -> Generator[None, None, list[PlacedMatch] | None]:
        """All matches, unless there are more than `most`: then None."""
        walk = Walk(self._scope)
        walk.candidates = candidates
        placed: list[PlacedMatch] = []
        is_over = False
        while not is_over:
            with self._scope.reading():
                walk.examined = 0
                is_over = True
                for place in walk.places():
                    if place is None:
                        is_over = False
                        break
                    match = place.match()
                    number = keys.ID.unpack(place.study_id)[0]
                    placed.append(PlacedMatch(match, Bookmark(key_of(self._order, match, self._schema), number)))
                    if len(placed) > most:
                        return None
                    if walk.is_tired():
                        is_over = False
                        break
            yield None
        return placed

    def _sorted(
        self, found: list[PlacedMatch], after: Bookmark | None, skip: int
    ) -> Iterator[PlacedMatch | Bookmark | None]:
        is_descending = self._order.is_descending
        by_arrival = self._order.tag is None
        valued = [each for each in found if each.place.key or by_arrival]
        rest = [each for each in found if not each.place.key and not by_arrival]
        for group in (valued, rest):
            group.sort(key=lambda each: (each.place.key, each.place.number), reverse=is_descending)
        ordered = valued + rest
        if after is not None:
            ordered = [each for each in ordered if self._is_behind(each.place, after)]
        yield from ordered[skip:]

    def _is_behind(self, place: Bookmark, after: Bookmark) -> bool:
        has_key, had_key = bool(place.key), bool(after.key)
        if has_key != had_key and self._order.tag is not None:
            return had_key
        here, last = (place.key, place.number), (after.key, after.number)
        return here < last if self._order.is_descending else here > last

    # -- walked

    def _walked(self, after: Bookmark | None, skip: int) -> Iterator[PlacedMatch | Bookmark | None]:
        place = after
        if skip and not self._has_conditions:
            place, skip = yield from self._passed(place, skip)
        is_over = False
        while not is_over:
            with self._scope.reading():
                places, is_over = self._next(place, CHUNK)
                tested = self._tested(places)
            place = places[-1] if places else place
            yield from tested[skip:]
            skip = max(skip - len(tested), 0)
            if not is_over:
                yield None if skip else place

    def _passed(self, place: Bookmark | None, skip: int) -> Generator[None, None, tuple[Bookmark | None, int]]:
        """Passes over studies by their keys alone; where that ends, and how many are still to be passed over."""
        pass_some = self._pass_ids if self._order.tag is None else self._pass_keys
        while skip and (self._order.tag is None or place is None or place.key):
            with self._scope.reading():
                passed, place = pass_some(place, skip)
            skip -= passed
            if not passed:
                break
            yield None
        return place, skip

    def _pass_ids(self, after: Bookmark | None, skip: int) -> tuple[int, Bookmark | None]:
        """How many were passed over in one transaction, and the last of them."""
        with self._scope.txn.cursor(db=self._environment.studies) as cursor:
            there, step = self._enter_ids(cursor, after.number if after else 0)
            passed, key = 0, b""
            while there and passed < min(skip, SKIPPED_AT_ONCE):
                key = cursor.key()
                passed += 1
                there = step()
        return passed, Bookmark(b"", keys.ID.unpack(key)[0]) if passed else after

    def _pass_keys(self, after: Bookmark | None, skip: int) -> tuple[int, Bookmark | None]:
        """The same by the keys of a value: those of many studies at once, but for the last one."""
        low, high = self._bounds()
        is_descending = self._order.is_descending
        passed, place = 0, after
        with self._scope.txn.cursor(db=self._environment.search) as cursor:
            there = self._enter_down(cursor, after, high) if is_descending else self._enter_up(cursor, after, low)
            step, step_key = (cursor.prev, cursor.prev_nodup) if is_descending else (cursor.next, cursor.next_nodup)
            for _ in range(SKIPPED_AT_ONCE):
                if not there or passed == skip or not low <= (key := cursor.key()) < high:
                    break
                count = cursor.count()
                is_within = after is not None and key == after.key
                if count > 1 and (is_within or passed + count > skip):
                    place = Bookmark(key, keys.ID.unpack(cursor.value())[0])
                    passed += 1
                    there = step()
                    continue
                place = Bookmark(key, 1 if is_descending else 0xFFFFFFFF)
                passed += count
                there = step_key()
        return passed, place

    def _tested(self, places: list[Bookmark]) -> list[PlacedMatch]:
        """Those of these places that match and whose study is ordered by that key."""
        walk = Walk(self._scope)
        walk.candidates.tops = IdList(ascending({place.number for place in places}))
        matches = {}
        for reached in walk.places():
            if reached is not None:
                matches[keys.ID.unpack(reached.study_id)[0]] = reached.match()
        self._scope.explanation.examined += walk.examined
        return [
            PlacedMatch(match, place)
            for place in places
            if (match := matches.get(place.number)) is not None
            and key_of(self._order, match, self._schema) == place.key
        ]

    def _next(self, after: Bookmark | None, count: int) -> tuple[list[Bookmark], bool]:
        """The next places in the order, at most so many, and whether there are no more."""
        if self._order.tag is None or (after is not None and not after.key):
            return self._next_ids(after.number if after else 0, count)
        places = self._next_keys(after, count)
        if len(places) == count:
            return places, False
        # Behind all keys: those without a value, in the order of arrival.
        more, is_over = self._next_ids(0, count - len(places))
        return places + more, is_over

    def _next_ids(self, number: int, count: int) -> tuple[list[Bookmark], bool]:
        """Places in the order of arrival behind an id, and whether there are no more."""
        bookmarks: list[Bookmark] = []
        with self._scope.txn.cursor(db=self._environment.studies) as cursor:
            there, step = self._enter_ids(cursor, number)
            while there and len(bookmarks) < count:
                bookmarks.append(Bookmark(b"", keys.ID.unpack(cursor.key())[0]))
                there = step()
        return bookmarks, not there

    def _enter_ids(self, cursor: Cursor, number: int) -> tuple[bool, Callable[[], bool]]:
        """Goes behind an id, 0: to the beginning; whether there is one, and how to go on."""
        if not self._order.is_descending:
            return cursor.set_range(keys.ID.pack(min(number + 1, 0xFFFFFFFF))), cursor.next
        is_above = cursor.set_range(keys.ID.pack(number or 0xFFFFFFFF))
        return cursor.prev() if is_above else cursor.last(), cursor.prev

    def _next_keys(self, after: Bookmark | None, count: int) -> list[Bookmark]:
        """Places by the keys of `search`, of studies that have a value."""
        low, high = self._bounds()
        is_descending = self._order.is_descending
        bookmarks: list[Bookmark] = []
        with self._scope.txn.cursor(db=self._environment.search) as cursor:
            there = self._enter_down(cursor, after, high) if is_descending else self._enter_up(cursor, after, low)
            step = cursor.prev if is_descending else cursor.next
            while there and len(bookmarks) < count:
                key = cursor.key()
                if not low <= key < high:
                    break
                bookmarks.append(Bookmark(key, keys.ID.unpack(cursor.value())[0]))
                there = step()
        return bookmarks

    def _bounds(self) -> tuple[bytes, bytes]:
        """Between which all keys of the attribute are."""
        assert self._order.tag is not None
        low = keys.search_key(self._order.tag, b"", terms.WHOLE)
        return low, low + b"\xff"

    @staticmethod
    def _enter_up(cursor: Cursor, after: Bookmark | None, low: bytes) -> bool:
        if after is None:
            return cursor.set_range(low)
        if cursor.set_range_dup(after.key, keys.ID.pack(min(after.number + 1, 0xFFFFFFFF))):
            return True
        return cursor.set_range(after.key + b"\0")

    @staticmethod
    def _enter_down(cursor: Cursor, after: Bookmark | None, high: bytes) -> bool:
        if after is None:
            there = cursor.set_range(high)
            return cursor.prev() if there else cursor.last()
        number = after.number or 0xFFFFFFFF
        if cursor.set_range_dup(after.key, keys.ID.pack(number)):
            return cursor.prev()
        # Nothing of that key from there on: the last one of it, or of a key before.
        there = cursor.set_range(after.key + b"\0")
        return cursor.prev() if there else cursor.last()
