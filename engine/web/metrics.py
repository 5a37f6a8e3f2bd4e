"""/metrics: the metrics of all processes of the server, in the text format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from engine import prometheus
from engine.web.errors import Unavailable

if TYPE_CHECKING:
    from engine.web.request import Request

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def metrics(request: Request) -> web.Response:
    """Sends the metrics of all workers; every worker can answer."""
    answer = await request.host_front.server_stats()
    if not answer:
        raise Unavailable("the supervisor does not answer")
    text = prometheus.text_of(answer.get("archive", {}), answer)
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
