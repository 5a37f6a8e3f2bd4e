"""/api/holds: legal holds, set and released."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from engine.access import Action
from engine.archive.admin import holds
from engine.web.api import reach
from engine.web.api.bodies import Hold, Release
from engine.web.api.json_bodies import answer, body_of, check_parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from engine.web.request import Request


async def listed(request: Request) -> web.Response:
    """The current holds."""
    check_parameters(request)
    rows = await request.engine.pools.index.run(partial(holds.list_all, request.view(Action.QUERY)))
    return answer({"holds": rows})


async def hold(request: Request) -> web.Response:
    """Holds studies; answers with those that were not held before."""
    body = await body_of(request, Hold)
    return await _change(request, body.studies, body.reason, is_set=True, in_advance=body.in_advance)


async def release(request: Request) -> web.Response:
    """Ends holds; answers with the studies that were held."""
    body = await body_of(request, Release)
    return await _change(request, body.studies, body.reason, is_set=False)


async def _change(
    request: Request, studies: Sequence[str], reason: str, *, is_set: bool, in_advance: bool = False
) -> web.Response:
    view, archive, actor = request.view(Action.HOLD), request.engine.archive, request.principal

    def work() -> list[str]:
        reach.studies(view, studies)
        return holds.change(archive, studies, is_set=is_set, in_advance=in_advance, actor=actor, reason=reason)

    return answer({"changed": await request.engine.pools.slow.run(work)})
