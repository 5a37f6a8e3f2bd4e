"""What the registry of orders announces, as a source of the outbox: performed steps, and new orders.

The cursor is the id of the last announcement that was read. A change of the log wakes the follower; the transaction may
be committed a moment later, so a page without rows is read again when nobody writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from engine.errors import CursorRefused
from engine.outbox.source import Page, Unit

if TYPE_CHECKING:
    from engine.orders.registry import Orders
    from engine.orders.rows import AnnouncementRow

PAGE_ROWS: Final = 200


class Announcements:
    """The announcements of some kinds (`outbox.source.Source`); each is a unit."""

    def __init__(
        self, orders: Callable[[], Orders], changed: Callable[[], asyncio.Future[None]], kinds: Sequence[str]
    ) -> None:
        self._orders = orders
        self._kinds = frozenset(kinds)
        self.changed = changed

    def newest(self) -> str:
        """The cursor after everything."""
        return str(self._orders().last_id())

    def oldest(self) -> str:
        """The cursor before everything that is kept."""
        return "0"

    def read(self, cursor: str) -> Page[AnnouncementRow]:
        """What follows a cursor. Raises CursorRefused, OrdersError."""
        if not cursor.isdecimal():
            raise CursorRefused(f"{cursor[:40]!r} is no cursor of announcements")
        after = int(cursor)
        rows = self._orders().announcements(after, PAGE_ROWS) or self._orders().announcements(
            after, PAGE_ROWS, settled=True
        )
        units, before = [], cursor
        for number, row in rows:
            if row.kind in self._kinds:
                units.append(Unit(row, before, str(number)))
            before = str(number)
        return Page(units, before, is_end=not rows)

    def close(self) -> None:
        """Does nothing: the registry is the process's."""
