"""Cross-Origin Resource Sharing: which web pages may use this server through a browser, and which may change nothing.

    no Origin header              no browser, or a page that only reads from its own server: not our concern
    our own origin                a page that was served from here
    an origin of cors_origins     told that it may read the answer
    another one                   told nothing, so that its browser keeps the answer from it; and it may change nothing

A preflight is an OPTIONS request with Origin and Access-Control-Request-Method. Any other OPTIONS asks for
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
"""What a page may read beside what every page may: DICOMweb answers with these."""

MAX_AGE_S = 86_400
"""How long a browser may remember a preflight: quotes in Accept make one of every URL."""

READING = frozenset({"GET", "HEAD", "OPTIONS"})

_HEADER_NAMES = re.compile(r"^[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,2000}$")


def is_preflight(request: Request) -> bool:
    """Whether a browser asks before it lets a page do something."""
    headers = request.headers
    return request.method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers


def is_own(request: Request, origin: str) -> bool:
    """Whether a page of that origin was served from here."""
    own, other = urlsplit(request.root), urlsplit(origin)
    return bool(other.netloc) and (own.scheme, own.netloc.lower()) == (other.scheme, other.netloc.lower())


def check(request: Request, settings: Http) -> None:
    """Raises HttpError when a page of somebody else wants to change something.

    Browsers send simple requests without asking first, and only keep the answer back.
    """
    origin = request.headers.get("Origin")
    if origin is None or request.method in READING or _is_listed(origin, settings) or is_own(request, origin):
        return
    raise HttpError(HTTPStatus.FORBIDDEN, "pages of this origin may change nothing here (http.cors_origins)")


def answer_preflight(request: Request, methods: Iterable[str]) -> web.Response:
    """What a page may do with a path that has these methods; the other headers are those of every answer."""
    headers = {"Access-Control-Allow-Methods": ", ".join(sorted(methods)), "Access-Control-Max-Age": str(MAX_AGE_S)}
    wanted = request.headers.get("Access-Control-Request-Headers", "")
    if wanted and _HEADER_NAMES.match(wanted):
        headers["Access-Control-Allow-Headers"] = wanted
    if request.headers.get("Access-Control-Request-Private-Network") == "true":
        headers["Access-Control-Allow-Private-Network"] = "true"
    if not _is_listed(request.headers["Origin"], request.config.http):
        headers = {}
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)


def add_headers(request: Request, response: web.StreamResponse, settings: Http) -> None:
    """Tells a page that it may read the answer."""
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
