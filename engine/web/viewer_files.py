"""Serves the viewer, OHIF, as `filmroom viewer install` has prepared it.

    /ohif/                        its page, also at /ohif/viewer and the other views of OHIF
    /ohif/app-config.js           its configuration, ours
    /ohif/files/{version}/…       its files; what a version has never changes, so browsers keep them

Addresses in the page are relative to its own, so that every prefix of a proxy works. A script or style sheet that does
not exist is 404, never the page. Without an installation its page is an explanation, with 404.

The Content-Security-Policy allows no foreign resource and no inline script. OHIF compiles WebAssembly, starts workers
from blobs, and sets styles from scripts; its decoders and its reader of segmentations make functions from text.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from aiohttp import web

from engine.errors import ViewerError
from engine.viewer import installation
from engine.web import conditional
from engine.web.errors import NotFound
from engine.web.route import Parameter, Route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.viewer.installation import Installation, ViewerFile
    from engine.web.request import Request

FOLDER: Final = Path(__file__).parent / "ohif"
ROOT: Final = "/ohif"
CONFIGURATION: Final = "app-config.js"

VIEWS: Final = frozenset(
    {"viewer", "basic", "segmentation", "tmtv", "dynamic-volume", "usAnnotation", "notfoundserver", "notfoundstudy"}
)
"""The first part of OHIF's own addresses."""

PIECE_BYTES: Final = 1 << 20
"""Bytes in memory for each request; most compressed files have fewer."""

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'unsafe-eval' blob:; worker-src 'self' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; "
        "connect-src 'self' blob: data:; object-src 'self' blob:; frame-src 'self' blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
}
_CHECKED: Final = {**HEADERS, "Cache-Control": "no-cache"}
_KEPT: Final = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}

_UID: Final = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of the installation, in the coding in which it is sent."""

    path: Path
    file: ViewerFile
    coding: str
    piece: bytes
    """Its beginning, mostly the whole file: read at once, since each turn of a thread costs as much as the reading."""


async def page(request: Request) -> web.StreamResponse:
    """OHIF's page. Raises NotFound for an address that OHIF does not have."""
    view = request.path_values.get("view", "")
    if view == CONFIGURATION and "source" not in request.path_values:
        return web.Response(text=_text(CONFIGURATION), content_type="text/javascript", headers=_CHECKED)
    if view and view not in VIEWS:
        raise NotFound("the viewer has no such file")
    root, is_root = _relative_root(request.raw_path.partition("?")[0])
    if not is_root:
        return web.Response(status=HTTPStatus.PERMANENT_REDIRECT, headers={"Location": root})
    present = await request.engine.pools.reads.run(partial(current, request.config.http.viewer_directory))
    if present is None:
        return _missing(request, root)
    manifest = present.manifest
    # A chunk waits for the loader in an array, so it may come before and after it.
    scripts = [("defer", name) for name in (*manifest.parts, manifest.entry)]
    scripts += [("async", name) for name in manifest.early]
    lines = "\n".join(f'<script {when} src="{{files}}{name}"></script>' for when, name in scripts)
    text = _text("index.html").replace("{scripts}", lines)
    text = text.replace("{files}", f"{root}files/{manifest.name}/").replace("{root}", root)
    return web.Response(text=text, content_type="text/html", headers=_CHECKED)


async def file(request: Request) -> web.StreamResponse:
    """A file of OHIF. Raises NotFound."""
    folders = request.route_name.partition("{version}/")[2].rpartition("/")[0]
    name = "/".join(filter(None, (folders, request.path_values["file"])))
    work = partial(
        _find,
        request.config.http.viewer_directory,
        request.path_values["version"],
        name,
        _codings(request.headers.get("Accept-Encoding", "")),
    )
    reads = request.engine.pools.reads
    found = await reads.run(work)
    etag = f'"{found.file.digest}{found.coding and f"-{found.coding}"}"'
    headers = {**_KEPT, "ETag": etag}
    if conditional.is_unchanged(request.headers, etag):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    headers["Content-Type"] = found.file.content_type
    if found.coding:
        headers["Content-Encoding"] = found.coding
    length = found.file.lengths[found.coding]
    if len(found.piece) == length:
        return web.Response(body=found.piece, headers=headers)
    response = web.StreamResponse(headers=headers)
    response.content_length = length
    await response.prepare(request)
    offset, piece = 0, found.piece
    while not request.is_head:
        await response.write(piece)
        offset += len(piece)
        if offset >= length:
            break
        piece = await reads.run(partial(_read, found.path, offset))
    await response.write_eof()
    return response


