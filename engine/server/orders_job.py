"""The caretaker's job for the registry of orders: links studies, forgets workitems, compacts the state log."""

from __future__ import annotations

import threading
import time
from typing import Final

from engine.archive.archive import Archive
from engine.archive.feed.destinations import Standing
from engine.archive.hospital import has_orders, open_orders
from engine.archive.order_links import OrderLinks
from engine.config import Config
from engine.orders.registry import Orders
from engine.orders.stations import Stations
from engine.orders.work import KINDS_OF
from engine.orders.workitems.store import Workitems

MORE_S: Final = 0.05
REST_S: Final = 5.0
"""The pause until the next look at the feed; a study is told of a minute after its last instance."""
COMPACTION_S: Final = 3600.0
FIRST_COMPACTION_S: Final = 60.0
"""After the start, so that a server that is started again each hour compacts too."""


def oldest_of(standing: Standing) -> int:
    """The id before everything that a receiver of announcements still needs, also what was set aside for it."""
    cursors = [standing.cursor, *(each.at for each in standing.skipped)]
    return min((int(cursor) for cursor in cursors if cursor.isdecimal()), default=0)


class OrdersJob:
    """Opens the registry at the first step after somebody has made it: an archive without orders has none."""

    name = "orders"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._archive = archive
        self._config = config
        self._orders: Orders | None = None
        self._links = OrderLinks(archive)
        self._compacts_at = time.monotonic() + FIRST_COMPACTION_S
        self._compactions = 0

    def configure(self, config: Config) -> None:
        """Applies from the next step on."""
        self._config = config

    def step(self) -> float:
        """Handles a page of the feed, and once an hour looks at the state log."""
        if self._orders is None:
            if not has_orders(self._archive):
                return REST_S
            self._orders = open_orders(self._archive, Stations(lambda: self._config))
            Workitems(self._orders).restarted()
        is_more = self._links.follow(self._orders, completes=self._config.worklist.arrival == "complete")
        if time.monotonic() >= self._compacts_at:
            self._compacts_at = time.monotonic() + COMPACTION_S
            Workitems(self._orders).forget(self._config.worklist.workitems_kept_h * 3600)
            self._forget(self._orders)
            self._compactions += self._orders.compact()
        return MORE_S if is_more else REST_S

    def _forget(self, orders: Orders) -> None:
        """Removes the announcements that every receiver of the rules in force has."""
        outbox = self._archive.outbox()
        names = [f"rule:{rule.name}:{to}" for rule in self._config.rules if rule.after in KINDS_OF for to in rule.to]
        positions = [0 if (standing := outbox.load(name)) is None else oldest_of(standing) for name in names]
        orders.forget_announcements(min(positions, default=orders.last_id()))

    def stats(self) -> dict[str, object]:
        """Since the start."""
        return {"studies": self._links.studies, "compactions": self._compactions}
