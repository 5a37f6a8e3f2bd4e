"""/api/log: the newest events of the log of all processes, which have no patient data.

    level=warning       that level or a more severe one       peer=CT1         an address, AE title or user
    event=refused       part of an event's text               since= until=    ISO 8601 in UTC, or its beginning
    text=1.2.840        part of the line                      before= after=   a cursor of an earlier answer

The newest event comes first. `older` is the cursor for the events before; `newest` that for events to come.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from engine import kept_log
from engine.access import Action
from engine.errors import RequestError
from engine.time_prefix import time_prefix
from engine.web.api import reach
from engine.web.api.json_bodies import ROWS_MAX, answer, check_parameters, number_of
from engine.web.route import Parameter

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request

TEXT_MAX: Final = 200

PARAMETERS: Final = (
    Parameter("level", "The least severe level", options=kept_log.LEVELS),
    Parameter("event", "Part of an event's text"),
    Parameter("text", "Part of the line"),
    Parameter("peer", "An address, AE title or user"),
    Parameter("since", "Not before this time: ISO 8601 in UTC, or its beginning"),
    Parameter("until", "Before this time"),
    Parameter("before", "`older` of an earlier answer"),
    Parameter("after", "`newest` of an earlier answer"),
    Parameter("limit", f"Maximum number of events, up to {ROWS_MAX}", schema="integer"),
)


async def listed(request: Request) -> web.Response:
    """One page of events. They name studies, so they are for who sees everything."""
    reach.everything(request, Action.MANAGE)
    check_parameters(request, [parameter.name for parameter in PARAMETERS])
    query = request.query
    condition = kept_log.Filter(
        level=_level(query.get("level", "debug")),
        text=_text(request, "text"),
        event=_text(request, "event"),
        peer=_text(request, "peer"),
        since=time_of(request, "since"),
        until=time_of(request, "until"),
    )
    limit = number_of(request, "limit", 200, ROWS_MAX)
    read = partial(
        kept_log.read,
        request.config.data,
        condition,
        limit,
        before=query.get("before", ""),
        after=query.get("after", ""),
    )
    try:
        page = await request.engine.pools.reads.run(read)
    except ValueError as error:
        raise RequestError(f"before, after: {error}") from None
    is_kept = bool(request.config.log.kept_bytes)
    return answer({"events": page.events, "older": page.older, "newest": page.newest, "is_kept": is_kept})


def _level(text: str) -> str:
    if text not in kept_log.LEVELS:
        raise RequestError(f"level: is not one of {', '.join(kept_log.LEVELS)}")
    return text


def _text(request: Request, name: str) -> str:
    text = request.query.get(name, "")
    if len(text) > TEXT_MAX:
        raise RequestError(f"{name}: is longer than {TEXT_MAX} characters")
    return text


def time_of(request: Request, name: str) -> str:
    """A time, or the beginning of one. Raises RequestError."""
    try:
        return time_prefix(request.query.get(name, ""))
    except ValueError as error:
        raise RequestError(f"{name}: {error}") from None
