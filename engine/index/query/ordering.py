"""Returns studies in the order of one of their attributes, from any bookmark on: for lists of a million studies.

    natural     attributes of patient and study that have keys in `search`, and arrival: walks the keys in their order,
                a chunk at a time, and tests each study that is a candidate. A page does not read the studies before its
                bookmark. A study without a value has no key, and comes last in both directions. A list of candidates is
                in the order of arrival already
    listed      the same orders for few candidates: reads the value of each, sorts, and tests a chunk at a time
    gathered    texts, any other attribute, or a fact of arrival: makes all matches and sorts them, GATHERED_MAX at most

A bookmark is the last key and id of a page; it stays valid when studies are stored or deleted. A person name has a key
for each of its groups: only the first one counts here, so each study appears once.

The access that the query allows (`access`) decides between the two. Yields as `search_steps` does. `web.api.studies`
limits the rows and the time of a page.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from math import isqrt
from typing import Final

from engine.access.scope import FULL, Scope
from engine.dicom import tags
from engine.dicom.schema import Schema
from engine.errors import QueryError
from engine.index.database.environment import Environment
from engine.index.database.transactions import Cursor
from engine.index.format import keys, terms
from engine.index.format.statements import fact_values
from engine.index.format.types import Bookmark, Level, Match, Order, PlacedMatch, Query
from engine.index.query.access import find_in_steps
from engine.index.query.arrival_places import arrival_places
from engine.index.query.arrivals import arrival_key
from engine.index.query.candidates import Admitted, Candidates, IdList, Known, ascending
from engine.index.query.explanation import Explanation
from engine.index.query.in_scope import InScope
from engine.index.query.kept_places import Chunk, is_behind, kept_places
from engine.index.query.plan import COMPUTED, Plan, level_of
from engine.index.query.reading import Reading
from engine.index.query.walk import Walk

CHUNK: Final = 128
"""Studies tested in one read transaction."""
SKIPPED_AT_ONCE: Final = 20_000
"""Keys skipped in one read transaction when only their number counts."""
FEW: Final = 5000
FEW_MIN: Final = 1000
FEW_SHARE: Final = 200
"""Up to this many candidates that a search for texts finds, or one in FEW_SHARE studies, are gathered and sorted. More
frequent ones are found soon enough in the natural order."""
LISTED_AT_ONCE: Final = 1000
"""Candidates whose value is read in one read transaction."""
LISTED_FACTOR: Final = 3
"""Reading the value of one candidate costs as much as passing this many hundredths of the keys that a page of 100 walks
past: so candidates are listed up to the root of this many times the number of studies."""
PASSED_AT_ONCE: Final = 10_000
"""Keys of studies that are no candidates, passed in one read transaction."""
REMEMBERED_MAX: Final = 30_000
"""Candidates that are read at once to walk past all others: a scope with more is asked for each study."""
GATHERED_MAX: Final = 50_000
"""Limit for matches sorted in memory: some 50 MB."""

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
        return order.is_arrival
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
    scope: Scope = FULL,
) -> Iterator[PlacedMatch | Bookmark | None]:
    """The matching studies in order, after a bookmark, without the first `skip` of them.

    At a None the caller may pause. At a bookmark it may also stop, and continue after it later.

    Raises QueryError, at once, or later if it would have to sort too many studies.
    """
    schema = environment.schema
    if query.level != Level.STUDY:
        raise QueryError("only studies can be ordered")
    if order.tag is not None:
        level = level_of(order.tag, schema)
        if level is None or level > Level.STUDY:
            raise QueryError(f"studies cannot be ordered by {tags.keyword_of(order.tag)}", order.tag)
        query = replace(query, keys={order.tag: b"", **query.keys})
    return _Ordering(environment, query, order, explanation, scope).steps(after, skip)


def key_of(order: Order, match: Match, schema: Schema) -> bytes:
    """The key that a match is ordered by; b"": it has no value."""
    tag = order.tag
    if tag is None:
        return b""
    value = match.attributes.get(tag, b"")
    if tag in _NUMBERS:
        return int(value.strip() or b"0").to_bytes(8, "big")
    return value_key(tag, value, schema)


def bookmark_at(order: Order, text: str, schema: Schema) -> Bookmark:
    """The bookmark before all values that begin with `text`: continue after it to see them first.

    Raises QueryError for an order without keys.
    """
    if order.tag is None or not is_natural(order, schema):
        raise QueryError("in this order a text cannot be a starting point")
    normal = next(iter(terms.normal_values(schema.vr_of(order.tag), text.encode("utf-8", "replace"))), "")
    key = keys.search_key(order.tag, normal.encode("utf-8", "replace"), terms.WHOLE)
    return Bookmark(key + b"\xff" if order.is_descending else key, 0)


def value_key(tag: int, value: bytes, schema: Schema) -> bytes:
    """The key in `search` of the first value, or of a name's first group."""
    vr = schema.vr_of(tag)
    for normal in terms.normal_values(vr, value):
        text = next(filter(None, normal.split("=")), "") if vr == "PN" else normal
        if text:
            return keys.search_key(tag, text.encode("utf-8", "replace"), terms.WHOLE)
    return b""


