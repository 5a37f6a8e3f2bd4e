"""Content negotiation: the media types and transfer syntaxes that a request accepts, best first (PS3.18 8.7, RFC 9110
12.5.1).

Pure functions. A resource lists its offers, its default first; its handler takes the first choice that it can fulfil
for the stored instance, and answers 406 if there is none.

    Accept: multipart/related; type="application/octet-stream"; transfer-syntax=*, image/jpeg;q=0.5
            └───────────── Choice(octet-stream in parts, "*") ─────────────────┘  └ Choice(image/jpeg alone, "") ┘

The order: `accept=` of the query, which has no wildcards; the header by q; for equal q the more specific range, then
the first one. q=0 excludes. `*/*` and other wildcards stand only for the default of the offers that they match (PS3.18
8.7.4). A missing header means `*/*`, since many clients forget it, unless `is_strict`.

Common mistakes of clients are accepted: `type=` without quotes though it has a slash, with a transfer syntax inside its
quotes, or `*/*`; old names of types. An invalid range, or one with two transfer syntaxes, is ignored (8.7.4).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from engine.errors import NotAcceptable, RequestError

HEADER_CHARACTERS_MAX: Final = 8 << 10
RANGES_MAX: Final = 64
"""Ranges of one request; browsers send some ten, clients that list every image type and transfer syntax some thirty."""
_PARAMETERS_MAX: Final = 16

MULTIPART: Final = "multipart/related"
ANY: Final = "*"
"""In place of a transfer syntax: any."""

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_MEDIA_TYPE = re.compile(rf"({_TOKEN})/({_TOKEN})")
_PARAMETER = re.compile(rf"({_TOKEN})\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s\";,]*))", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_QUALITY = re.compile(r"0(?:\.\d*)?|\.\d+|1(?:\.0*)?", re.ASCII)
_TRANSFER_SYNTAX = re.compile(r"[0-9.]{1,64}|\*", re.ASCII)

_MODERN_NAMES: Final = {
    "image/x-dicom-rle": "image/dicom-rle",
    "image/dicom+rle": "image/dicom-rle",
    "image/x-jls": "image/jls",
    "image/dicom+jpeg-ls": "image/jls",
    "image/dicom+jpeg": "image/jpeg",
    "image/dicom+jp2": "image/jp2",
    "image/dicom+jpx": "image/jpx",
    "image/jpg": "image/jpeg",
    "text/json": "application/json",
}

_RENDERED_ONLY: Final = frozenset(
    ("image/gif", "image/png", "image/jph", "text/html", "text/plain", "text/xml", "text/rtf", "application/pdf")
)
_DICOM_ONLY: Final = frozenset(("application/dicom", "application/dicom+json", "application/dicom+xml"))


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type or range in lower case, with its parameters, whose names are in lower case too."""

    name: str
    """`type/subtype`, either of which may be `*`."""
    parameters: Mapping[str, str] = field(default_factory=dict)

    def parameter(self, name: str) -> str:
        """A parameter without its quotes; "" if it is missing."""
        return self.parameters.get(name, "")


class Offer(NamedTuple):
    """One form in which a resource is available."""

    media_type: str
    is_multipart: bool = False
    """Whether it is sent in parts of a multipart/related body."""

    def __str__(self) -> str:
        return f'{MULTIPART}; type="{self.media_type}"' if self.is_multipart else self.media_type


class Choice(NamedTuple):
    """One form that the request accepts."""

    offer: Offer
    transfer_syntax: str
    """The requested UID; `ANY`; "" without a request, which means Explicit VR Little Endian (PS3.18 8.7.3.5.2)."""
    quality: float = 1.0
    """Choices of the same quality are equally welcome: the server may prefer one."""


class _Range(NamedTuple):
    media_type: str
    is_multipart: bool
    transfer_syntax: str
    quality: float

    @property
    def generality(self) -> int:
        """0 without a wildcard, 3 for */*."""
        if self.media_type == "*/*":
            return 2 if self.is_multipart else 3
        return 1 if "*" in self.media_type else 0

    def matches(self, offer: Offer) -> bool:
        if self.media_type == "*/*" and not self.is_multipart:
            return True
        if self.is_multipart != offer.is_multipart:
            return False
        return self.media_type in ("*/*", offer.media_type) or (
            self.media_type.endswith("/*") and offer.media_type.startswith(self.media_type[:-1])
        )


def negotiate(
    offers: Sequence[Offer], header: str | None, query: Sequence[str] = (), *, is_strict: bool = False
) -> list[Choice]:
    """The offers that the request accepts, best first; at least one.

    `header`: Accept, None if there is none; several are joined by commas. `query`: the values of `accept`, decoded.
    Raises NotAcceptable; RequestError for DICOM and rendered types in one request (8.7.4).
    """
    if header is None or not header.strip():
        header = "" if is_strict or query else "*/*"
    query_ranges = [each for each in _ranges(",".join(query)) if "*" not in each.media_type]
    header_ranges = _ranges(header)
    _check_unmixed([*query_ranges, *header_ranges])
    choices = [*_choose(query_ranges, offers), *_choose(header_ranges, offers)]
    if not choices:
        raise NotAcceptable(f"this resource is available as {', or '.join(map(str, offers))}")
    return list(dict.fromkeys(choices))


