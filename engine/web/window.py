"""A window of studies in an order, and the number of all that match. Knows the archive, not sockets.

A search works in slices of SLICE_S, so that other requests get their turn. A window ends after WINDOW_S of work, with
fewer studies than requested or none: only `is_complete` says that there are no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

from engine.access import FULL
from engine.archive.questions import Bookmark, Explanation, Match, PlacedMatch
from engine.web.errors import TooLarge

if TYPE_CHECKING:
    from engine.archive.questions import Query
    from engine.archive.view import View
    from engine.web.request import Request

WINDOW_S: Final = 0.5
COUNT_MAX: Final = 100_000
COUNT_S: Final = 0.2
SLICE_S: Final = 0.01
"""How long a thread works before other requests get their turn."""


@dataclass(slots=True)
class Window:
    """The search for one window, for one thread at a time."""

    steps: Iterator[PlacedMatch | Bookmark | None]
    limit: int
    add: Callable[[Match], None]
    """Takes each study."""
    count: int = 0
    last: Bookmark | None = None
    """Where the next window begins."""
    has_more: bool = False
    is_over: bool = False
    work_s: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether no study is behind the window."""
        return self.is_over and not self.has_more

    async def search(self, request: Request) -> None:
        """Searches until the window is full. Raises TooLarge when the search takes too long."""
        timeout_s = request.config.limits.query_timeout_s
        while not self.is_over and (self.last is None or self.work_s < WINDOW_S):
            await request.engine.pools.index.run(self.slice)
            if timeout_s and self.work_s > timeout_s and self.last is None:
                raise TooLarge(f"the search was stopped after {timeout_s:g} s: narrow it")

    def slice(self) -> None:
        """Searches for SLICE_S."""
        start_s = perf_counter()
        for step in self.steps:
            if isinstance(step, PlacedMatch):
                if self.count == self.limit:
                    self.has_more = self.is_over = True
                    return
                self.count += 1
                self.add(step.match)
                self.last = step.place
                continue
            self.last = step or self.last
            if perf_counter() - start_s >= SLICE_S:
                self.work_s += perf_counter() - start_s
                return
        self.is_over = True


async def count_of(request: Request, view: View, query: Query) -> tuple[int, bool]:
    """How many entities match, and whether that is exact: it is as far as COUNT_S of work allow to count."""
    pools = request.engine.pools
    if view.scope is FULL and not any(query.keys.values()):
        stats = await pools.index.run(request.engine.archive.stats)
        return stats["studies"], True
    explanation = Explanation()
    steps = view.find_steps(replace(query, limit=0, count_max=COUNT_MAX), explanation)
    work_s, is_over = 0.0, False
    while not is_over and work_s < COUNT_S:
        start_s = perf_counter()
        is_over = await pools.index.run(partial(_count, steps, start_s))
        work_s += perf_counter() - start_s
    return explanation.beyond, is_over and explanation.beyond < COUNT_MAX


def _count(steps: Iterator[object], start_s: float) -> bool:
    return all(perf_counter() - start_s < SLICE_S for _ in steps)