def current(directory: Path | None) -> Installation | None:
    """The installation in use; None: there is none. Reads files. Raises ViewerError."""
    folder = installation.find(directory)
    if folder is None:
        return None
    try:
        status = os.stat(folder / installation.MANIFEST)
    except OSError as error:
        raise ViewerError(f"the installation of the viewer in {folder} cannot be read: {error.strerror}") from error
    return _load(folder, status.st_ino, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _load(folder: Path, inode: int, modified_ns: int) -> Installation:
    return installation.load(folder)


def _find(directory: Path | None, version: str, name: str, codings: Sequence[str]) -> _Found:
    """Raises NotFound, ViewerError."""
    present = current(directory)
    if present is None or present.manifest.name != version:
        raise NotFound("this version of the viewer is not installed; load the page again")
    file = present.manifest.files.get(name)
    if file is None:
        raise NotFound("the viewer has no such file")
    coding = next((coding for coding in codings if coding in file.lengths), "")
    path = present.path_of(name, coding)
    try:
        length = path.stat().st_size
    except OSError as error:
        raise ViewerError(f"a file of the viewer cannot be read: {name}: {error.strerror}") from error
    if length != file.lengths[coding]:
        raise ViewerError(f"a file of the viewer is damaged: {name}; run `filmroom viewer install`")
    return _Found(path, file, coding, _read(path, 0) if length else b"")


def _read(path: Path, offset: int) -> bytes:
    """The next piece of a file. Opened each time: a thread that outlives its request leaves nothing open."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            piece = file.read(PIECE_BYTES)
    except OSError as error:
        raise ViewerError(f"a file of the viewer cannot be read: {path.name}: {error.strerror}") from error
    if not piece:
        raise ViewerError(f"a file of the viewer became shorter: {path.name}")
    return piece


def _codings(header: str) -> list[str]:
    """The content codings that the client accepts and files may have, the smallest form first."""
    accepted = set()
    for part in header.lower().split(","):
        name, _, weight = part.partition(";")
        if not re.fullmatch(r"\s*q=0(\.0*)?\s*", weight):
            accepted.add(name.strip())
    return [coding for coding in installation.SUFFIXES if coding in accepted]


def _relative_root(raw_path: str) -> tuple[str, bool]:
    """The way from a page's address to /ohif/, and whether it is one: /ohif needs its slash at the end first."""
    segments = raw_path.split("/")
    below = segments[[unquote(segment) for segment in segments].index(ROOT[1:]) + 1 :]
    if not below:
        return f"{ROOT[1:]}/", False
    return "../" * (len(below) - 1) or "./", True


def _missing(request: Request, root: str) -> web.Response:
    if "text/html" not in request.headers.get("Accept", ""):
        raise NotFound("the viewer is not installed; run `filmroom viewer install` on the server")
    uid = request.rel_url.query.get("StudyInstanceUIDs", "")
    place = f"#/study/{uid}" if _UID.fullmatch(uid) else ""
    text = _text("missing.html").replace("{root}", root).replace("{place}", place)
    return web.Response(status=HTTPStatus.NOT_FOUND, text=text, content_type="text/html", headers=_CHECKED)


@cache
def _text(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


_FILES: Final = "/files/{version}"
_VERSION: Final = Parameter("version", "Version of the installation", "path", is_required=True)
_FILE: Final = Parameter("file", "Its name", "path", is_required=True)
_VIEW: Final = Parameter("view", "A view of OHIF, as viewer", "path", is_required=True)
_SOURCE: Final = Parameter("source", "Its data source", "path", is_required=True)


def _page(path: str, *parameters: Parameter) -> Route:
    return Route(
        "GET", ROOT + path, page, "The viewer (OHIF)", None, parameters, produces=("text/html", "text/javascript"),
        errors=(404,), tag="page",
    )  # fmt: skip


def _file(folder: str) -> Route:
    return Route(
        "GET", f"{ROOT}{_FILES}{folder}/{{file}}", file, "A file of the viewer", None, (_VERSION, _FILE),
        produces=("*/*",), statuses=(200, 304), errors=(404,), tag="page",
    )  # fmt: skip


ROUTES: Final = (
    _page(""),
    _page("/{view}", _VIEW),
    _page("/{view}/{source}", _VIEW, _SOURCE),
    _file(""),
    _file("/assets"),
    _file("/assets/images"),
)
