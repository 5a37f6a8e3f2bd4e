"""What this server consists of: Python, our package, the distributions it needs, C libraries in their wheels, scripts.

Versions, licences and hashes are read from what is installed; `library_licenses` has the licences of C libraries, which
no wheel names in a form for programs.
"""

from __future__ import annotations

import base64
import hashlib
import platform
import re
import ssl
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import orjson

from engine import __version__
from engine.index.catalog import DATABASE_VERSION
from engine.reports.library_licenses import license_of_library, spdx
from engine.viewer import installation

OURS: Final = "filmroom"
_OPTIONAL_EXTRAS: Final = ("video", "pkcs11")
"""Extras that a server uses when they are installed; the others are for tests."""
_PAGE: Final = Path(__file__).parent.parent / "web" / "page"
_PAGE_LINE: Final = re.compile(r"^    (\S+\.\w+) +(\S+) (\d\S*?)( with (\w+))?, file", re.MULTILINE)
_LIBRARY: Final = re.compile(r"^lib(?P<name>.+?)(-[0-9a-f]{8})*\.so(?P<version>(\.\d+)*)$")
_REQUIREMENT: Final = re.compile(r"^([A-Za-z0-9._-]+)[^;]*(;.*extra *== *['\"]([\w.-]+)['\"])?")


@dataclass(frozen=True, slots=True)
class Component:
    """One part of the software."""

    name: str
    version: str
    """"": it does not say."""
    kind: str = "library"
    """A component type of CycloneDX."""
    license: str = ""
    """An SPDX expression or a name; "": unknown."""
    sha256: str = ""
    """Of its file; of a distribution: of its RECORD, which has the hash of each file."""
    within: str = ""
    """The component that brings it: a C library is in the wheel of a distribution."""
    purl: str = ""
    needs: tuple[str, ...] = ()
    """Names of distributions."""
    properties: dict[str, str] = field(default_factory=dict)
    """More facts, for `filmroom:` properties."""


def components(viewer_directory: Path | None = None) -> list[Component]:
    """Every component, ours first."""
    found = [_ours()]
    for distribution in _distributions().values():
        found.append(of_distribution(distribution))
        found.extend(_libraries_of(distribution))
        found.extend(_declared_by(distribution))
    known = {(each.name, each.within) for each in found}
    found.extend(each for each in _linked() if (each.name, each.within) not in known)
    found.extend(_interpreter())
    found.extend(_page())
    found.extend(_viewer(viewer_directory))
    return found


def _ours() -> Component:
    requirements = (*_needs(metadata.distribution(OURS)), platform.python_implementation().lower())
    modules = sorted(Path(__file__).parent.parent.glob("_ext/*.so"))
    digests = {f"sha256 of {path.name.partition('.')[0]}": _sha256(path) for path in modules}
    return Component(OURS, __version__, "application", "Apache-2.0", needs=requirements, properties=digests)


def _distributions() -> dict[str, metadata.Distribution]:
    """By name: what our package needs, and what that needs, as far as it is installed."""
    found: dict[str, metadata.Distribution] = {}
    waiting = list(_needs(metadata.distribution(OURS)))
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # only needed on another platform or version of Python
        waiting += _needs(found[name])
    return dict(sorted(found.items()))


def _needs(distribution: metadata.Distribution) -> tuple[str, ...]:
    needs = set()
    for requirement in distribution.requires or ():
        match = _REQUIREMENT.match(requirement)
        if match and (not match[3] or (match[3] in _OPTIONAL_EXTRAS and _name(distribution) == OURS)):
            needs.add(_normal(match[1]))
    return tuple(sorted(needs))


def of_distribution(distribution: metadata.Distribution) -> Component:
    """A distribution as a component, with its files compared with their hashes."""
    name = _name(distribution)
    verified, changed = _verify(distribution)
    properties = {"files verified": str(verified), "sha256 of": "RECORD"}
    if changed:
        properties["files changed since installation"] = ", ".join(changed[:20])
    return Component(
        name,
        distribution.version,
        license=_license_of(distribution),
        sha256=hashlib.sha256((distribution.read_text("RECORD") or "").encode()).hexdigest(),
        purl=f"pkg:pypi/{name}@{distribution.version}",
        needs=_needs(distribution),
        properties=properties,
    )


def _verify(distribution: metadata.Distribution) -> tuple[int, list[str]]:
    """The number of files that are as their RECORD says, and the names of the others."""
    verified, changed = 0, []
    for file in distribution.files or ():
        if file.hash is None or file.hash.mode != "sha256":
            continue
        path = Path(str(file.locate()))
        try:
            digest = base64.urlsafe_b64encode(bytes.fromhex(_sha256(path))).rstrip(b"=").decode()
        except OSError:
            digest = ""
        if digest == file.hash.value:
            verified += 1
        elif "/bin/" not in f"/{file}":  # commands are written anew by whoever installs
            changed.append(str(file))
    return verified, changed


