"""The releases of FHIR, and how a client asks for one (R4 and R5 http.html#version-parameter).

Accept: application/fhir+json; fhirVersion=5.0       R5
no version                                           R4, which most records systems speak
several                                              by their quality; then the first one that is known
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from engine.errors import NotAcceptable

JSON: Final = "application/fhir+json"
_MEDIA_TYPES: Final = frozenset((JSON, "application/json", "json", "text/json", "application/*", "*/*"))
_VERSION: Final = re.compile(r"(\d+\.\d+)(?:\.\d+)?", re.ASCII)
_QUALITY: Final = re.compile(r"[01](?:\.\d{0,3})?", re.ASCII)


class Release(Enum):
    """A release, by the version in media types."""

    R4 = "4.0"
    R5 = "5.0"

    @property
    def version(self) -> str:
        """The version with its technical correction, as a capability statement has it."""
        return {"4.0": "4.0.1", "5.0": "5.0.0"}[self.value]

    @property
    def content_type(self) -> str:
        """The media type of a resource of this release."""
        return f"{JSON}; fhirVersion={self.value}"


def release_of(accept: str, form: str = "") -> Release:
    """The release that a client asks for by `Accept`, or by `_format`, which counts more. Raises NotAcceptable."""
    ranges = sorted(map(_range, (form or accept or "*/*").lower().split(",")), key=lambda each: -each[0])
    versions = [version for quality, name, version in ranges if quality > 0 and name in _MEDIA_TYPES]
    if not versions:
        raise NotAcceptable(f"resources are available as {JSON} only")
    for version in versions:
        if version in _RELEASES:
            return _RELEASES[version]
    raise NotAcceptable("FHIR is available in the versions 4.0 and 5.0")


_RELEASES: Final = {"": Release.R4, **{release.value: release for release in Release}}


def _range(text: str) -> tuple[float, str, str]:
    """The quality, the media type and the release of one part of `Accept`."""
    name, *parameters = [part.strip() for part in text.split(";")]
    values = dict(parameter.replace(" ", "").partition("=")[::2] for parameter in parameters)
    quality = values.get("q", "1")
    version = values.get("fhirversion", "").strip('"')
    match = _VERSION.fullmatch(version)
    return (
        float(quality) if _QUALITY.fullmatch(quality) else 1.0,
        name.replace(" ", "+"),
        match[1] if match else version,
    )
