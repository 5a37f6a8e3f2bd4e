"""The ids of every EVERY-th study in the order of arrival, in memory: to reach a place far down, nothing is counted.

    ids         3   5   6   9  ...  1007  1009  ...  2011
    marks       0:3                 1000:1009        2000:2011

Counting all studies takes 0.3 s a million, once a process; later calls count only those that arrived since. Ids are
given in ascending order and never again, so that the marks are right as long as the number of studies is. A study that
was deleted changes the number: they are counted anew.
"""

from __future__ import annotations

import threading
from array import array
from typing import Final
from weakref import WeakKeyDictionary

from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn
from engine.index.format import keys

EVERY: Final = 1000
ID_MAX: Final = 0xFFFFFFFF
COUNTED_AT_ONCE: Final = 20_000
"""Studies counted in one read transaction."""


class ArrivalPlaces:
    """The marks of one index."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._marks = array("Q")
        self._count = 0
        self._last_id = 0

    def skip(self, txn: ReadTxn, skip: int, *, is_descending: bool) -> tuple[int, int] | None:
        """The id after at most `skip` studies and how many of them remain, less than EVERY; (0, skip): none yet.

        None: call again in another transaction, since counting has not come to its end.
        """
        with self._lock:
            if not self._count_some(txn):
                return None
            if is_descending:
                mark = -(-max(self._count - skip, 0) // EVERY)
                skipped = self._count - mark * EVERY
            else:
                mark = (min(skip, self._count) - 1) // EVERY
                skipped = mark * EVERY + 1
            if skipped <= 0 or not 0 <= mark < len(self._marks):
                return 0, skip
            return self._marks[mark], skip - skipped

    def _count_some(self, txn: ReadTxn) -> bool:
        """Counts studies behind the last one counted. Returns whether all are counted."""
        studies = self._environment.studies
        with txn.cursor(db=studies) as cursor:
            has_row = self._last_id < ID_MAX and cursor.set_range(keys.ID.pack(self._last_id + 1))
            for _ in range(COUNTED_AT_ONCE):
                if not has_row:
                    break
                self._last_id = keys.ID.unpack(cursor.key())[0]
                if self._count % EVERY == 0:
                    self._marks.append(self._last_id)
                self._count += 1
                has_row = cursor.next()
        if has_row:
            return False
        if self._count == txn.stat(studies)["entries"]:
            return True
        self._start()
        return False


_places: WeakKeyDictionary[Environment, ArrivalPlaces] = WeakKeyDictionary()
_places_lock = threading.Lock()


def arrival_places(environment: Environment) -> ArrivalPlaces:
    """The marks of this index."""
    with _places_lock:
        return _places.setdefault(environment, ArrivalPlaces(environment))
