"""multipart/related bodies (RFC 2046 5.1, RFC 2387, PS3.18 8.6.1.2): writes them, and reads them from any pieces.

Without I/O. Bodies are written in one form, which strict parsers in the field understand too:

    --BOUNDARY CRLF                              no preamble; CRLF before it from the second part on
    Content-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1 CRLF
    Content-Location: /dicom-web/studies/…       CRLF
    Content-Length: 524288                       CRLF CRLF
    the part's bytes
    …                                            CRLF --BOUNDARY-- and no epilogue

The boundary is a keyed hash of the entity tag: the same for each request, so that a byte range means the same bytes
each time, and unpredictable, so that uploaded pixel data cannot contain it on purpose. The length of a body is known
before its first byte is sent.

A body that is read (by `ext/multipart.pyx`) may have line ends without CR, a preamble, an epilogue, a boundary of any
length and in quotes, spaces behind it, and parts without a header or a Content-Type. Refused: a body that ends before
its closing boundary, parts that are multipart themselves or encoded, header blocks longer than HEAD_BYTES_MAX.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from engine._ext.multipart import END, NO_BOUNDARY, PART, PIECE, Splitter
from engine._ext.multipart import BlockPool as BlockPool
from engine.errors import MultipartError
from engine.web.accept import MULTIPART, MediaType, parse_media_type

if TYPE_CHECKING:
    from typing_extensions import Buffer

HEAD_BYTES_MAX: Final = 16 << 10
"""The maximum of one part's header block: a URL of 8 KiB and other headers."""
HEADER_COUNT_MAX: Final = 32
PREAMBLE_BYTES_MAX: Final = 64 << 10
BOUNDARY_CHARACTERS_MAX: Final = 250
"""RFC 2046 allows 70; a client that joins two GUIDs sends 73."""
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_BOUNDARY_HEX_DIGITS: Final = 40


# writing -----------------------------------------------------------------------------------------------------------


