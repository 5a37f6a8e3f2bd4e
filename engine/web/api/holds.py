"""/api/holds: legal holds, set and released."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from engine.archive.admin import holds
from engine.web.api.bodies import Hold, Release
from engine.web.api.json_bodies import answer, body_of, check_parameters

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


async def listed(request: Request) -> web.Response:
    """The current holds."""
    check_parameters(request)
    rows = await request.engine.pools.index.run(partial(holds.list_all, request.engine.archive))
    return answer({"holds": rows})


async def hold(request: Request) -> web.Response:
    """Holds studies; answers with those that were not held before."""
    body = await body_of(request, Hold)
    work = partial(
        holds.change,
        request.engine.archive,
        body.studies,
        is_set=True,
        in_advance=body.in_advance,
        actor=request.principal,
        reason=body.reason,
    )
    return answer({"changed": await request.engine.pools.slow.run(work)})


async def release(request: Request) -> web.Response:
    """Ends holds; answers with the studies that were held."""
    body = await body_of(request, Release)
    work = partial(
        holds.change,
        request.engine.archive,
        body.studies,
        is_set=False,
        actor=request.principal,
        reason=body.reason,
    )
    return answer({"changed": await request.engine.pools.slow.run(work)})
