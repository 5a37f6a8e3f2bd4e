"""What a follower reads: pages of units, each with the cursors before and after it.

A cursor is text that only its source understands. A unit is what is handed over, repeated and skipped as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from engine.archive.feed.cursor import Cursor
from engine.archive.feed.event import action_of
from engine.archive.feed.subscription import PAGE_EVENTS

if TYPE_CHECKING:
    from engine.archive.feed.subscription import Feed

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class Unit(Generic[Content]):
    """What is handed over at once."""

    content: Content
    before: str
    """A read from this cursor begins with this unit."""
    after: str
    count: int = 1
    """Number of events in it."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Content]):
    """Some units in order, and the cursor after them and whatever was passed over."""

    units: Sequence[Unit[Content]]
    cursor: str
    is_end: bool
    """Whether nothing follows yet."""


class Source(Protocol[Content]):
    """A sequence that grows, or does not exist yet. All but `changed` is called in threads, one call at a time."""

    def newest(self) -> str:
        """The cursor after everything. Raises FeedMissing, EngineError."""

    def oldest(self) -> str:
        """The cursor before everything that is kept. Raises as `newest`."""

    def read(self, cursor: str) -> Page[Content]:
        """What follows a cursor. Raises CursorRefused if nobody knows any more, FeedMissing, EngineError."""

    def changed(self) -> asyncio.Future[None]:
        """Done when something is added after this call; on the loop's thread."""

    def close(self) -> None:
        """Frees its resources."""


class FeedLines:
    """The change feed: the wanted events of a page are one unit, or each is one."""

    def __init__(
        self,
        feed: Feed,
        changed: Callable[[], asyncio.Future[None]],
        actions: Sequence[str],
        *,
        events_max: int = PAGE_EVENTS,
        is_single: bool = False,
        is_wanted: Callable[[bytes], bool] = lambda _: True,
    ) -> None:
        """`actions`: what is wanted; empty: everything. `is_single`: each event is a unit. `is_wanted` judges further,
        by the line of an event."""
        self._feed = feed
        self._actions = frozenset(actions)
        self._events_max = events_max
        self._is_single = is_single
        self._is_wanted = is_wanted
        self.changed = changed

    def newest(self) -> str:
        """The cursor after the last event."""
        return str(self._feed.newest())

    def oldest(self) -> str:
        """The cursor before the first kept event."""
        return str(self._feed.oldest())

    def read(self, cursor: str) -> Page[list[bytes]]:
        """The events after a cursor, as lines of JSON."""
        page = self._feed.read(Cursor.parse(cursor), self._events_max)
        after = str(page.cursor)
        wanted = [
            number
            for number, line in enumerate(page.lines)
            if (not self._actions or action_of(line) in self._actions) and self._is_wanted(line)
        ]
        units = []
        if self._is_single:
            befores = [cursor if not number else str(page.cursor_at(number - 1)) for number in wanted]
            units = [
                Unit([page.lines[number]], before, str(page.cursor_at(number)))
                for number, before in zip(wanted, befores, strict=True)
            ]
        elif wanted:
            units = [Unit([page.lines[number] for number in wanted], cursor, after, len(wanted))]
        return Page(units, after, is_end=not page.lines)

    def close(self) -> None:
        """Closes its descriptors."""
        self._feed.close()