def _license_of(distribution: metadata.Distribution) -> str:
    """From its metadata; else the first line of its licence file."""
    fields = distribution.metadata
    classifiers = [each.rpartition(" :: ")[2] for each in fields.get_all("Classifier") or () if "License ::" in each]
    for text in (fields["License-Expression"], fields["License"], " OR ".join(classifiers)):
        if text and "\n" not in text and (expression := spdx(text)):
            return expression
    for file in distribution.files or ():
        if "licen" in file.name.lower() and ".dist-info/" in str(file):
            lines = Path(str(file.locate())).read_text(errors="replace").split("\n")
            title = next((line.strip() for line in lines if line.strip()), "")
            return spdx(title) or title[:100]
    return ""


def _libraries_of(distribution: metadata.Distribution) -> Iterator[Component]:
    """Shared libraries that a wheel has copied, which name their ABI's version only."""
    for file in distribution.files or ():
        match = _LIBRARY.match(file.name)
        if match and ".libs/" in str(file):
            name = match["name"]
            yield Component(
                name,
                match["version"].lstrip("."),
                license=license_of_library(name),
                sha256=_sha256(Path(str(file.locate()))),
                within=_name(distribution),
                properties={"file": file.name, "version of": "binary interface"},
            )


def _declared_by(distribution: metadata.Distribution) -> Iterator[Component]:
    """What is linked into its modules, from the SBOM that its wheel brings (PEP 770): crates and C libraries."""
    name = _name(distribution)
    for file in distribution.files or ():
        if ".dist-info/sboms/" not in str(file) or file.suffix != ".json":
            continue
        content = orjson.loads(Path(str(file.locate())).read_bytes())
        for part in _flat(content.get("components", ())):
            purl = str(part.get("purl", ""))
            if purl.startswith("pkg:pypi/"):
                continue  # the distribution itself
            licenses = [each.get("expression") or _license_name(each) for each in part.get("licenses", ())]
            version = str(part.get("version", ""))
            yield Component(
                str(part["name"]),
                version,
                license=" AND ".join(filter(None, licenses)) or license_of_library(part["name"].removeprefix("lib")),
                within=name,
                purl=purl.partition("?")[0],
                properties={"declared by": file.name},
            )


def _flat(parts: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for part in parts:
        yield part
        yield from _flat(part.get("components", ()))


def _license_name(entry: dict[str, Any]) -> str:
    inner = entry.get("license", {})
    return str(inner.get("id") or inner.get("name") or "")


def _linked() -> Iterator[Component]:
    """C libraries that are linked into a module and tell their version."""
    from cryptography.hazmat.backends.openssl import backend
    from uvloop import loop

    uv = int(loop.libuv_get_version())  # type: ignore[attr-defined]
    for name, version, within in (
        ("openssl", backend.openssl_version_text().split()[1], "cryptography"),
        ("lmdb-c", DATABASE_VERSION, "lmdb"),
        ("libuv", f"{uv >> 16}.{uv >> 8 & 255}.{uv & 255}", "uvloop"),
    ):
        yield Component(name, version, license=license_of_library(name), within=within)


def _interpreter() -> Iterator[Component]:
    python = platform.python_implementation().lower()
    yield Component(
        python, platform.python_version(), "platform", "PSF-2.0", sha256=_sha256(Path(sys.executable).resolve())
    )
    openssl = ssl.OPENSSL_VERSION.split()[1]
    yield Component("openssl", openssl, license=license_of_library("openssl"), within=python)
    yield Component("zlib", zlib.ZLIB_RUNTIME_VERSION, license=license_of_library("zlib"), within=python)


def _page() -> Iterator[Component]:
    """Scripts of others in the page, as its LICENSES.txt names them."""
    for match in _PAGE_LINE.finditer((_PAGE / "LICENSES.txt").read_text()):
        file, name, version, _, joined = match.groups()
        digest = _sha256(_PAGE / file)
        yield Component(
            name,
            version,
            license=license_of_library(name.lower()),
            sha256=digest,
            within="page",
            purl=f"pkg:npm/{name.lower()}@{version}",
            properties={"file": file},
        )
        if joined:
            yield Component(
                joined, "", license=license_of_library(joined.lower()), sha256=digest, within="page",
                properties={"file": file},
            )  # fmt: skip


def _viewer(directory: Path | None) -> Iterator[Component]:
    folder = installation.find(directory)
    if folder is not None:
        version = installation.load(folder).manifest.version
        yield Component(
            "@ohif/app",
            version,
            "application",
            "MIT",
            sha256=_sha256(folder / installation.MANIFEST),
            within="viewer",
            purl=f"pkg:npm/%40ohif/app@{version}",
            properties={"sha256 of": installation.MANIFEST},
        )


def _name(distribution: metadata.Distribution) -> str:
    return _normal(distribution.metadata["Name"])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
