"""Event streams (text/event-stream): who asks for one, and how its answer begins."""

from __future__ import annotations

from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from engine.web.request import Request

MEDIA_TYPE: Final = "text/event-stream"
_HEADERS: Final = {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""A proxy shall neither keep nor gather it."""


def is_wanted(request: Request) -> bool:
    """Whether the client wants a stream: EventSource asks for it, other clients ask for JSON or for anything."""
    accept = ",".join(request.headers.getall("Accept", ())).lower()
    return MEDIA_TYPE in accept and "application/json" not in accept


async def begin(request: Request, reconnect_ms: int, comment: str = "") -> web.StreamResponse:
    """Sends the head of the answer and the first lines; the head only for HEAD.

    `reconnect_ms`: after this time a client whose stream has ended connects again.
    """
    response = web.StreamResponse(status=HTTPStatus.OK, headers=_HEADERS)
    await response.prepare(request)
    request.stream_after_s = perf_counter() - request.began_at
    if not request.is_head:
        await response.write(b"retry: %d\n" % reconnect_ms + (f": {comment}\n".encode() if comment else b"") + b"\n")
    return response
