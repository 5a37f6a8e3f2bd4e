"""The studies of a scope in the order of a value, in memory: as far down as somebody has looked, from the top.

To find the first hundred of a narrow scope, a search walks past the keys of many other studies, or reads the value of
each of its own. What it finds is kept, and the next page begins there:

    places     from the top of the list to `reached`, or all of them
    mark       the state of the index that they are right for: its transaction, changes and last study

A later search brings them up to date first (`Kept.update`): it places the studies that have come since, and those whose
keys have changed (`apply.changed_studies`). They remain candidates: `ordering` tests each in its own transaction, so
that nothing is seen that has left the scope, whatever is kept here. The order of arrival is that of ids, which `access`
has: only those of a scope with several conditions are kept (`narrowed`), since each id is looked up under all its keys.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from engine.access.scope import Scope
from engine.index.apply.changed_studies import read_changes
from engine.index.database.environment import Environment
from engine.index.format import keys
from engine.index.format.types import Bookmark, Order
from engine.index.query.in_scope import InScope, Mark
from engine.index.query.reading import Reading

PLACES_MAX: Final = 10_000
"""Places kept of one list: some 2 MB."""
ALL_PLACES_MAX: Final = 100_000
"""Places kept of all lists of one index: some 20 MB. The list that was not used for the longest time goes first."""
NARROWED_MAX: Final = 10_000
"""Ids of a scope of several conditions that are looked up at once: some 20 ms."""
UPDATES_MAX: Final = 1000
"""Studies that have come or changed; with more, a list is made anew."""


class Chunk(NamedTuple):
    """Some places in order."""

    places: Sequence[Bookmark]
    reached: Bookmark | None
    """Where the next chunk begins."""
    is_over: bool
    """Whether there are no more."""


class Kept:
    """The first places of one list. Hold `lock` during each use."""

    def __init__(self, order: Order, mark: Mark) -> None:
        self.lock = threading.Lock()
        self.places: list[Bookmark] = []
        self.reached: Bookmark | None = None
        """The end of what is kept; None: nothing is kept yet."""
        self.is_whole = False
        """Whether these are all."""
        self._order = order
        self._mark = mark

    def update(self, reading: Reading, in_scope: InScope, key_of: Callable[[bytes], bytes]) -> bool:
        """Brings the places up to date. False: they are of a later state than `in_scope`.

        `in_scope` is found anew for each search, in this transaction or an earlier one. `key_of` gives the key by which
        a study is ordered.
        """
        mark = in_scope.mark
        if mark.transaction <= self._mark.transaction:
            return mark.transaction == self._mark.transaction
        if self.reached is not None or self.is_whole:
            touched = self._touched(reading, in_scope)
            if touched is None or len(self.places) + len(touched) > PLACES_MAX:
                self.places, self.reached, self.is_whole = [], None, False
            else:
                for number in touched:
                    self._insert(Bookmark(key_of(keys.ID.pack(number)), number))
        self._mark = mark
        return True

    def _touched(self, reading: Reading, in_scope: InScope) -> set[int] | None:
        """Removes the studies that have changed. Returns those to be placed; None: there are too many."""
        count, last = read_changes(reading.txn, reading.environment)
        change_count = count - self._mark.change_count
        if change_count > len(last):
            return None
        touched: set[int] = set()
        if change_count:
            changed = set(last[-change_count:])
            self.places = [place for place in self.places if place.number not in changed]
            touched = {number for number in changed if in_scope.admits(reading, number)}
        for number in in_scope.after(reading, self._mark.last_study):
            if number < 0 or len(touched) >= UPDATES_MAX:
                return None
            touched.add(number)
        return touched

    def _insert(self, place: Bookmark) -> None:
        if not self.is_whole and (self.reached is None or is_behind(self._order, place, self.reached)):
            return
        at = self._first_behind(place)
        if not at or self.places[at - 1] != place:
            self.places.insert(at, place)

    def chunk(self, after: Bookmark | None, count: int) -> Chunk | None:
        """The next places; None: they are not kept."""
        if not self.is_whole and not self._is_within(after):
            return None
        at = 0 if after is None else self._first_behind(after)
        places = self.places[at : at + count]
        if at + len(places) < len(self.places):
            return Chunk(places, places[-1], False)
        return Chunk(places, places[-1] if self.is_whole and places else self.reached, self.is_whole)

    def _is_within(self, after: Bookmark | None) -> bool:
        return self.reached is not None and (after is None or is_behind(self._order, self.reached, after))

    def fill(self, places: list[Bookmark], mark: Mark) -> None:
        """Keeps a whole list. `mark`: the state in which the scope was found."""
        if len(places) <= PLACES_MAX:
            self.places, self.reached, self.is_whole, self._mark = places.copy(), None, True, mark

    def extend(self, after: Bookmark | None, chunk: Chunk, mark: Mark) -> None:
        """Adds what follows the places that are kept. `mark`: the state in which the scope was found."""
        if self.is_whole or after != self.reached or len(self.places) + len(chunk.places) > PLACES_MAX:
            return
        self.places += chunk.places
        self.reached = chunk.reached
        self.is_whole = chunk.is_over
        self._mark = min(self._mark, mark)

    def _first_behind(self, after: Bookmark) -> int:
        low, high = 0, len(self.places)
        while low < high:
            middle = (low + high) // 2
            if is_behind(self._order, self.places[middle], after):
                high = middle
            else:
                low = middle + 1
        return low


def is_behind(order: Order, place: Bookmark, after: Bookmark) -> bool:
    """Whether a place comes after another one. Studies without a value come last in both directions."""
    has_key, had_key = bool(place.key), bool(after.key)
    if has_key != had_key and not order.is_arrival:
        return had_key
    here, last = (place.key, place.number), (after.key, after.number)
    return here < last if order.is_descending else here > last


class KeptPlaces:
    """The lists of one index, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lists: OrderedDict[tuple[Scope, Order], Kept] = OrderedDict()

    def get(self, scope: Scope, order: Order, mark: Mark) -> Kept:
        """The list of a scope in an order; an empty one if none is kept. `mark`: the state in which it begins."""
        with self._lock:
            kept = self._lists.get((scope, order))
            if kept is None:
                kept = self._lists[scope, order] = Kept(order, mark)
                self._remove_some()
            self._lists.move_to_end((scope, order))
            return kept

    def _remove_some(self) -> None:
        count = sum(len(kept.places) for kept in self._lists.values()) + PLACES_MAX
        while count > ALL_PLACES_MAX and len(self._lists) > 1:
            _, kept = self._lists.popitem(last=False)
            count -= len(kept.places)


