"""The headers of a request that is answered without a task: whose it is, and what each answer to it says.

They are evaluated by the same functions as for other requests, on a `Request` made from the same message. A client
sends the same headers with each request, so that a connection keeps the last terms (`quick_frames`, `quick_stores`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import web
from aiohttp.http import HttpVersion11

from engine.web import cors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.http_parser import RawRequestMessage

    from engine.access import Principal
    from engine.accounts.proof import Proof
    from engine.runtime.engine import Engine
    from engine.web.authentication import Authentication
    from engine.web.request import Request
    from engine.web.settings import Http

_UNUSUAL: Final = ("Expect", "Content-Encoding", "Transfer-Encoding", "X-Request-ID")
"""Headers that ask for more, or differ with each request."""


class Host(Protocol):
    """What is needed of the front."""

    engine: Engine
    authentication: Authentication
    is_draining: bool

    def request_of(self, message: RawRequestMessage, connection: Any) -> Request:
        """The request as other handlers see it."""

    def check_host(self, request: Request, settings: Http) -> None:
        """Raises HttpError for a name that is not ours."""

    def finish_headers(self, request: Request, response: web.StreamResponse) -> None:
        """Adds the headers that every answer has."""

    def next_request_id(self) -> str:
        """A new request ID."""


@dataclass(slots=True)
class Terms:
    """The evaluated headers of requests on one connection."""

    raw_headers: tuple[tuple[bytes, bytes], ...]
    """Those that were evaluated."""
    settings: Http
    """In force when they were."""
    client: str
    principal: Principal
    proof: Proof | None
    """The session that proves it."""
    root: str
    """The beginning of URLs in answers."""

    @property
    def may_be_kept(self) -> bool:
        """Whether they hold for the next request too: a token of an identity provider is verified again and again."""
        return self.principal.until_s is None


def goes_on(message: RawRequestMessage) -> bool:
    """Whether the connection goes on after the request. Ask it for each: the version is in no header."""
    return message.version == HttpVersion11 and not message.should_close


def is_usual(message: RawRequestMessage, unusual: tuple[str, ...] = ()) -> bool:
    """Whether a request has none of the `unusual` headers, and none that ask for more than an answer."""
    if message.upgrade or message.chunked:
        return False
    headers = message.headers
    return not any(name in headers for name in _UNUSUAL) and not any(name in headers for name in unusual)


def request_of(host: Host, message: RawRequestMessage, connection: Any, settings: Http) -> tuple[Request, Proof | None]:
    """The request, and the session that proves whose it is. Raises EngineError if `front` must answer."""
    request = host.request_of(message, connection)
    host.check_host(request, settings)
    cors.check(request, settings)
    return request, host.authentication.identify_at_once(request)


def lines_of(host: Host, request: Request, headers: Mapping[str, str]) -> str:
    """The header lines of every answer: these, and those that all answers have, without X-Request-ID."""
    response = web.StreamResponse(headers=headers)
    host.finish_headers(request, response)
    del response.headers["X-Request-ID"]
    return "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
