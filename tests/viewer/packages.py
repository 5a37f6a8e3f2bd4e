"""A small package in the form of OHIF's, and an npm that is not asked."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from engine.errors import ViewerError
from engine.viewer import npm, package, recipe

LOADER = b'/*! a licence */\n__webpack_require__.p = "/";\n'
ENTRY = "app.bundle.0123456789abcdef.js"
PARTS_MODULES = 8
CHUNK = b"""(globalThis["rspackChunk"] = globalThis["rspackChunk"] || []).push([[1], {
17(module, exports, __webpack_require__) {
module.exports = {
  a: 1
}
},

}]);
"""
FILES = {
    "package/LICENSE": b"MIT",
    "package/package.json": b"{}",
    f"package/dist/{ENTRY}": b"(() => {\nvar __webpack_modules__ = ({\n"
    + b"".join(b"%d(module) {\n%b},\n" % (number, b"f();\n" * 100) for number in range(PARTS_MODULES))
    + b"\n});\n"
    + LOADER
    + b"})();\n",
    "package/dist/app.bundle.css": b"@font-face{src:url(/0123456789abcdef.woff2)}",
    "package/dist/0123456789abcdef.woff2": b"\0\1",
    "package/dist/0123456789abcdef.wasm": b"\0asm" * 100,
    "package/dist/index.html": b"<html>",
    "package/dist/sw.js": b"left out",
    "package/dist/ort/model.wasm": b"left out",
    "package/dist/assets/favicon.ico": b"icon" * 10,
    "package/dist/assets/apple-touch-icon.png": b"left out",
    "package/dist/assets/images/CT.png": b"\x89PNG",
    **{f"package/dist/{number}.bundle.0123456789abcdef.js": LOADER for number in range(recipe.SCRIPTS_WITH_LOADER - 1)},
    **{f"package/dist/{number}.bundle.0123456789abcdef.js": CHUNK for number in recipe.EARLY_CHUNKS},
    **{
        f"package/dist/mended-{place}-{copy}.js": before
        for place, (before, _, count) in enumerate(recipe.MENDS)
        for copy in range(count)
    },
}
KEPT = {
    recipe.LICENSE, ENTRY, "app.bundle.css", "0123456789abcdef.woff2", "0123456789abcdef.wasm",
    "assets/favicon.ico", "assets/images/CT.png",
    *(f"mended-{place}-{copy}.js" for place, (_, _, count) in enumerate(recipe.MENDS) for copy in range(count)),
    *(f"{number}.bundle.0123456789abcdef.js" for number in range(recipe.SCRIPTS_WITH_LOADER - 1)),
    *(f"{number}.bundle.0123456789abcdef.js" for number in recipe.EARLY_CHUNKS),
    *(recipe.part_of(number) for number in range(1, recipe.PARTS)),
}  # fmt: skip


def tarball(path: Path, files: dict[str, bytes] = FILES) -> str:
    """Writes a package; its integrity."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return integrity_of(path)


def integrity_of(path: Path) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()}"


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A package that the installer takes for OHIF's, without a minifier; its tarball."""
    path = folder / "package.tgz"
    monkeypatch.setattr(package, "INTEGRITY", tarball(path))

    def find(work: Path) -> npm.Npm:
        raise ViewerError("there is no npm")

    monkeypatch.setattr(npm, "find", find)
    return path