_kept: WeakKeyDictionary[Environment, KeptPlaces] = WeakKeyDictionary()
_kept_lock = threading.Lock()


def kept_places(environment: Environment) -> KeptPlaces:
    """The lists of this index."""
    with _kept_lock:
        return _kept.setdefault(environment, KeptPlaces())


def narrowed(reading: Reading, scope: Scope, in_scope: InScope) -> Generator[None, None, InScope]:
    """The same studies as a list of ids, if they have several conditions and are few. Yields as `access` does."""
    if not in_scope.is_narrower or in_scope.count > NARROWED_MAX:
        return in_scope
    order = Order(None)
    kept = kept_places(reading.environment).get(scope, order, in_scope.mark)
    with kept.lock:
        is_kept = kept.update(reading, in_scope, lambda study_id: b"") and kept.is_whole
        numbers = [place.number for place in kept.places] if is_kept else []
    if not is_kept:
        numbers = yield from _all_of(reading, in_scope)
        with kept.lock:
            kept.fill([Bookmark(b"", number) for number in numbers], in_scope.mark)
    ids = array("I", numbers)
    return InScope(ids, (), len(ids), in_scope.is_exact, in_scope.mark, is_of_mark=True)


def _all_of(reading: Reading, in_scope: InScope) -> Generator[None, None, list[int]]:
    """Every id, ascending."""
    numbers: list[int] = []
    at = 0
    while True:
        for number in in_scope.after(reading, at):
            if number < 0:
                at = -number
                break
            numbers.append(number)
        else:
            return numbers
        yield
