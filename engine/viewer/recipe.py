"""What becomes of the files of the package `@ohif/app`. Pure functions of names and bytes.

Left out: what only other configurations load (86 % of the package: models for segmentation in the browser, the
whole-slide viewer, service worker, sign-in), icons for home screens, and the pages and scripts that `engine/web/ohif`
has in our own form.

Mended: places where OHIF takes for granted what DICOM leaves optional, and then shows a blank page or no study.

Rewritten for a quick start: what browsers compile ahead, and the entry in parts (`bundles`).

Rewritten: absolute paths. OHIF is built for the root of a host; here every path is relative to the folder from which
its script was loaded, so that it works at /ohif and behind a proxy with any prefix.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterable
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
_PART: Final = re.compile(r"app\.part-[0-9]\.js")
PARTS: Final = 4
"""Scripts that the entry is cut into."""
_PUBLIC_PATH: Final = b'__webpack_require__.p = "/";'
_OWN_PUBLIC_PATH: Final = b'__webpack_require__.p = self.PUBLIC_URL || new URL(".", self.location.href).pathname;'
SCRIPTS_WITH_LOADER: Final = 8
"""The application and its workers; each has a loader of its own."""

MENDS: Final = (
    # ModalitiesInStudy without a value, which a study without a modality has: the study "is not available".
    (
        b"for (let i = 0; i < ModalitiesInStudy.Value.length; i++) {",
        b"for (let i = 0; i < (ModalitiesInStudy.Value || []).length; i++) {",
        1,
    ),
    # A content item without a concept name (PS3.3 C.17.3.2: optional for containers): a blank page.
    (
        b"} = ConceptNameCodeSequence;\n  const isChildFirstNode",
        b"} = ConceptNameCodeSequence ?? {};\n  const isChildFirstNode",
        1,
    ),
    # Videos of endoscopes and microscopes, whose SOP classes have no other images: they were asked for frame by frame.
    (
        b"if (metadata.SOPClassUID === SOP_CLASS_UIDS.VIDEO_PHOTOGRAPHIC_IMAGE_STORAGE) {",
        b"if (sopClassUids.slice(0, 3).includes(metadata.SOPClassUID)) {",
        1,
    ),
    # VOI LUT Function: of its one value the first letter was taken, and the image stayed black.
    (
        b"(voiLutModule.voiLUTFunction?.length &&\n                    voiLutModule.voiLUTFunction[0])",
        b"[voiLutModule.voiLUTFunction].flat()[0]",
        1,
    ),
    # A segmentation, contours, a dose or a parametric map whose referenced images are not stored: a blank page.
    (
        b"const image0 = referencedDisplaySet.images[0];",
        b"const image0 = referencedDisplaySet?.images?.[0] ?? {};",
        4,
    ),
    # Seven WebGL contexts were made before the first image, for layouts with many viewports: each when it is used.
    (
        b"        for (let i = 0; i < count; i++) {\n            const offscreenMultiRenderWindow =",
        b"        this.contexts.length = count;\n        this.makeContext = (i) => {\n"
        b"            const offscreenMultiRenderWindow =",
        2,
    ),
    (
        b"            this.contexts.push(offscreenMultiRenderWindow);\n"
        b"            this.offScreenCanvasContainers.push(container);\n        }\n",
        b"            this.contexts[i] = offscreenMultiRenderWindow;\n"
        b"            this.offScreenCanvasContainers[i] = container;\n        };\n",
        2,
    ),
    (
        b"            return {\n                context: this.contexts[index],",
        b"            if (!this.contexts[index]) this.makeContext(index);\n"
        b"            return {\n                context: this.contexts[index],",
        2,
    ),
    # Every mode was loaded for the one that is opened. The configuration says which are needed, and the way back to
    # OHIF's list, which has a button for each mode, loads the page again.
    (
        b"importItems([...(appConfig.modes || []), ...defaultModes])",
        b"importItems([...(appConfig.modes || []), ...defaultModes.filter(appConfig.isModeNeeded)])",
        1,
    ),
    (
        b"    navigate({\n      pathname: '/',\n      search: decodeURIComponent(searchQuery.toString())\n"
        b"    });\n  };\n  const {\n    t\n  }",
        b"    window.config.showList(decodeURIComponent(searchQuery.toString()));\n  };\n  const {\n    t\n  }",
        1,
    ),
    # An extension that only one mode needs, which names it.
    (
        b'pluginImports_extensions.push("@ohif/extension-ultrasound-pleura-bline");',
        b"// extension-ultrasound-pleura-bline comes with its mode",
        1,
    ),
)
"""What scripts have, what they get instead, and in how many scripts of the package that is."""

EARLY_CHUNKS: Final = (
    1673, 6938, 6489, 6495, 8478, 89, 9383, 2623, 6749, 5696, 7248, 5406, 3760, 9068, 1206, 781, 899, 9415, 5448, 3500,
    9116, 7463, 100,
)  # fmt: skip
"""The chunks that OHIF loads before the first image of any study: three generations, each after the one before."""

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
    """The file with relative paths, and mended."""
    if path.endswith(".js"):
        for before, after, _ in MENDS:
            content = content.replace(before, after)
        return content.replace(_PUBLIC_PATH, _OWN_PUBLIC_PATH)
    if path.endswith(".css"):
        return content.replace(_FONT_URL, b"url(")
    return content


def check(contents: Iterable[bytes]) -> None:
    """Raises ViewerError unless the rewritten scripts have everything that is to be rewritten, as often as expected."""
    texts = [content for content in contents if content]
    expected = ((_OWN_PUBLIC_PATH, SCRIPTS_WITH_LOADER), *((after, count) for _, after, count in MENDS))
    for after, count in expected:
        found = sum(after in text for text in texts)
        if found != count:
            raise ViewerError(f"the package has {found} scripts, not {count}, that become {after.decode()!r}")


def is_entry(path: str) -> bool:
    """Whether it is the script with which the application begins."""
    return _ENTRY.fullmatch(path) is not None


def entry_of(paths: Iterable[str]) -> str:
    """The script with which the application begins. Raises ViewerError."""
    entries = [path for path in paths if is_entry(path)]
    if len(entries) != 1:
        raise ViewerError(f"the package has {len(entries)} scripts app.bundle.*.js, not one")
    return entries[0]


def part_of(number: int) -> str:
    """The path of a part of the entry, from 1."""
    return f"app.part-{number}.js"


def parts_of(paths: Iterable[str]) -> list[str]:
    """The scripts with the modules that were taken out of the entry, in their order."""
    return sorted(path for path in paths if _PART.fullmatch(path))


def early_of(paths: Iterable[str]) -> list[str]:
    """The scripts of EARLY_CHUNKS. Raises ViewerError."""
    names = {path.partition(".bundle.")[0]: path for path in paths if path.endswith(".js")}
    if missing := [chunk for chunk in EARLY_CHUNKS if str(chunk) not in names]:
        raise ViewerError(f"the package has no scripts {missing}")
    return [names[str(chunk)] for chunk in EARLY_CHUNKS]


def content_type_of(path: str) -> str:
    """The media type of a file."""
    suffix = path[path.rfind(".") :].lower()
    return _TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"


def is_compressible(path: str) -> bool:
    """Whether compression makes the file smaller: pictures and fonts are compressed already."""
    return path.endswith(_COMPRESSIBLE)
