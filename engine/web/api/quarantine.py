"""/api/quarantine: versions kept aside and refused data sets: list, compare, readmit, drop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from engine.access import FULL, Action
from engine.archive.admin import quarantine
from engine.web.api import reach
from engine.web.api.bodies import ReasonBody
from engine.web.api.json_bodies import answer, body_of, check_parameters, page, page_of

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


async def listed(request: Request) -> web.Response:
    """The items in quarantine, without attributes of the data sets."""
    check_parameters(request, ("limit", "offset"))
    limit, offset = page_of(request)

    def read() -> dict[str, Any]:
        # A refused data set has no study to judge it by.
        rows = quarantine.list_all(request.engine.archive) if request.scope(Action.QUERY) is FULL else iter(())
        return page("quarantine", rows, limit, offset)

    return answer(await request.engine.pools.index.run(read))


async def differences(request: Request) -> web.Response:
    """The elements that differ between a version and the current instance."""
    check_parameters(request)
    reach.everything(request, Action.RETRIEVE)
    work = partial(
        quarantine.differences,
        request.engine.archive,
        request.path_values["id"],
        reserve_bytes=request.config.limits.disk_reserve_bytes,
    )
    return answer({"differences": await request.engine.pools.slow.run(work)})


async def readmit(request: Request) -> web.Response:
    """Stores an item in the archive, or answers why it stays in quarantine."""
    await body_of(request, ReasonBody)
    reach.everything(request, Action.MANAGE)
    work = partial(
        quarantine.readmit,
        request.engine.archive,
        request.path_values["id"],
        policy=request.config.duplicates,
        actor=request.principal,
    )
    return answer(await request.engine.pools.slow.run(work))


async def drop(request: Request) -> web.Response:
    """Deletes an item; answers with its description."""
    body = await body_of(request, ReasonBody)
    reach.everything(request, Action.DELETE)
    work = partial(
        quarantine.drop,
        request.engine.archive,
        request.path_values["id"],
        actor=request.principal,
        reason=body.reason,
    )
    return answer(await request.engine.pools.slow.run(work))
