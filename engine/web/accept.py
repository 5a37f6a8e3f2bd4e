"""Which media types and transfer syntaxes a request accepts, best first (PS3.18 8.7, RFC 9110 12.5.1).

Pure: header and query in, choices out. A resource says what it offers, its default first; its handler takes the first
choice that it can fulfil for what is stored, and answers 406 if there is none.

    Accept: multipart/related; type="application/octet-stream"; transfer-syntax=*, image/jpeg;q=0.5
            └───────────── Choice(octet-stream in parts, "*") ─────────────────┘  └ Choice(image/jpeg alone, "") ┘

The order: `accept=` of the query, which has no wildcards; the header by q; of equal q the more specific range, then
the one named first. q=0 excludes. `*/*` and the like stand for the default of what they match, as PS3.18 8.7.4 wants
it, not for each of it. No header is `*/*`, since many clients forget it, unless `is_strict`.

What clients get wrong is read as they mean it: `type=` without quotes though it holds a slash, with a transfer syntax
inside its quotes, or `*/*`; old names of types. A range that makes no sense is passed over (8.7.4), one with two
transfer syntaxes too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from engine.errors import NotAcceptable, RequestError

HEADER_CHARACTERS_MAX: Final = 8 << 10
RANGES_MAX: Final = 64
"""Of one request; browsers send some ten, clients that list every image type with every transfer syntax some thirty."""
_PARAMETERS_MAX: Final = 16

MULTIPART: Final = "multipart/related"
ANY: Final = "*"
"""Instead of a transfer syntax: whichever it is."""

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
    """A media type or range of them, in lower case, with its parameters; their names are in lower case too."""

    name: str
    """`type/subtype`, either of which may be `*`."""
    parameters: Mapping[str, str] = field(default_factory=dict)

    def parameter(self, name: str) -> str:
        """A parameter without its quotes; "" if it is missing."""
        return self.parameters.get(name, "")


class Offer(NamedTuple):
    """One form in which a resource can be given."""

    media_type: str
    is_multipart: bool = False
    """In parts of a multipart/related body."""

    def __str__(self) -> str:
        return f'{MULTIPART}; type="{self.media_type}"' if self.is_multipart else self.media_type


class Choice(NamedTuple):
    """One form that the request accepts."""

    offer: Offer
    transfer_syntax: str
    """The UID that was asked for; `ANY`; "" if none was, which means Explicit VR Little Endian (PS3.18 8.7.3.5.2)."""


class _Range(NamedTuple):
    media_type: str
    is_multipart: bool
    transfer_syntax: str
    quality: float

    @property
    def generality(self) -> int:
        """0 for what has no wildcard, 3 for */*."""
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
    """What the request accepts of what is offered, best first; at least one.

    `header`: Accept, None if there is none; several are joined by commas. `query`: the values of `accept`, decoded.
    Raises NotAcceptable; RequestError for DICOM and rendered types in one request (8.7.4).
    """
    if header is None or not header.strip():
        header = "" if is_strict or query else "*/*"
    by_query = [found for found in _ranges(",".join(query)) if "*" not in found.media_type]
    by_header = _ranges(header)
    _check_unmixed([*by_query, *by_header])
    choices = [*_chosen(by_query, offers), *_chosen(by_header, offers)]
    if not choices:
        raise NotAcceptable(f"this resource is given as {', or '.join(map(str, offers))}")
    return list(dict.fromkeys(choices))


def accepts_utf_8(header: str | None, query: Sequence[str] = ()) -> bool:
    """Whether Accept-Charset, or `charset=`, leaves UTF-8, the one in which text is given (PS3.18 8.8)."""
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


def parse_media_type(text: str) -> MediaType | None:
    """A Content-Type, or one range; None if it is none, or has a parameter twice."""
    if len(text) > HEADER_CHARACTERS_MAX:
        return None
    name, *rest = _split(text, ";")
    found = _MEDIA_TYPE.fullmatch(name.strip())
    if found is None or len(rest) > _PARAMETERS_MAX:
        return None
    parameters: dict[str, str] = {}
    for part in rest:
        parameter = _PARAMETER.fullmatch(part.strip())
        if parameter is None:
            continue  # an invalid parameter is passed over
        quoted, plain = parameter[2], parameter[3]
        key = parameter[1].lower()
        if key in parameters:
            return None
        parameters[key] = _ESCAPED.sub(r"\1", quoted) if quoted is not None else plain
    lower = name.strip().lower()
    return MediaType(_MODERN_NAMES.get(lower, lower), parameters)


def _ranges(header: str) -> list[_Range]:
    """What makes sense of a header, in its order."""
    found = []
    for count, text in enumerate(_split(header[:HEADER_CHARACTERS_MAX], ",")):
        if count == RANGES_MAX:
            break
        media_type = parse_media_type(text)
        accepted = media_type and _range(media_type)
        if accepted:
            found.append(accepted)
    return found


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
        within = inner.parameters.get("transfer-syntax")
        if within is not None and transfer_syntax not in (None, within):
            return None
        transfer_syntax = within if transfer_syntax is None else transfer_syntax
    if transfer_syntax is not None and not _TRANSFER_SYNTAX.fullmatch(transfer_syntax):
        return None
    if name.startswith("*/") and name != "*/*":
        return None
    return _Range(name, is_multipart, transfer_syntax or "", float(quality or 1) if is_quality else 1.0)


def _chosen(ranges: Sequence[_Range], offers: Sequence[Offer]) -> Iterator[Choice]:
    excluded = {offer for offer in offers if _is_excluded(offer, ranges)}
    in_order = sorted(
        (accepted for accepted in ranges if accepted.quality > 0),
        key=lambda accepted: (-accepted.quality, accepted.generality),
    )
    for accepted in in_order:
        default = next((offer for offer in offers if accepted.matches(offer) and offer not in excluded), None)
        if default is not None:
            yield Choice(default, accepted.transfer_syntax)


def _is_excluded(offer: Offer, ranges: Sequence[_Range]) -> bool:
    """Whether the most specific range that an offer matches has q=0, in each of its transfer syntaxes."""
    matching = [accepted for accepted in ranges if accepted.matches(offer)]
    if not matching:
        return False
    most_specific = min(accepted.generality for accepted in matching)
    return all(accepted.quality == 0 for accepted in matching if accepted.generality == most_specific)


def _check_unmixed(ranges: Sequence[_Range]) -> None:
    names = {accepted.media_type for accepted in ranges if accepted.quality > 0}
    dicom = names & _DICOM_ONLY or {accepted.media_type for accepted in ranges if accepted.is_multipart}
    rendered = names & _RENDERED_ONLY
    if dicom and rendered:
        raise RequestError(
            f"Accept: {min(rendered)} is a rendered media type, {min(dicom)} a DICOM one: ask for either"
        )


def _quality_of(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    is_quality = name.strip().lower() == "q" and _QUALITY.fullmatch(value.strip())
    return float(value) if is_quality else 1.0


def _split(text: str, separator: str) -> list[str]:
    """At separators outside quotes; an open quote ends with the text."""
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
