"""Liveness and readiness of this server, for process managers and load balancers.

    /health/live     200 as long as the event loop of a worker answers
    /health/ready    200, or 503 while requests should go elsewhere; `problems` lists the reasons and other problems

A state that refuses only new instances (disk, memory, sync latency) is a problem, but no reason for 503.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from engine.errors import CatalogBehind, ClusterUnreachable

if TYPE_CHECKING:
    from engine.web.request import Request

ROOT = "/health/"
"""The beginning of their paths. They count toward no limit."""
JSON = "application/json"
NO_STORE = {"Cache-Control": "no-store"}


async def live(request: Request) -> web.Response:
    """Answers that this worker is alive."""
    return web.Response(body=b'{"status":"live"}', content_type=JSON, headers=NO_STORE)


async def ready(request: Request) -> web.Response:
    """Answers whether this worker is ready."""
    engine = request.engine
    engine.admission.look()
    reasons = [f"every thread of the pool {pool.name} is busy" for pool in engine.pools if pool.is_stuck]
    try:
        await engine.caught_up()
    except (CatalogBehind, ClusterUnreachable):
        reasons.append("it is not known here what other nodes have stored")
    problems = list(reasons)
    if engine.admission.reason is not None:
        problems.append(f"new instances are refused: {engine.admission.reason.value}")
    if engine.archive.is_read_only:
        problems.append("new instances are refused: the archive is read-only")
    status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    body = {"status": "not ready" if reasons else "ready", "problems": problems}
    return web.Response(status=status, body=orjson.dumps(body), content_type=JSON, headers=NO_STORE)
