"""A file that is the same for every client: kept in memory in two encodings, and answered under a strict policy."""

from __future__ import annotations

import gzip
import hashlib
from typing import TYPE_CHECKING, Final

from aiohttp import web

from engine.web import conditional

if TYPE_CHECKING:
    from engine.web.request import Request

TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".txt": "text/plain",
}
"""The media type of each kind of file."""

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    # Checked each time, and mostly answered with 304: a new release is used at once.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
IMMUTABLE: Final = "public, max-age=31536000, immutable"
"""Cache-Control for an address that names what is in the file: it is never asked for again."""
PICTURE_CACHE: Final = "max-age=86400"
"""A browser asks for the icon again with each filter that is typed, and an old picture does no harm for a day."""


class StaticFile:
    """One file in its encodings, with its entity tag and type."""

    def __init__(self, body: bytes, content_type: str) -> None:
        self.body = body
        self.gzipped = gzip.compress(body, 9, mtime=0)
        self.digest = hashlib.sha256(body).hexdigest()[:20]
        self.content_type = content_type

    def answer(self, request: Request, *, is_immutable: bool = False) -> web.Response:
        """The file in an encoding that the client accepts, or 304. Immutable: the address names its content."""
        is_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
        etag = f'"{self.digest}{"-gzip" if is_gzip else ""}"'
        headers = {**HEADERS, "ETag": etag}
        if is_immutable:
            headers["Cache-Control"] = IMMUTABLE
        elif self.content_type.startswith("image/"):
            headers["Cache-Control"] = PICTURE_CACHE
        if conditional.is_unchanged(request.headers, etag):
            return web.Response(status=304, headers=headers)
        if is_gzip:
            headers["Content-Encoding"] = "gzip"
        body = self.gzipped if is_gzip else self.body
        charset = None if self.content_type.startswith("image/") else "utf-8"
        return web.Response(body=body, content_type=self.content_type, charset=charset, headers=headers)
