"""Cross-Origin Resource Sharing: decides which web pages may use this server through a browser.

    no Origin header              not a browser, or a page that reads from its own server: allowed
    our own origin                a page of this server: allowed
    an origin of cors_origins     allowed; headers let the browser show the answer to the page
    another origin                may change nothing; no headers, so that the browser hides the answer from the page

A preflight is an OPTIONS request with Origin and Access-Control-Request-Method. Any other OPTIONS requests the
capabilities.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from engine.web.errors import HttpError

if TYPE_CHECKING:
    from engine.web.request import Request
    from engine.web.settings import Http

EXPOSED = (
    "Content-Disposition, Content-Length, Content-Location, Content-Range, ETag, Location, Retry-After, Warning, "
    "X-Request-ID, X-Total-Count, X-Remaining-Count"
)
"""Headers of DICOMweb that a page may read, beside those that every page may read."""

MAX_AGE_S = 86_400
"""How long a browser may cache a preflight: quotes in Accept cause a preflight for every URL."""

READING = frozenset({"GET", "HEAD", "OPTIONS"})

_HEADER_NAMES = re.compile(r"^[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,2000}$")


def is_preflight(request: Request) -> bool:
    """Whether the request is a browser's preflight."""
    headers = request.headers
    return request.method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers


def is_own(request: Request, origin: str) -> bool:
    """Whether the origin is this server."""
    own, other = urlsplit(request.root), urlsplit(origin)
    return bool(other.netloc) and (own.scheme, own.netloc.lower()) == (other.scheme, other.netloc.lower())


def check(request: Request, settings: Http) -> None:
    """Raises HttpError when a page of another origin tries to change something.

    Browsers send simple requests without a preflight, and only hide the answer.
    """
    origin = request.headers.get("Origin")
    if origin is None or request.method in READING or _is_listed(origin, settings) or is_own(request, origin):
        return
    raise HttpError(HTTPStatus.FORBIDDEN, "pages of this origin may change nothing here (http.cors_origins)")


def check_channel(request: Request, settings: Http) -> None:
    """Raises HttpError for a page of another origin that opens a WebSocket, from which no browser hides anything."""
    origin = request.headers.get("Origin")
    if origin is not None and not _is_listed(origin, settings) and not is_own(request, origin):
        raise HttpError(HTTPStatus.FORBIDDEN, "pages of this origin may not listen here (http.cors_origins)")


def answer_preflight(request: Request, methods: Iterable[str]) -> web.Response:
    """The answer to a preflight for a path with these methods; `add_headers` adds the other headers."""
    headers = {"Access-Control-Allow-Methods": ", ".join(sorted(methods)), "Access-Control-Max-Age": str(MAX_AGE_S)}
    header_names = request.headers.get("Access-Control-Request-Headers", "")
    if header_names and _HEADER_NAMES.match(header_names):
        headers["Access-Control-Allow-Headers"] = header_names
    if request.headers.get("Access-Control-Request-Private-Network") == "true":
        headers["Access-Control-Allow-Private-Network"] = "true"
    if not _is_listed(request.headers["Origin"], request.config.http):
        headers = {}
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)


def add_headers(request: Request, response: web.StreamResponse, settings: Http) -> None:
    """Adds the headers that let an allowed page read the answer."""
    if not settings.cors_origins:
        return
    headers = response.headers
    if "*" in settings.cors_origins:
        headers["Access-Control-Allow-Origin"] = "*"
    else:
        headers["Vary"] = f"{headers['Vary']}, Origin" if "Vary" in headers else "Origin"
        origin = request.headers.get("Origin")
        if origin is None or not _is_listed(origin, settings):
            return
        headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Expose-Headers"] = EXPOSED


def _is_listed(origin: str, settings: Http) -> bool:
    return "*" in settings.cors_origins or origin.lower() in {each.lower() for each in settings.cors_origins}
