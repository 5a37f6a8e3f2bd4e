"""Conditional requests and ranges (RFC 9110 13 and 14). Pure functions of the headers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from engine.errors import EngineError
from engine.web.errors import PreconditionFailed

_ETAG: Final = re.compile(r'\s*(W/)?("[^"]*")\s*(?:,|$)')
_RANGE: Final = re.compile(r"bytes=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)


class Unsatisfiable(EngineError):
    """A range that has no byte of the body (416)."""

    def __init__(self, length: int) -> None:
        super().__init__(f"no byte of {length} is in that range")
        self.length = length


def check_match(headers: Mapping[str, str], etags: Collection[str]) -> None:
    """Raises PreconditionFailed if there is an If-Match with none of these entity tags, by strong comparison."""
    value = headers.get("If-Match")
    if value is None or value.strip() == "*":
        return
    if not any(not is_weak and tag in etags for is_weak, tag in _ETAG.findall(value)):
        raise PreconditionFailed("If-Match: the resource has another entity tag now")


def is_unchanged(headers: Mapping[str, str], etag: str) -> bool:
    """Whether the client's copy is current (304): If-None-Match, with weak comparison.

    Raises PreconditionFailed for an If-Match that is another's, which comes first (RFC 9110 13.2.2).
    """
    check_match(headers, (etag,))
    value = headers.get("If-None-Match")
    if value is None:
        return False
    return value.strip() == "*" or any(_opaque(etag) == tag for _, tag in _ETAG.findall(value))


def byte_range(headers: Mapping[str, str], etag: str, length: int) -> tuple[int, int] | None:
    """The start and the end (exclusive) of the requested range; None: the whole body. Raises Unsatisfiable.

    Several ranges, other units and invalid ranges are ignored, as RFC 9110 14.2 allows. An If-Range that is not this
    entity tag, or is a date, means the whole body.
    """
    match = _RANGE.fullmatch(headers.get("Range", "").strip())
    if match is None or not (match[1] or match[2]):
        return None
    if (condition := headers.get("If-Range")) is not None and (etag.startswith("W/") or condition.strip() != etag):
        return None
    if not match[1]:
        count = min(int(match[2]), length)
        if not count:
            raise Unsatisfiable(length)
        return length - count, length
    first, last = int(match[1]), int(match[2]) if match[2] else length - 1
    if match[2] and last < first:
        return None
    if first >= length:
        raise Unsatisfiable(length)
    return first, min(last + 1, length)


def _opaque(etag: str) -> str:
    return etag.removeprefix("W/")
