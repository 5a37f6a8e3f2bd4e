"""The candidates of a query: patients or studies in the order of arrival, and the series and instances below them.

`access` finds them, `walk` visits each. Ids may be found during the walk: a negative id -n means that there are no
more ids up to n, and that the search may pause here.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from engine.index.query.reading import Reading

LOOKED_UP_MAX = 2000
"""Studies looked up in one read transaction: some milliseconds."""


class Ids(Protocol):
    """Ids of patients or studies."""

    def after(self, reading: Reading, number: int) -> Iterator[int]:
        """The ids above `number`, ascending. Negative ones mark places to pause: see above."""


@dataclass(frozen=True, slots=True)
class IdList:
    """A list of ids."""

    ids: array[int]
    """Ascending."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.ids)

    def after(self, reading: Reading, number: int) -> Iterator[int]:
        """The ids above `number`."""
        return islice(self.ids, bisect_right(self.ids, number), None)


class Known(Protocol):
    """Studies among which one can be looked up."""

    @property
    def count(self) -> int:
        """How many there are, or more."""

    def admits(self, reading: Reading, number: int) -> bool:
        """Whether a study is among them."""

    def are_admitted(self, reading: Reading) -> bool:
        """Whether all of them are in scope in this transaction."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """Those studies of a list that are among others."""

    ids: array[int]
    """Ascending."""
    among: Known

    @property
    def count(self) -> int:
        """How many there are, or more."""
        return min(len(self.ids), self.among.count)

    def after(self, reading: Reading, number: int) -> Iterator[int]:
        """The ids above `number`."""
        for count, each in enumerate(islice(self.ids, bisect_right(self.ids, number), None), 1):
            if self.among.admits(reading, each):
                yield each
            elif not count % LOOKED_UP_MAX:
                yield -each


def ascending(ids: Iterable[int]) -> array[int]:
    """Sorted ids, four bytes each."""
    return array("I", sorted(ids))


@dataclass(slots=True)
class Candidates:
    """The candidates that a walk visits."""

    tops: Ids | None = None
    """Patients or studies; None: all."""
    among: Known | None = None
    """The studies of the scope, if all tops are among them."""
    series_of: dict[bytes, list[bytes]] | None = None
    """Study id → series ids, ascending, if no other series can match; None: any series."""
    instances: dict[bytes, list[bytes]] | None = None
    """Series id → keys in `instances`, if the query names SOP Instance UIDs."""