def accepts_utf_8(header: str | None, query: Sequence[str] = ()) -> bool:
    """Whether Accept-Charset, or `charset=`, allows UTF-8, in which we send text (PS3.18 8.8)."""
    value = ",".join(query) or header or ""
    if not value.strip():
        return True
    any_other = False
    for text in _split(value[:HEADER_CHARACTERS_MAX], ","):
        name, *parameters = [part.strip() for part in text.split(";")]
        is_excluded = any(_quality_of(part) == 0 for part in parameters)
        if name.lower() in ("utf-8", "utf8", "us-ascii", "iso_ir 192", "iso_ir_192"):
            return not is_excluded
        any_other = any_other or (name == "*" and not is_excluded)
    return any_other


@lru_cache(maxsize=256)
def parse_media_type(text: str) -> MediaType | None:
    """Parses a Content-Type or one range; None if it is invalid, or has a parameter twice.

    Cached: a client writes the same with each request.
    """
    if len(text) > HEADER_CHARACTERS_MAX:
        return None
    name, *parts = _split(text, ";")
    if _MEDIA_TYPE.fullmatch(name.strip()) is None or len(parts) > _PARAMETERS_MAX:
        return None
    parameters: dict[str, str] = {}
    for part in parts:
        parameter = _PARAMETER.fullmatch(part.strip())
        if parameter is None:
            continue  # ignore an invalid parameter
        quoted, plain = parameter[2], parameter[3]
        key = parameter[1].lower()
        if key in parameters:
            return None
        parameters[key] = _ESCAPED.sub(r"\1", quoted) if quoted is not None else plain
    lower = name.strip().lower()
    return MediaType(_MODERN_NAMES.get(lower, lower), parameters)


def _ranges(header: str) -> list[_Range]:
    """The valid ranges of a header, in their order."""
    ranges = []
    for count, text in enumerate(_split(header[:HEADER_CHARACTERS_MAX], ",")):
        if count == RANGES_MAX:
            break
        media_type = parse_media_type(text)
        media_range = media_type and _range(media_type)
        if media_range:
            ranges.append(media_range)
    return ranges


def _range(media_type: MediaType) -> _Range | None:
    quality = media_type.parameters.get("q")
    is_quality = quality is not None and _QUALITY.fullmatch(quality)
    name, transfer_syntax = media_type.name, media_type.parameters.get("transfer-syntax")
    is_multipart = name in (MULTIPART, "multipart/*")
    if is_multipart:
        inner = parse_media_type(media_type.parameter("type") or "*/*")
        if inner is None or inner.name.startswith("multipart/"):
            return None
        name = inner.name
        inner_syntax = inner.parameters.get("transfer-syntax")
        if inner_syntax is not None and transfer_syntax not in (None, inner_syntax):
            return None
        transfer_syntax = inner_syntax if transfer_syntax is None else transfer_syntax
    if transfer_syntax is not None and not _TRANSFER_SYNTAX.fullmatch(transfer_syntax):
        return None
    if name.startswith("*/") and name != "*/*":
        return None
    return _Range(name, is_multipart, transfer_syntax or "", float(quality or 1) if is_quality else 1.0)


def _choose(ranges: Sequence[_Range], offers: Sequence[Offer]) -> Iterator[Choice]:
    excluded = {offer for offer in offers if _is_excluded(offer, ranges)}
    by_preference = sorted(
        (each for each in ranges if each.quality > 0), key=lambda each: (-each.quality, each.generality)
    )
    for each in by_preference:
        default = next((offer for offer in offers if each.matches(offer) and offer not in excluded), None)
        if default is not None:
            yield Choice(default, each.transfer_syntax, each.quality)


def _is_excluded(offer: Offer, ranges: Sequence[_Range]) -> bool:
    """Whether the most specific ranges that match an offer all have q=0, one for each transfer syntax."""
    matches = [each for each in ranges if each.matches(offer)]
    if not matches:
        return False
    generality_min = min(each.generality for each in matches)
    return all(each.quality == 0 for each in matches if each.generality == generality_min)


def _check_unmixed(ranges: Sequence[_Range]) -> None:
    names = {each.media_type for each in ranges if each.quality > 0}
    rendered = names & _RENDERED_ONLY
    dicom = names & _DICOM_ONLY or {each.media_type for each in ranges if each.is_multipart} - rendered
    if dicom and rendered:
        raise RequestError(
            f"Accept: {min(rendered)} is a rendered media type, {min(dicom)} a DICOM one: request only one kind"
        )


def _quality_of(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    is_quality = name.strip().lower() == "q" and _QUALITY.fullmatch(value.strip())
    return float(value) if is_quality else 1.0


def _split(text: str, separator: str) -> list[str]:
    """Splits at separators outside quotes; an open quote ends with the text."""
    if '"' not in text:
        return text.split(separator)
    parts = []
    start = 0
    is_quoted = is_escaped = False
    for i, character in enumerate(text):
        if is_escaped:
            is_escaped = False
        elif is_quoted and character == "\\":
            is_escaped = True
        elif character == '"':
            is_quoted = not is_quoted
        elif character == separator and not is_quoted:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return parts
