"""One search under way, in slices, and the count of what is behind its last row. Knows the archive, and no sockets.

A slice ends after SLICE_S, and no read transaction is open between two of them. When all rows are there, it goes on
until it is known whether there are more matches, and COUNT_S further to count them, up to COUNT_MAX.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Final

from engine.archive.questions import Explanation, Match
from engine.web.errors import TooLarge

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.web.search_request import SearchRequest
    from engine.web.search_rows import Rows

SLICE_S: Final = 0.01
"""How long a thread works before the client and others are looked at."""
COUNT_MAX: Final = 1000
COUNT_S: Final = 0.001
"""People want to know whether there are more matches than they see; how many more than that matters little."""


class Search:
    """One search under way: rows in slices, then a count of what is behind them. For one thread at a time."""

    def __init__(self, archive: Archive, asked: SearchRequest, rows: Rows, timeout_s: float) -> None:
        """Raises QueryError."""
        self.explanation = Explanation()
        self._limit = asked.query.limit
        query = replace(asked.query, count_max=0 if self._limit is None else COUNT_MAX + 1)
        self._steps: Iterator[Match | None] = archive.find_steps(query, self.explanation)
        self._rows = rows
        self._timeout_s = timeout_s
        self._worked_s = 0.0
        self._row_count = 0
        self._is_exhausted = False
        self.is_over = False
        """Whether there are all rows, and a count."""

    @property
    def remaining(self) -> str:
        """How many matches are behind the last row; with a + where it may be more."""
        beyond = min(self.explanation.beyond, COUNT_MAX)
        return f"{beyond}" if self._is_exhausted and beyond == self.explanation.beyond else f"{beyond}+"

    def slice(self) -> list[bytes]:
        """The next rows. Raises TooLarge when the search has worked too long."""
        began = perf_counter()
        found = self._next_rows(began)
        self._worked_s += perf_counter() - began
        if self._timeout_s and self._worked_s > self._timeout_s and not self.is_over:
            raise TooLarge(f"the search was stopped after {self._timeout_s:g} s: narrow it")
        return found

    def _next_rows(self, began: float) -> list[bytes]:
        found: list[bytes] = []
        while self._limit is None or self._row_count < self._limit:
            match = next(self._steps, self)
            if match is self:
                self._is_exhausted = self.is_over = True
                return found
            if isinstance(match, Match):
                found.append(self._rows.encoded(match))
                self._row_count += 1
            elif perf_counter() - began >= SLICE_S:
                return found
        self._count(perf_counter())
        return found

    def _count(self, began: float) -> None:
        """Until it is known whether there are more, and then a little further."""
        for _ in self._steps:
            seconds = perf_counter() - began
            if self.explanation.beyond and seconds >= COUNT_S:
                self.is_over = True
                return
            if seconds >= SLICE_S:
                return
        self._is_exhausted = self.is_over = True


class Counting:
    """How many matches a search with a limit will leave, before its rows are made."""

    def __init__(self, archive: Archive, asked: SearchRequest, timeout_s: float) -> None:
        """Raises QueryError."""
        self._limit = asked.query.limit or 0
        self._explanation = Explanation()
        self._timeout_s = timeout_s
        self._worked_s = 0.0
        query = replace(asked.query, limit=0, count_max=self._limit + COUNT_MAX + 1)
        self._steps = archive.find_steps(query, self._explanation)
        self.is_over = asked.query.limit is None
        """Whether `remaining` is known; without a limit it is from the start."""

    @property
    def remaining(self) -> str:
        """As of Search."""
        beyond = max(self._explanation.beyond - self._limit, 0)
        return f"{COUNT_MAX}+" if beyond > COUNT_MAX else str(beyond)

    def slice(self) -> None:
        """Counts on. Raises TooLarge when it has worked too long."""
        began = perf_counter()
        self.is_over = all(perf_counter() - began < SLICE_S for _ in self._steps)
        self._worked_s += perf_counter() - began
        if self._timeout_s and self._worked_s > self._timeout_s and not self.is_over:
            raise TooLarge(f"the search was stopped after {self._timeout_s:g} s: narrow it")
