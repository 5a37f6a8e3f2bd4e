"""/api/stats: the statistics of all processes since they started, as in `filmroom stats`.

/api/stats            now
/api/stats/history    step=minute: the last day; step=hour (the default): the last 90 days. since=SECONDS since 1970
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from engine.archive.stats_history import COLUMNS, HOUR_S, MINUTE_S
from engine.errors import RequestError
from engine.web.api.json_bodies import answer, check_parameters, number_of
from engine.web.errors import Unavailable

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


async def now(request: Request) -> web.Response:
    """The statistics of all processes, whichever worker answers."""
    check_parameters(request)
    stats = await request.host_front.server_stats()
    if not stats:
        raise Unavailable("the supervisor does not answer")
    return answer(stats)


_STEPS = {"minute": MINUTE_S, "hour": HOUR_S}


async def history(request: Request) -> web.Response:
    """The statistics of each minute or hour: columns and rows, oldest first."""
    check_parameters(request, ("step", "since"))
    step = request.query.get("step", "hour")
    if step not in _STEPS:
        raise RequestError(f"step: is not one of {', '.join(_STEPS)}")
    since_s = number_of(request, "since", 0, 1 << 40)
    read = partial(request.engine.archive.stats_history().rows, _STEPS[step], since_s)
    rows = await request.engine.pools.reads.run(read)
    return answer(
        {"step_s": _STEPS[step], "columns": ["time", *COLUMNS], "rows": [[time_s, *row] for time_s, row in rows]}
    )
