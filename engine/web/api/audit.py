"""/api/audit: the audit log, the newest event first; and whether it is as it was written.

    user=ann      a user, AE title or address      kind=sent          study=UID     text=…    since=, until=  ISO 8601
    patient=P1    a Patient ID                     outcome=failure    before=       `older` of an earlier answer

`older` leads to the events before. A page may have fewer events than `limit`, or none, when few of many match. The
first page of a search is recorded in the audit log itself.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from engine import audit, guards
from engine.audit import Event, Kind
from engine.audit.search import Condition, search
from engine.audit.verify_process import run
from engine.errors import RequestError
from engine.web.api.json_bodies import ROWS_MAX, answer, check_parameters, number_of
from engine.web.api.log import time_of
from engine.web.route import Parameter

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from aiohttp import web

    from engine.web.request import Request

TEXT_MAX: Final = 200
_TEXTS: Final = ("user", "patient", "study", "text")

PARAMETERS: Final = (
    Parameter("kind", "Only these events", options=tuple(kind.value for kind in Kind)),
    Parameter("user", "A user, AE title or address"),
    Parameter("patient", "A Patient ID"),
    Parameter("study", "A Study Instance UID"),
    Parameter("text", "Text somewhere in the event"),
    Parameter("outcome", "failure: only what did not succeed", options=("failure",)),
    Parameter("since", "Not before this time: ISO 8601 in UTC, or its beginning"),
    Parameter("until", "Before this time"),
    Parameter("before", "`older` of an earlier answer"),
    Parameter("limit", f"Maximum number of events, up to {ROWS_MAX}", schema="integer"),
)


async def listed(request: Request) -> web.Response:
    """One page of events."""
    check_parameters(request, [parameter.name for parameter in PARAMETERS])
    query = request.query
    kind, outcome = query.get("kind", ""), query.get("outcome", "")
    if kind and kind not in {each.value for each in Kind}:
        raise RequestError("kind: there are no such events")
    if outcome not in ("", "failure"):
        raise RequestError("outcome: must be failure")
    texts = {name: query.get(name, "") for name in _TEXTS}
    if too_long := [name for name, text in texts.items() if len(text) > TEXT_MAX]:
        raise RequestError(f"{too_long[0]}: is longer than {TEXT_MAX} characters")
    condition = Condition(
        kind=kind, outcome=outcome, since=time_of(request, "since"), until=time_of(request, "until"), **texts
    )
    before = query.get("before", "")
    if not before:
        await _record(request, "search", condition.summary)
    work = partial(search, request.config.data, condition, number_of(request, "limit", 100, ROWS_MAX), before)
    try:
        page = await request.engine.pools.slow.run(work)
    except ValueError as error:
        raise RequestError(f"before: {error}") from None
    return answer({"events": page.events, "older": page.older, "is_kept": audit.is_on()})


async def verified(request: Request) -> web.Response:
    """Whether the log is as it was written; requests at the same time share one verification."""
    check_parameters(request)
    await _record(request, "verify", "")
    return answer(await asyncio.shield(_verification(request.config.data)))


_running: dict[Path, asyncio.Task[dict[str, Any]]] = {}


def _verification(data: Path) -> asyncio.Task[dict[str, Any]]:
    """The verification of a log that runs, or a new one."""
    task = _running.get(data)
    if task is None:
        task = _running[data] = guards.watch(asyncio.get_running_loop().create_task(run(data)), "audit verification")
        task.add_done_callback(lambda _: _running.pop(data, None))
    return task


async def _record(request: Request, action: str, detail: str) -> None:
    event = Event(kind=Kind.AUDIT_READ, principal=request.principal, action=f"page: {action}", detail=detail)
    await audit.begin(event)
