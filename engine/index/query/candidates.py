"""The patients or studies that a query looks at, in the order of arrival, and below them what may be left out.

`access` finds them, `walk` goes to each. Ids may be found while the walk goes on: an id below zero says that there are
none up to it, and that this is a place to stop at.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from engine.index.query.scope import Scope


class Ids(Protocol):
    """Ids of patients or studies."""

    def after(self, scope: Scope, number: int) -> Iterator[int]:
        """Those above `number`, ascending; negative: there are none up to there, a place to stop at."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Ids that are known one by one."""

    ids: array[int]
    """Ascending."""

    def after(self, scope: Scope, number: int) -> Iterator[int]:
        """Those above `number`."""
        return islice(self.ids, bisect_right(self.ids, number), None)


def ascending(ids: Iterable[int]) -> array[int]:
    """Ids in their order, four bytes each."""
    return array("I", sorted(ids))


@dataclass(slots=True)
class Candidates:
    """What a walk goes to."""

    tops: Ids | None = None
    """Patients or studies; None: all."""
    series_of: dict[bytes, list[bytes]] | None = None
    """Study id → series ids, ascending, where what is asked is found in no other series; None: any."""
    instances: dict[bytes, list[bytes]] | None = None
    """Series id → keys in `instances`, where SOP Instance UIDs are asked for."""
