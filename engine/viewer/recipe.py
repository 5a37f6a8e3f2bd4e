"""What becomes of the files of the package `@ohif/app`. Pure functions of names and bytes.

Left out: what only other configurations load (86 % of the package: models for segmentation in the browser, the
whole-slide viewer, service worker, sign-in), icons for home screens, and the pages and scripts that `engine/web/ohif`
has in our own form.

Rewritten: absolute paths. OHIF is built for the root of a host; here every path is relative to the folder from which
its script was loaded, so that it works at /ohif and behind a proxy with any prefix.
"""

from __future__ import annotations

import mimetypes
import re
from typing import Final

from engine.errors import ViewerError

_LEFT_OUT: Final = re.compile(
    r"(ort|dicom-microscopy-viewer|customizations)/.*|assets/(?!images/|favicon).*"
    r"|(sw|google|init-service-worker|app-config|oidc-client\.min|es6-shim\.min|polyfill\.min)\.js"
    r"|(index|silent-refresh)\.html|(serve|manifest)\.json"
)
_PREFIX: Final = "package/dist/"
_LICENSE: Final = "package/LICENSE"
LICENSE: Final = "LICENSE.txt"

_ENTRY: Final = re.compile(r"app\.bundle\.[0-9a-f]+\.js")
_PUBLIC_PATH: Final = b'__webpack_require__.p = "/";'
_OWN_PUBLIC_PATH: Final = b'__webpack_require__.p = self.PUBLIC_URL || new URL(".", self.location.href).pathname;'
SCRIPTS_WITH_LOADER: Final = 8
"""The application and its workers; each has a loader of its own."""

_FONT_URL: Final = b"url(/"

_TYPES: Final = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
    ".ico": "image/x-icon",
    ".txt": "text/plain",
}
_COMPRESSIBLE: Final = (".js", ".css", ".wasm", ".svg", ".txt", ".json", ".ico")


def place_of(member: str) -> str | None:
    """The path of a member of the tarball in the installation; None: it is left out."""
    if member == _LICENSE:
        return LICENSE
    path = member.removeprefix(_PREFIX)
    if path == member or _LEFT_OUT.fullmatch(path):
        return None
    return path


def rewritten(path: str, content: bytes) -> bytes:
    """The file with relative paths."""
    if path.endswith(".js"):
        return content.replace(_PUBLIC_PATH, _OWN_PUBLIC_PATH)
    if path.endswith(".css"):
        return content.replace(_FONT_URL, b"url(")
    return content


def has_loader(path: str, content: bytes) -> bool:
    """Whether a rewritten file is a script with a loader: the application or a worker."""
    return path.endswith(".js") and _OWN_PUBLIC_PATH in content


def is_entry(path: str) -> bool:
    """Whether it is the script with which the application begins."""
    return _ENTRY.fullmatch(path) is not None


def entry_of(paths: list[str]) -> str:
    """The script with which the application begins. Raises ViewerError."""
    entries = [path for path in paths if _ENTRY.fullmatch(path)]
    if len(entries) != 1:
        raise ViewerError(f"the package has {len(entries)} scripts app.bundle.*.js, not one")
    return entries[0]


def content_type_of(path: str) -> str:
    """The media type of a file."""
    suffix = path[path.rfind(".") :].lower()
    return _TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"


def is_compressible(path: str) -> bool:
    """Whether compression makes the file smaller: pictures and fonts are compressed already."""
    return path.endswith(_COMPRESSIBLE)
