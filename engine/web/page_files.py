"""Serves the web page: the files of the folder `page/`.

    /               page/index.html
    /page/files/{version}/{file}    the other files, without subfolders
    /page/{file}                    the same, for addresses that are written down

The files are read once and kept in memory, also compressed. The page uses the routes that all clients use, so that it
has the permissions of its user. What it shows is in its URL behind `#`, which is not sent to servers.

The version is a hash of all files. Browsers keep what has it without asking again; scripts name each other by relative
paths, so that all of a page have the version of its index. Another version, which a page has that was open during an
upgrade or is another server's behind the same proxy, gets the file as it is now, and is not kept.

The Content-Security-Policy allows no foreign and no inline resources, so that DICOM values can only be shown as text.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web

from engine.web.errors import NotFound
from engine.web.route import Parameter, Route
from engine.web.static_file import TYPES, StaticFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.web.request import Request

FOLDER: Final = Path(__file__).parent / "page"
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
INDEX: Final = "index.html"
_FILES: Final = b'"page/'
"""How the index's addresses of files begin."""


@cache
def _files() -> dict[str, StaticFile]:
    """The files by name; a request's name is only looked up here, and never used as a path."""
    return {
        path.name: StaticFile(path.read_bytes(), TYPES[path.suffix])
        for path in FOLDER.iterdir()
        if path.suffix in TYPES
    }


def version_of(files: Mapping[str, StaticFile]) -> str:
    """The hash of files, of their names and contents: 16 hexadecimal digits."""
    lines = (f"{name} {each.digest}\n" for name, each in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


@cache
def version() -> str:
    """The version of the page."""
    return version_of(_files())


@cache
def _index() -> StaticFile:
    """The index, whose addresses have the version."""
    plain = _files()[INDEX]
    return StaticFile(plain.body.replace(_FILES, _FILES + f"files/{version()}/".encode()), plain.content_type)


async def index(request: Request) -> web.Response:
    """The page itself."""
    return _index().answer(request)


async def share(request: Request) -> web.Response:
    """Leads a share's link to the page. The token goes behind #, which browsers send to nobody."""
    token = request.path_values["token"]
    location = f"{request.root}/#/s/{token}" if _TOKEN.fullmatch(token) else f"{request.root}/"
    headers = {"Location": location, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return web.Response(status=HTTPStatus.SEE_OTHER, headers=headers)


async def file(request: Request) -> web.Response:
    """A script, a style sheet, a picture. Raises NotFound."""
    page_file = _files().get(request.path_values["file"])
    if page_file is None:
        raise NotFound("the page has no such file")
    return page_file.answer(request, is_immutable=request.path_values.get("version") == version())


def _file(path: str, *parameters: Parameter) -> Route:
    return Route(
        "GET", f"/page{path}", file, "A file of the page", None, (*parameters, _NAME), produces=_PRODUCES,
        statuses=(200, 304), errors=(404,), tag="page",
    )  # fmt: skip


_NAME: Final = Parameter("file", "Its name", "path", is_required=True)
_VERSION: Final = Parameter("version", "Hash of all files, as the page names it", "path", is_required=True)
_PRODUCES = tuple(dict.fromkeys(TYPES.values()))

ROUTES: Final = (
    Route("GET", "/s/{token}", share, "A shared link", None, produces=(), statuses=(303,), tag="page"),
    Route("GET", "/", index, "The web page", None, produces=("text/html",), statuses=(200, 304), tag="page"),
    _file("/{file}"),
    _file("/files/{version}/{file}", _VERSION),
)