def _in_order(place: Bookmark) -> tuple[bytes, int]:
    return place.key, place.number


class _Ordering:
    """Runs one query."""

    def __init__(
        self, environment: Environment, query: Query, order: Order, explanation: Explanation, scope: Scope
    ) -> None:
        self._environment = environment
        self._order = order
        self._schema = environment.schema
        self._reading = Reading(environment, query, Plan.of(query, environment.schema), explanation, scope)
        self._candidates = Candidates()
        self._is_candidate: Callable[[bytes], bool] | None = None
        """Whether a study can match; None: each can."""
        self._has_conditions = bool(
            scope is not FULL
            or self._reading.plan.computed
            or any(self._reading.plan.conditions[level] for level in Level)
        )

    def steps(self, after: Bookmark | None, skip: int) -> Iterator[PlacedMatch | Bookmark | None]:
        candidates = self._candidates
        if self._has_conditions:
            yield from find_in_steps(self._reading, candidates)
        has_keys = is_natural(self._order, self._schema)
        tops = candidates.tops
        matches: list[PlacedMatch] | None = None
        study_count = self._study_count()
        if not has_keys:
            if self._has_conditions or study_count <= GATHERED_MAX:
                matches = yield from self._gather(candidates, GATHERED_MAX)
        elif isinstance(tops, InScope) and not self._order.is_arrival:
            yield from self._walk_scope(tops, after, skip)
            return
        elif isinstance(tops, IdList | InScope | Admitted):
            places = yield from self._places_of(tops)
            if places is not None:
                yield from self._walk_places(places, after, skip)
                return
        elif tops is not None:
            few = min(FEW, max(FEW_MIN, study_count // FEW_SHARE))
            matches = yield from self._gather(candidates, few)
        if matches is not None:
            yield from self._sort(matches, after, skip)
        elif has_keys:
            yield from self._walk_keys(after, skip)
        else:
            what = self._order.name
            raise QueryError(f"more than {GATHERED_MAX} studies would have to be sorted by {what}: narrow the search")

    def _study_count(self) -> int:
        with self._reading.transaction():
            return self._reading.txn.stat(self._environment.studies)["entries"]

    # -- gathered

    def _gather(self, candidates: Candidates, most: int) -> Generator[None, None, list[PlacedMatch] | None]:
        """All matches; None if there are more than `most`."""
        walk = Walk(self._reading)
        walk.candidates = candidates
        matches: list[PlacedMatch] = []
        is_over = False
        while not is_over:
            with self._reading.transaction():
                walk.examined = 0
                is_over = True
                for place in walk.places():
                    if place is None:
                        is_over = False
                        break
                    match = place.match()
                    number = keys.ID.unpack(place.study_id)[0]
                    key = self._key(place.study_id, match)
                    matches.append(PlacedMatch(match, Bookmark(key, number)))
                    if len(matches) > most:
                        return None
                    if walk.is_step_over():
                        is_over = False
                        break
            yield None
        return matches

    def _key(self, study_id: bytes, match: Match) -> bytes:
        """The key that a match is ordered by; in a read transaction."""
        if self._order.fact is None:
            return key_of(self._order, match, self._schema)
        return arrival_key(self._reading.txn, self._environment, study_id, self._order.fact)

    def _sort(
        self, matches: list[PlacedMatch], after: Bookmark | None, skip: int
    ) -> Iterator[PlacedMatch | Bookmark | None]:
        is_descending = self._order.is_descending
        by_arrival = self._order.is_arrival
        with_value = [each for each in matches if each.place.key or by_arrival]
        without_value = [each for each in matches if not each.place.key and not by_arrival]
        for group in (with_value, without_value):
            group.sort(key=lambda each: (each.place.key, each.place.number), reverse=is_descending)
        ordered = with_value + without_value
        if after is not None:
            ordered = [each for each in ordered if is_behind(self._order, each.place, after)]
        yield from ordered[skip:]

    # -- listed

    def _places_of(self, tops: IdList | InScope | Admitted) -> Generator[None, None, list[Bookmark] | None]:
        """All candidates in order; None: there are many, and the walk will pass the others."""
        if self._order.is_arrival:
            return None  # their ids are in this order
        if tops.count <= max(FEW_MIN, isqrt(LISTED_FACTOR * self._study_count())):
            return (yield from self._list(tops))
        yield from self._choose(tops)
        return None

    def _list(self, tops: IdList | InScope | Admitted) -> Generator[None, None, list[Bookmark]]:
        """The places of all candidates, in order."""
        places: list[Bookmark] = []
        at, is_over = 0, False
        while not is_over:
            with self._reading.transaction():
                before = len(places)
                is_over = True
                for number in tops.after(self._reading, at):
                    at = abs(number)
                    if number > 0:
                        places.append(Bookmark(self._stored_key(keys.ID.pack(number)), number))
                    if number < 0 or len(places) - before >= LISTED_AT_ONCE:
                        is_over = False
                        break
            yield None
        reverse = self._order.is_descending
        with_value = sorted([place for place in places if place.key], key=_in_order, reverse=reverse)
        return with_value + sorted([place for place in places if not place.key], key=_in_order, reverse=reverse)

    def _stored_key(self, study_id: bytes) -> bytes:
        """The key that a study is ordered by, from its row."""
        tag = self._order.tag
        row = self._reading.txn.get(study_id, db=self._environment.studies) if tag is not None else None
        if tag is None or row is None:
            return b""
        of_patient, of_study = fact_values(row, keys.UID_HEAD.size + keys.UID_HEAD.unpack_from(row)[2])[0]
        return value_key(tag, of_study.get(tag) or of_patient.get(tag, b""), self._schema)

    def _walk_places(
        self, places: list[Bookmark], after: Bookmark | None, skip: int
    ) -> Iterator[PlacedMatch | Bookmark | None]:
        if after is not None:
            places = [place for place in places if is_behind(self._order, place, after)]
        for at in range(0, len(places), CHUNK):
            chunk = places[at : at + CHUNK]
            with self._reading.transaction():
                matches = self._test(chunk)
            yield from matches[skip:]
            skip = max(skip - len(matches), 0)
            yield None if skip else chunk[-1]

    # -- kept

    def _walk_scope(
        self, in_scope: InScope, after: Bookmark | None, skip: int
    ) -> Iterator[PlacedMatch | Bookmark | None]:
        """Studies of a scope; the places that are kept are not looked for again."""
        admission = self._reading.admission
        assert admission is not None
        kept = kept_places(self._environment).get(admission.scope, self._order, in_scope.mark)
        place, is_chosen, is_over = after, False, False
        while not is_over:
            with self._reading.transaction():
                with kept.lock:
                    is_current = kept.update(self._reading, in_scope, self._stored_key)
                    chunk = kept.chunk(place, CHUNK) if is_current else None
                if chunk is None and is_chosen:
                    chunk = Chunk(*self._next(place, CHUNK))
                    with kept.lock:
                        kept.extend(place, chunk, in_scope.mark)
                if chunk is not None:
                    is_of_mark = self._reading.txn.id() == in_scope.mark.transaction
                    matches = self._test(chunk.places, in_scope if is_of_mark else None)
            if chunk is None:
                places = yield from self._places_of(in_scope)
                if places is not None:
                    with kept.lock:
                        kept.fill(places, in_scope.mark)
                    yield from self._walk_places(places, place, skip)
                    return
                is_chosen = True
                continue
            yield from matches[skip:]
            skip = max(skip - len(matches), 0)
            place, is_over = chunk.reached, chunk.is_over
            if not is_over:
                yield None if skip else place

    # -- natural

    def _choose(self, tops: IdList | InScope | Admitted) -> Generator[None, None, None]:
        """Sets which studies the walk does not pass."""
        if isinstance(tops, Admitted):
            tops = IdList(tops.ids)
        if isinstance(tops, IdList):
            self._is_candidate = frozenset(map(keys.ID.pack, tops.ids)).__contains__
        elif tops.count <= REMEMBERED_MAX:
            with self._reading.transaction():
                self._is_candidate = frozenset(map(keys.ID.pack, tops.all(self._reading))).__contains__
            yield None
        elif tops.is_asked:
            in_scope = tops
            self._is_candidate = lambda study_id: in_scope.admits(self._reading, keys.ID.unpack(study_id)[0])

    def _walk_keys(self, after: Bookmark | None, skip: int) -> Iterator[PlacedMatch | Bookmark | None]:
        place = after
        if skip and not self._has_conditions:
            place, skip = yield from self._skip_keys(place, skip)
        is_over = False
        while not is_over:
            with self._reading.transaction():
                places, place, is_over = self._next(place, CHUNK)
                matches = self._test(places, self._candidates.among if self._order.is_arrival else None)
            yield from matches[skip:]
            skip = max(skip - len(matches), 0)
            if not is_over:
                yield None if skip else place

    def _skip_keys(self, place: Bookmark | None, skip: int) -> Generator[None, None, tuple[Bookmark | None, int]]:
        """Skips studies by their keys alone. Returns the place reached, and how many studies remain to be skipped."""
        if self._order.tag is None and place is None and skip > SKIPPED_AT_ONCE:
            place, skip = yield from self._leap(skip)
        skip_some = self._skip_some_ids if self._order.tag is None else self._skip_some_keys
        while skip and (self._order.tag is None or place is None or place.key):
            with self._reading.transaction():
                count, place = skip_some(place, skip)
            skip -= count
            if not count:
                break
            yield None
        return place, skip

    def _leap(self, skip: int) -> Generator[None, None, tuple[Bookmark | None, int]]:
        """Skips to a mark in the order of arrival. Returns the place reached, and how many studies remain."""
        places = arrival_places(self._environment)
        while True:
            with self._reading.transaction():
                reached = places.skip(self._reading.txn, skip, is_descending=self._order.is_descending)
            if reached is not None:
                number, remaining = reached
                return (Bookmark(b"", number) if number else None), remaining
            yield None

    def _skip_some_ids(self, after: Bookmark | None, skip: int) -> tuple[int, Bookmark | None]:
        """The number of studies skipped in one transaction, and the last of them."""
        with self._reading.txn.cursor(db=self._environment.studies) as cursor:
            has_row, step = self._enter_ids(cursor, after.number if after else 0)
            count, key = 0, b""
            while has_row and count < min(skip, SKIPPED_AT_ONCE):
                key = cursor.key()
                count += 1
                has_row = step()
        return count, Bookmark(b"", keys.ID.unpack(key)[0]) if count else after

    def _skip_some_keys(self, after: Bookmark | None, skip: int) -> tuple[int, Bookmark | None]:
        """The same by search keys: all studies of a key at once, except for the last key."""
        low, high = self._bounds()
        is_descending = self._order.is_descending
        skipped, place = 0, after
        with self._reading.txn.cursor(db=self._environment.search) as cursor:
            has_row = self._enter_down(cursor, after, high) if is_descending else self._enter_up(cursor, after, low)
            step, step_key = (cursor.prev, cursor.prev_nodup) if is_descending else (cursor.next, cursor.next_nodup)
            # A page far down passes hundreds of thousands of keys: nothing is made of one that is passed.
            within, passed = (after.key if after is not None else b""), b""
            for _ in range(SKIPPED_AT_ONCE):
                if not has_row or skipped == skip or not low <= (key := cursor.key()) < high:
                    break
                count = cursor.count()
                if count > 1 and (key == within or skipped + count > skip):
                    passed, place = b"", Bookmark(key, keys.ID.unpack(cursor.value())[0])
                    skipped += 1
                    has_row = step()
                    continue
                passed = key
                skipped += count
                has_row = step_key()
            if passed:
                place = Bookmark(passed, 1 if is_descending else 0xFFFFFFFF)
        return skipped, place

    def _test(self, places: Sequence[Bookmark], among: Known | None = None) -> list[PlacedMatch]:
        """The matches among these places whose study is ordered by the place's key. `among`: all are of these."""
        walk = Walk(self._reading)
        walk.candidates.tops = IdList(ascending({place.number for place in places}))
        walk.candidates.among = among
        walk.candidates.series_of, walk.candidates.instances = self._candidates.series_of, self._candidates.instances
        matches = {}
        for study in walk.places():
            if study is not None:
                matches[keys.ID.unpack(study.study_id)[0]] = study.match()
        self._reading.explanation.examined += walk.examined
        return [
            PlacedMatch(match, place)
            for place in places
            if (match := matches.get(place.number)) is not None
            and key_of(self._order, match, self._schema) == place.key
        ]

    def _next(self, after: Bookmark | None, count: int) -> tuple[list[Bookmark], Bookmark | None, bool]:
        """At most `count` next candidates in the order, the place reached, and whether there are no more."""
        if self._order.tag is None or (after is not None and not after.key):
            return self._next_ids(after.number if after else 0, count)
        places, reached, is_over = self._next_keys(after, count)
        if not is_over:
            return places, reached, False
        # After all keys: studies without a value, in the order of arrival.
        more, end, is_over = self._next_ids(0, count - len(places))
        return places + more, end, is_over

    def _next_ids(self, number: int, count: int) -> tuple[list[Bookmark], Bookmark | None, bool]:
        """The same in the order of arrival after an id."""
        tops = self._candidates.tops
        if isinstance(tops, InScope):
            return self._next_in_scope(tops, number, count)
        if isinstance(tops, IdList | Admitted):
            return self._next_listed(tops.ids, number, count)
        bookmarks: list[Bookmark] = []
        is_candidate, reached = self._is_candidate, number
        remaining = PASSED_AT_ONCE
        with self._reading.txn.cursor(db=self._environment.studies) as cursor:
            has_row, step = self._enter_ids(cursor, number)
            while has_row and remaining and len(bookmarks) < count:
                remaining -= 1
                study_id = cursor.key()
                reached = keys.ID.unpack(study_id)[0]
                if is_candidate is None or is_candidate(study_id):
                    bookmarks.append(Bookmark(b"", reached))
                has_row = step()
        return bookmarks, Bookmark(b"", reached), not has_row

    def _enter_ids(self, cursor: Cursor, number: int) -> tuple[bool, Callable[[], bool]]:
        """Goes to the row after an id (0: the first). Returns whether there is one, and the function for the next."""
        if not self._order.is_descending:
            return cursor.set_range(keys.ID.pack(min(number + 1, 0xFFFFFFFF))), cursor.next
        is_above = cursor.set_range(keys.ID.pack(number or 0xFFFFFFFF))
        return cursor.prev() if is_above else cursor.last(), cursor.prev

    def _next_listed(self, ids: Sequence[int], number: int, count: int) -> tuple[list[Bookmark], Bookmark | None, bool]:
        """The same of ascending ids, without a look at the studies between them."""
        if self._order.is_descending:
            end = bisect_left(ids, number) if number else len(ids)
            chosen, is_over = ids[max(end - count, 0) : end][::-1], end <= count
        else:
            start = bisect_right(ids, number)
            chosen, is_over = ids[start : start + count], start + count >= len(ids)
        reached = chosen[-1] if chosen else number
        return [Bookmark(b"", each) for each in chosen], Bookmark(b"", reached), is_over

    def _next_in_scope(self, tops: InScope, number: int, count: int) -> tuple[list[Bookmark], Bookmark | None, bool]:
        """The same, without the studies out of scope."""
        if self._order.is_descending:
            ids = tops.before(self._reading, number or 0xFFFFFFFF)
        else:
            ids = tops.after(self._reading, number)
        bookmarks: list[Bookmark] = []
        for each in ids:
            if each < 0:
                return bookmarks, Bookmark(b"", -each), False
            bookmarks.append(Bookmark(b"", each))
            if len(bookmarks) == count:
                return bookmarks, bookmarks[-1], False
        return bookmarks, bookmarks[-1] if bookmarks else Bookmark(b"", number), True

    def _next_keys(self, after: Bookmark | None, count: int) -> tuple[list[Bookmark], Bookmark | None, bool]:
        """The same by the keys of `search`, of studies that have a value."""
        low, high = self._bounds()
        is_descending, is_candidate = self._order.is_descending, self._is_candidate
        bookmarks: list[Bookmark] = []
        reached = after
        with self._reading.txn.cursor(db=self._environment.search) as cursor:
            has_row = self._enter_down(cursor, after, high) if is_descending else self._enter_up(cursor, after, low)
            if not has_row:
                return bookmarks, reached, True
            rows = cursor.iterprev() if is_descending else cursor.iternext()
            for key, study_id in islice(rows, PASSED_AT_ONCE):
                if not low <= key < high:
                    return bookmarks, reached, True
                if is_candidate is None or is_candidate(study_id):
                    bookmarks.append(Bookmark(key, keys.ID.unpack(study_id)[0]))
                    if len(bookmarks) == count:
                        return bookmarks, bookmarks[-1], False
            return bookmarks, Bookmark(key, keys.ID.unpack(study_id)[0]), False

    def _bounds(self) -> tuple[bytes, bytes]:
        """The bounds of all keys of the attribute."""
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
            has_row = cursor.set_range(high)
            return cursor.prev() if has_row else cursor.last()
        number = after.number or 0xFFFFFFFF
        if cursor.set_range_dup(after.key, keys.ID.pack(number)):
            return cursor.prev()
        # The key has no such id or a higher one: go to its last id, or to that of the key before.
        has_row = cursor.set_range(after.key + b"\0")
        return cursor.prev() if has_row else cursor.last()