def boundary_of(key: bytes, entity: bytes) -> str:
    """The boundary for an entity tag; `key`: the archive's secret, of which up to 64 bytes are used."""
    return hashlib.blake2b(entity, key=key[:64], digest_size=_BOUNDARY_HEX_DIGITS // 2, person=b"multipart").hexdigest()


class Slice(NamedTuple):
    """Bytes of one part's content."""

    part: int
    """Counted from 0."""
    offset: int
    length: int


class Writer:
    """Writes one multipart body: its boundaries and headers, and their offsets."""

    def __init__(self, boundary: str, media_type: str) -> None:
        self._boundary = boundary.encode("ascii")
        self.content_type = f'{MULTIPART}; type="{media_type}"; boundary={boundary}'
        """The Content-Type of the whole body."""

    def head(
        self, part: int, content_type: str, content_location: str = "", content_length: int | None = None
    ) -> bytes:
        """The boundary and headers before the content of a part, counted from 0."""
        lines = [b"--" + self._boundary, b"Content-Type: " + _header_value(content_type)]
        if content_location:
            lines.append(b"Content-Location: " + _header_value(content_location))
        if content_length is not None:
            lines.append(b"Content-Length: %d" % content_length)
        return (b"\r\n" if part else b"") + b"\r\n".join(lines) + b"\r\n\r\n"

    def end(self, part_count: int) -> bytes:
        """The closing boundary after the last part; without parts, the whole body."""
        return (b"\r\n" if part_count else b"") + b"--" + self._boundary + b"--"

    def length(self, heads: Sequence[bytes], content_lengths: Sequence[int]) -> int:
        """The length of the whole body."""
        return sum(map(len, heads)) + sum(content_lengths) + len(self.end(len(heads)))

    def pieces(
        self, heads: Sequence[bytes], content_lengths: Sequence[int], start: int, stop: int
    ) -> Iterator[bytes | Slice]:
        """The pieces that form the bytes from `start` to `stop` (exclusive) of the whole body."""
        at = 0
        for part, (head, length) in enumerate(zip(heads, content_lengths, strict=True)):
            if at >= stop:
                return
            if start < at + len(head):
                yield head[max(start - at, 0) : stop - at]
            at += len(head)
            low, high = max(start, at), min(stop, at + length)
            if low < high:
                yield Slice(part, low - at, high - low)
            at += length
        end = self.end(len(heads))
        if start < at + len(end) and at < stop:
            yield end[max(start - at, 0) : stop - at]


def _header_value(text: str) -> bytes:
    """Raises ValueError for characters that are not allowed in a header."""
    if not text.isascii() or not text.isprintable():
        raise ValueError(f"not a header value: {text!r}")
    return text.encode("ascii")


# reading -----------------------------------------------------------------------------------------------------------


class PartBegin(NamedTuple):
    """A part's header block."""

    content_type: MediaType | None
    """None: it has none."""
    content_location: str
    content_id: str
    content_length: int | None
    """The header's value, which is not verified."""


class Piece(NamedTuple):
    """The next contiguous bytes of a part's content."""

    view: memoryview
    summed_from: int
    """The offset of the data set in the content, according to a DICOM file's group 0002; -1: it is not known."""
    crc: int
    """crc32c of the content from there to the end of this piece."""


class PartEnd(NamedTuple):
    """The part is complete."""


Event: TypeAlias = "PartBegin | Piece | PartEnd"


def boundary_in(content_type: MediaType) -> str:
    """The boundary that a Content-Type names. Raises MultipartError."""
    boundary = content_type.parameter("boundary")
    if not content_type.name.startswith("multipart/"):
        raise MultipartError(f"Content-Type: {content_type.name[:80]} is not multipart")
    if not boundary:
        raise MultipartError("Content-Type: multipart without a boundary")
    if len(boundary) > BOUNDARY_CHARACTERS_MAX or not boundary.isascii() or not boundary.isprintable():
        raise MultipartError(f"Content-Type: invalid boundary, or longer than {BOUNDARY_CHARACTERS_MAX} characters")
    return boundary.rstrip(" ")


class Reader:
    """Parses a body as it arrives. Feed it the whole body, or let a transport write to it, then finish.

    `get_buffer` and `buffer_updated` are as in asyncio.BufferedProtocol; the latter returns the number of pending
    events. An error is final.
    """

    def __init__(self, boundary: str, blocks: BlockPool | None = None) -> None:
        """`boundary`: "" for a body that is one content without header block. `blocks`: the memory to use."""
        self._splitter = Splitter(
            blocks or BlockPool(keep=1),
            boundary.encode("ascii"),
            preamble_bytes_max=PREAMBLE_BYTES_MAX,
            header_bytes_max=HEAD_BYTES_MAX,
        )
        self.get_buffer = self._splitter.get_buffer
        self.buffer_updated = self._splitter.buffer_updated

    @property
    def part_count(self) -> int:
        """Parts that have begun."""
        return self._splitter.part_count

    def expect(self, length: int) -> None:
        """Sets the length of the body: buffers are never longer than the rest of it."""
        self._splitter.bytes_left = length

    def write(self, data: Buffer) -> None:
        """Copies the next bytes."""
        self._splitter.feed(data)

    def feed(self, data: Buffer) -> list[Event]:
        """Copies the next bytes and returns the events. Raises MultipartError."""
        self._splitter.feed(data)
        return self.events()

    def events(self) -> list[Event]:
        """The events since the last call. Raises MultipartError."""
        return [self._event(fields) for fields in self._splitter.take()]

    @property
    def has_part(self) -> bool:
        """Whether a part has ended whose events were not taken."""
        return any(fields[0] == END for fields in self._splitter.waiting()[0])

    def whole_parts(self) -> list[tuple[PartBegin, list[Piece]]] | None:
        """The parts of a body that has arrived with its closing boundary, and their pieces.

        None: it is no such body, or parts of it were taken before; `events` and `finish` say what it is.
        """
        waiting, has_ended = self._splitter.waiting()
        if not has_ended or not waiting or waiting[0][0] != PART:
            return None
        parts: list[tuple[PartBegin, list[Piece]]] = []
        for fields in waiting:
            if fields[0] == PIECE:
                parts[-1][1].append(Piece(fields[1], fields[2], fields[3]))
            elif fields[0] == PART:
                try:
                    parts.append((_part_begin(fields[1]), []))
                except MultipartError:
                    return None
        return parts

    def finish(self) -> list[Event]:
        """The last events, at the end of the body. Raises MultipartError if the body is incomplete."""
        is_whole = self._splitter.finish()
        events = self.events()
        if is_whole:
            return events
        if not self.part_count:
            raise MultipartError("the multipart body has no part: its boundary does not occur")
        raise MultipartError(f"the multipart body ends within part {self.part_count}, without its closing boundary")

    def stop(self) -> None:
        """Ends reading and releases the memory."""
        self._splitter.stop()

    def _event(self, fields: tuple[Any, ...]) -> Event:
        kind = fields[0]
        if kind == PIECE:
            return Piece(fields[1], fields[2], fields[3])
        if kind == END:
            return _PART_END
        if kind == PART:
            return _part_begin(fields[1])
        if fields[1] == NO_BOUNDARY:
            raise MultipartError(f"no boundary within the first {PREAMBLE_BYTES_MAX} bytes of the multipart body")
        raise MultipartError(f"part {self.part_count + 1} has a header block of more than {HEAD_BYTES_MAX} bytes")


_PART_END: Final = PartEnd()


@lru_cache(maxsize=64)
def _part_begin(block: bytes) -> PartBegin:
    """Parses a header block. Raises MultipartError."""
    lines = [line.rstrip("\r") for line in _FOLD.sub(b" ", block).decode("latin-1").split("\n")[:-1]]
    if len(lines) > HEADER_COUNT_MAX:
        raise MultipartError(f"a part has more than {HEADER_COUNT_MAX} headers")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon or not name:
            raise MultipartError("a part has an invalid header")
        if name in headers:
            raise MultipartError(f"a part has the header {name[:40]} twice")
        headers[name] = value.strip()
    content_type = _content_type(headers.get("content-type", ""))
    if headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise MultipartError("a part has a Content-Transfer-Encoding; only binary is supported (PS3.18 8.6.1.2)")
    length = headers.get("content-length", "")
    return PartBegin(
        content_type,
        headers.get("content-location", ""),
        headers.get("content-id", ""),
        int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None,
    )


def _content_type(text: str) -> MediaType | None:
    if not text:
        return None
    found = parse_media_type(text)
    if found is None:
        raise MultipartError("a part has no Content-Type that can be read")
    if found.name.startswith("multipart/"):
        raise MultipartError("a part is multipart itself")
    return found
