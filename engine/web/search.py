"""A search, executed in slices, and the count of the matches behind its last row. Knows the archive, not sockets.

A slice ends after SLICE_S, and no read transaction is open between two slices. After the last row the search continues
until it is known whether there are more matches, and then for COUNT_S to count them, up to COUNT_MAX.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Final

from engine.archive.questions import Explanation, Match
from engine.web.errors import TooLarge

if TYPE_CHECKING:
    from engine.archive.supplies import Finder
    from engine.web.search_request import SearchRequest
    from engine.web.search_rows import Rows

SLICE_S: Final = 0.01
"""How long a thread works before the client and other requests get their turn."""
COUNT_MAX: Final = 1000
COUNT_S: Final = 0.001
"""Users want to know whether there are more matches than they see; the exact number matters little."""


class Search:
    """A search in progress: rows in slices, then a count of the matches behind them. For one thread at a time."""

    def __init__(self, finder: Finder, request: SearchRequest, rows: Rows, timeout_s: float) -> None:
        """Raises QueryError."""
        self.explanation = Explanation()
        self._limit = request.query.limit
        query = replace(request.query, count_max=0 if self._limit is None else COUNT_MAX + 1)
        self._steps: Iterator[Match | None] = finder.find_steps(query, self.explanation)
        self._rows = rows
        self._timeout_s = timeout_s
        self._work_s = 0.0
        self._row_count = 0
        self._is_exhausted = False
        self.is_over = False
        """Whether all rows and the count are complete."""

    @property
    def remaining(self) -> str:
        """How many matches are behind the last row; with a + if there may be more."""
        beyond = min(self.explanation.beyond, COUNT_MAX)
        return f"{beyond}" if self._is_exhausted and beyond == self.explanation.beyond else f"{beyond}+"

    def slice(self) -> list[bytes]:
        """The next rows. Raises TooLarge when the search takes too long."""
        start_s = perf_counter()
        new_rows = self._next_rows(start_s)
        self._work_s += perf_counter() - start_s
        if self._timeout_s and self._work_s > self._timeout_s and not self.is_over:
            raise TooLarge(f"the search was stopped after {self._timeout_s:g} s: narrow it")
        return new_rows

    def _next_rows(self, start_s: float) -> list[bytes]:
        new_rows: list[bytes] = []
        while self._limit is None or self._row_count < self._limit:
            match = next(self._steps, self)
            if match is self:
                self._is_exhausted = self.is_over = True
                return new_rows
            if isinstance(match, Match):
                new_rows.append(self._rows.encode(match))
                self._row_count += 1
            elif perf_counter() - start_s >= SLICE_S:
                return new_rows
        self._count(perf_counter())
        return new_rows

    def _count(self, start_s: float) -> None:
        """Counts until it is known whether there are more matches, and then a little further."""
        for _ in self._steps:
            seconds = perf_counter() - start_s
            if self.explanation.beyond and seconds >= COUNT_S:
                self.is_over = True
                return
            if seconds >= SLICE_S:
                return
        self._is_exhausted = self.is_over = True


class RemainingCounter:
    """Counts the matches beyond the limit of a search, before its rows are read."""

    def __init__(self, finder: Finder, request: SearchRequest, timeout_s: float) -> None:
        """Raises QueryError."""
        self._limit = request.query.limit or 0
        self._explanation = Explanation()
        self._timeout_s = timeout_s
        self._work_s = 0.0
        query = replace(request.query, limit=0, count_max=self._limit + COUNT_MAX + 1)
        self._steps = finder.find_steps(query, self._explanation)
        self.is_over = request.query.limit is None
        """Whether `remaining` is known; without a limit it is known from the start."""

    @property
    def remaining(self) -> str:
        """As in Search."""
        beyond = max(self._explanation.beyond - self._limit, 0)
        return f"{COUNT_MAX}+" if beyond > COUNT_MAX else str(beyond)

    def slice(self) -> None:
        """Counts for SLICE_S. Raises TooLarge when the count takes too long."""
        start_s = perf_counter()
        self.is_over = all(perf_counter() - start_s < SLICE_S for _ in self._steps)
        self._work_s += perf_counter() - start_s
        if self._timeout_s and self._work_s > self._timeout_s and not self.is_over:
            raise TooLarge(f"the search was stopped after {self._timeout_s:g} s: narrow it")
