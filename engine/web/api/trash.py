"""/api/trash: what was deleted and can be taken back: list, restore, empty."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from engine.access import FULL, Action
from engine.archive.admin import trash
from engine.errors import RequestError
from engine.web.api import reach
from engine.web.api.bodies import EmptyTrash, Restore
from engine.web.api.json_bodies import answer, body_of, check_parameters, page, page_of, switch_of

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


async def listed(request: Request) -> web.Response:
    """The entries, the latest first, and for how many days they are kept."""
    check_parameters(request, ("values", "limit", "offset"))
    limit, offset = page_of(request)
    days = request.config.deletion.trash_days
    rows = trash.list_all(request.engine.archive, days, values=switch_of(request, "values"))

    if request.scope(Action.RESTORE) is not FULL:
        rows = iter(())  # nobody can tell in whose scope a deleted study was

    def read() -> dict[str, Any]:
        return {**page("trash", rows, limit, offset), "days": days}

    return answer(await request.engine.pools.index.run(read))


async def restore(request: Request) -> web.Response:
    """Restores an entry, or one series of it; answers with the number of instances."""
    body = await body_of(request, Restore)
    reach.everything(request, Action.RESTORE)
    work = partial(
        trash.restore,
        request.engine.archive,
        request.path_values["number"],
        series_instance_uid=body.series or "",
        actor=request.principal,
        reason=body.reason,
    )
    return answer(await request.engine.pools.slow.run(work))


async def empty(request: Request) -> web.Response:
    """Deletes entries for good: those named, or all."""
    body = await body_of(request, EmptyTrash)
    reach.everything(request, Action.EMPTY)
    if bool(body.entries) == body.everything:
        raise RequestError("name either entries, or everything")
    entries = None if body.everything else body.entries
    work = partial(trash.empty, request.engine.archive, entries, actor=request.principal, reason=body.reason)
    return answer(await request.engine.pools.slow.run(work))
