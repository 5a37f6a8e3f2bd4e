"""The page for people: the files of `page/`, as they are.

    /               page/index.html
    /page/{file}    the others: one folder, no folders in it

The files are read once and kept, compressed too. The page takes everything else from the routes that any client has, so
that it may do what its user may do and nothing more. Its address says what it shows behind `#`, which no server sees.

The Content-Security-Policy allows nothing from elsewhere and nothing inline: whatever a DICOM value says is text.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web

from engine.web import conditional
from engine.web.errors import NotFound
from engine.web.route import Parameter, Route

if TYPE_CHECKING:
    from engine.web.request import Request

FOLDER: Final = Path(__file__).parent / "page"
INDEX: Final = "index.html"
TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked again each time, and answered by 304: a new release is seen at once.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


class _File:
    """One file, and what is sent of it."""

    def __init__(self, path: Path) -> None:
        self.body = path.read_bytes()
        self.gzipped = gzip.compress(self.body, 9, mtime=0)
        self.digest = hashlib.sha256(self.body).hexdigest()[:20]
        self.content_type = TYPES[path.suffix]


@cache
def _files() -> dict[str, _File]:
    """By name. Names come from here and never from a request."""
    return {path.name: _File(path) for path in FOLDER.iterdir() if path.suffix in TYPES}


async def index(request: Request) -> web.Response:
    """The page itself."""
    return _answer(request, _files()[INDEX])


async def file(request: Request) -> web.Response:
    """A script, a style sheet, a picture. Raises NotFound."""
    found = _files().get(request.path_values["file"])
    if found is None:
        raise NotFound("the page has no such file")
    return _answer(request, found)


def _answer(request: Request, found: _File) -> web.Response:
    is_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
    etag = f'"{found.digest}{"-gzip" if is_gzip else ""}"'
    headers = {**HEADERS, "ETag": etag}
    if conditional.is_unchanged(request.headers, etag):
        return web.Response(status=304, headers=headers)
    if is_gzip:
        headers["Content-Encoding"] = "gzip"
    body = found.gzipped if is_gzip else found.body
    return web.Response(body=body, content_type=found.content_type, charset="utf-8", headers=headers)


_PRODUCES = tuple(dict.fromkeys(TYPES.values()))

ROUTES: Final = (
    Route("GET", "/", index, "The page for people", None, produces=("text/html",), statuses=(200, 304), tag="page"),
    Route(
        "GET",
        "/page/{file}",
        file,
        "A file of the page",
        None,
        parameters=(Parameter("file", "Its name", "path", is_required=True),),
        produces=_PRODUCES,
        statuses=(200, 304),
        errors=(404,),
        tag="page",
    ),
)
