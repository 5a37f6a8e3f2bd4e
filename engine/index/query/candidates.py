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


class Ids(Protocol):
    """Ids of patients or studies."""

    def after(self, reading: Reading, number: int) -> Iterator[int]:
        """The ids above `number`, ascending. Negative ones mark places to pause: see above."""


@dataclass(frozen=True, slots=True)
class IdList:
    """A list of ids."""

    ids: array[int]
    """Ascending."""

    def after(self, reading: Reading, number: int) -> Iterator[int]:
        """The ids above `number`."""
        return islice(self.ids, bisect_right(self.ids, number), None)


def ascending(ids: Iterable[int]) -> array[int]:
    """Sorted ids, four bytes each."""
    return array("I", sorted(ids))


@dataclass(slots=True)
class Candidates:
    """The candidates that a walk visits."""

    tops: Ids | None = None
    """Patients or studies; None: all."""
    series_of: dict[bytes, list[bytes]] | None = None
    """Study id → series ids, ascending, if no other series can match; None: any series."""
    instances: dict[bytes, list[bytes]] | None = None
    """Series id → keys in `instances`, if the query names SOP Instance UIDs."""
