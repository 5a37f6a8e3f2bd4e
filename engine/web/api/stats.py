"""/api/stats: what all processes of the server have done since they started, as `filmroom stats` has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.web.api.json_bodies import answer, check_parameters
from engine.web.errors import Unavailable

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


async def now(request: Request) -> web.Response:
    """The figures of all processes, whichever worker is asked."""
    check_parameters(request)
    found = await request.host_front.server_stats()
    if not found:
        raise Unavailable("the supervisor does not answer")
    return answer(found)
