"""What routes and rules would have done with the events that the feed still has. Nothing is sent, no position moves.

Conditions are asked of the archive as it is now: a study that has been deleted since, or corrected, counts as it is.
Rules about performed steps are not tried, since steps are kept only for rules that are in force, and rules about
messages neither: `filmroom hl7 journal` lists those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engine.archive.feed.event import DELETED, unix_s
from engine.errors import NotStored
from engine.exchange.matching import KINDS, matching, uids_of
from engine.exchange.settings import Route, Rule
from engine.orders.work import KINDS_OF

if TYPE_CHECKING:
    from engine.archive.feed.event import Event
    from engine.archive.feed.subscription import Feed, Page
    from engine.exchange.matching import Place


def trial(place: Place, feed: Feed, *, name: str = "", since_s: float = 0.0) -> Iterator[dict[str, Any]]:
    """One row for each event, rule and receiver. `name`: only this rule or route. `since_s`: only later events.

    Raises NotStored if there is no rule of that name, FeedError, QueryError.
    """
    tables: list[Route | Rule] = [*place.config.routes, *place.config.rules]
    tables = [table for table in tables if not name or table.name == name]
    tables = [table for table in tables if table.after not in KINDS_OF and table.after != "message"]
    if name and not tables:
        raise NotStored(f"there is no [[rule]] or [[route]] {name} that can be tried")
    cursor = feed.oldest()
    while True:
        page = feed.read(cursor)
        for table in tables:
            yield from _of_page(place, table, page, since_s)
        if not page.lines:
            return
        cursor = page.cursor


def _of_page(place: Place, table: Route | Rule, page: Page, since_s: float) -> Iterator[dict[str, Any]]:
    events = [event for event in page.events_of(table.after) if unix_s(event.time) >= since_s]
    action = "send" if isinstance(table, Route) else table.action
    for to in table.peers if isinstance(table, Route) else table.to:
        if table.after == DELETED:
            chosen = {event.study_instance_uid for event in events if event.trash}
            attribute = "study_instance_uid"
        else:
            attribute = KINDS[table.after].name
            aet = "" if action in ("hl7", "workitem") else to
            is_rule = isinstance(table, Rule)
            chosen = set(matching(place, table, uids_of(events, table.after), aet, also_own=is_rule) if events else ())
        yield from (_row(table, action, to, event) for event in events if getattr(event, attribute) in chosen)


def _row(table: Route | Rule, action: str, to: str, event: Event) -> dict[str, Any]:
    return {
        "time": event.time,
        "event": event.action,
        "rule": table.name,
        "action": action,
        "to": to,
        "study_instance_uid": event.study_instance_uid,
        "series_instance_uid": event.series_instance_uid,
        "sop_instance_uid": event.sop_instance_uid,
    }
