"""A multipart body taken apart with the whole of it in memory: the slow twin of `ext/multipart.pyx`."""

from __future__ import annotations

import re

PADDING_BYTES_MAX = 64


class NotWhole(Exception):
    """The body ends too early, or a header block is too long."""


def take_apart(
    body: bytes, boundary: bytes, header_bytes_max: int, preamble_bytes_max: int
) -> list[tuple[bytes, bytes]]:
    """Header block and content of each part. Raises NotWhole."""
    text = b"\n" + body
    at = content_start = 1
    header: bytes | None = None
    parts: list[tuple[bytes, bytes]] = []
    looks_like = re.compile(b"\n--" + re.escape(boundary))
    ends_line = re.compile(rb"--|[ \t\r]*\n")
    at = 0
    while found := looks_like.search(text, at):
        at = found.end()
        end = ends_line.match(text[: found.end() + PADDING_BYTES_MAX], found.end())
        stop = max(found.start(), content_start)
        if found.start() > content_start and text[found.start() - 1] == 0x0D:
            stop -= 1
        if header is None and stop - content_start > preamble_bytes_max:
            raise NotWhole
        if end is None:
            continue
        if header is not None:
            parts.append((header, text[content_start:stop]))
        if end.group() == b"--":
            return parts
        start = end.end()
        blank = re.compile(rb"\n\r?\n").search(text, start - 1)
        if blank is None or blank.start() - start + 1 > header_bytes_max:
            raise NotWhole
        header = text[start : blank.start() + 1]
        content_start, at = blank.end(), blank.end() - 1
    raise NotWhole
