"""Serves the web page: the files of the folder `page/`.

    /               page/index.html
    /page/{file}    the other files, without subfolders

The files are read once and kept in memory, also compressed. The page uses the routes that all clients use, so that it
has the permissions of its user. What it shows is in its URL behind `#`, which is not sent to servers.

The Content-Security-Policy allows no foreign and no inline resources, so that DICOM values can only be shown as text.
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
    # Checked each time, and mostly answered with 304: a new release is used at once.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


class _File:
    """One file in its encodings, with its entity tag and type."""

    def __init__(self, path: Path) -> None:
        self.body = path.read_bytes()
        self.gzipped = gzip.compress(self.body, 9, mtime=0)
        self.digest = hashlib.sha256(self.body).hexdigest()[:20]
        self.content_type = TYPES[path.suffix]


@cache
def _files() -> dict[str, _File]:
    """The files by name; a request's name is only looked up here, and never used as a path."""
    return {path.name: _File(path) for path in FOLDER.iterdir() if path.suffix in TYPES}


async def index(request: Request) -> web.Response:
    """The page itself."""
    return _answer(request, _files()[INDEX])


async def file(request: Request) -> web.Response:
    """A script, a style sheet, a picture. Raises NotFound."""
    page_file = _files().get(request.path_values["file"])
    if page_file is None:
        raise NotFound("the page has no such file")
    return _answer(request, page_file)


def _answer(request: Request, page_file: _File) -> web.Response:
    is_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
    etag = f'"{page_file.digest}{"-gzip" if is_gzip else ""}"'
    headers = {**HEADERS, "ETag": etag}
    if conditional.is_unchanged(request.headers, etag):
        return web.Response(status=304, headers=headers)
    if is_gzip:
        headers["Content-Encoding"] = "gzip"
    body = page_file.gzipped if is_gzip else page_file.body
    return web.Response(body=body, content_type=page_file.content_type, charset="utf-8", headers=headers)


_PRODUCES = tuple(dict.fromkeys(TYPES.values()))

ROUTES: Final = (
    Route("GET", "/", index, "The web page", None, produces=("text/html",), statuses=(200, 304), tag="page"),
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
