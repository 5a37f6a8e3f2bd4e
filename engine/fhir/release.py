"""The releases of FHIR, and how a client asks for one (R4 and R5 http.html#version-parameter).

Accept: application/fhir+json; fhirVersion=5.0       R5
anything else, or no version                         R4, which most records systems speak
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from engine.errors import NotAcceptable

JSON: Final = "application/fhir+json"
_MEDIA_TYPES: Final = frozenset((JSON, "application/json", "json", "text/json", "application/*", "*/*"))
_VERSION: Final = re.compile(r'fhirversion\s*=\s*"?(\d+\.\d+)(?:\.\d+)?"?', re.ASCII)


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
    ranges = [part.strip().lower() for part in (form or accept or "*/*").split(",")]
    accepted = [part for part in ranges if part.partition(";")[0].strip().replace(" ", "+") in _MEDIA_TYPES]
    if not accepted:
        raise NotAcceptable(f"resources are available as {JSON} only")
    version = _VERSION.search(accepted[0])
    try:
        return Release(version[1]) if version else Release.R4
    except ValueError:
        raise NotAcceptable("FHIR is available in the versions 4.0 and 5.0") from None
