"""multipart/related bodies (RFC 2046 5.1, RFC 2387, PS3.18 8.6.1.2): written around bytes, read from any pieces.

Pure: no sockets. What is written has one form, which also the parsers in the field understand that want exactly that:

    --BOUNDARY CRLF                              no preamble; CRLF before it from the second part on
    Content-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1 CRLF
    Content-Location: /dicom-web/studies/…       CRLF
    Content-Length: 524288                       CRLF CRLF
    the part's bytes
    …                                            CRLF --BOUNDARY-- and no epilogue

The boundary is a keyed hash of the entity tag: the same for each request, so that a range of the whole body means the
same bytes, and not to be guessed by whoever uploads pixels. A body's length is known before its first byte is sent.

What is read may have line ends without CR, a preamble, an epilogue, a boundary of any length and in quotes, blanks
behind it, and parts without a header or a Content-Type. Refused: a body that ends before its closing boundary, parts
that are multipart themselves or encoded, header blocks beyond HEAD_BYTES_MAX.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from engine.errors import MultipartError
from engine.web.accept import MULTIPART, MediaType, parse_media_type

HEAD_BYTES_MAX: Final = 16 << 10
"""Of one part's header block; a URL of 8 KiB and what stands beside it."""
HEADER_COUNT_MAX: Final = 32
PREAMBLE_BYTES_MAX: Final = 64 << 10
BOUNDARY_CHARACTERS_MAX: Final = 250
"""RFC 2046 allows 70; a client that joins two GUIDs sends 73."""
_PADDING_BYTES_MAX: Final = 64
"""Blanks between a boundary and its line end."""
_HEAD_STEP_BYTES: Final = 1 << 10
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_BOUNDARY_HEX_DIGITS: Final = 40


# writing -----------------------------------------------------------------------------------------------------------


def boundary_of(key: bytes, entity: bytes) -> str:
    """The boundary of what `entity` names; `key` is the archive's secret, up to 64 bytes of it count."""
    return hashlib.blake2b(entity, key=key[:64], digest_size=_BOUNDARY_HEX_DIGITS // 2, person=b"multipart").hexdigest()


class Slice(NamedTuple):
    """Bytes of one part's own content."""

    part: int
    """Counted from 0."""
    offset: int
    length: int


class Writer:
    """One multipart body: what stands around its parts, and where everything lies in it."""

    def __init__(self, boundary: str, media_type: str) -> None:
        self._boundary = boundary.encode("ascii")
        self.content_type = f'{MULTIPART}; type="{media_type}"; boundary={boundary}'
        """Of the whole body."""

    def head(
        self, part: int, content_type: str, content_location: str = "", content_length: int | None = None
    ) -> bytes:
        """What stands before the content of a part, counted from 0."""
        lines = [b"--" + self._boundary, b"Content-Type: " + _header_value(content_type)]
        if content_location:
            lines.append(b"Content-Location: " + _header_value(content_location))
        if content_length is not None:
            lines.append(b"Content-Length: %d" % content_length)
        return (b"\r\n" if part else b"") + b"\r\n".join(lines) + b"\r\n\r\n"

    def end(self, part_count: int) -> bytes:
        """What stands behind the last part; of no parts, the whole body."""
        return (b"\r\n" if part_count else b"") + b"--" + self._boundary + b"--"

    def length(self, heads: Sequence[bytes], content_lengths: Sequence[int]) -> int:
        """Of the whole body."""
        return sum(map(len, heads)) + sum(content_lengths) + len(self.end(len(heads)))

    def pieces(
        self, heads: Sequence[bytes], content_lengths: Sequence[int], start: int, stop: int
    ) -> Iterator[bytes | Slice]:
        """What makes the bytes from `start` to before `stop` of the whole body."""
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
    """Raises ValueError for what would end the line."""
    if not text.isascii() or not text.isprintable():
        raise ValueError(f"no header value: {text!r}")
    return text.encode("ascii")


# reading -----------------------------------------------------------------------------------------------------------


class PartBegin(NamedTuple):
    """A part's header block."""

    content_type: MediaType | None
    """None: it has none."""
    content_location: str
    content_id: str
    content_length: int | None
    """As it is claimed."""


class PartEnd(NamedTuple):
    """The part that has begun is whole."""


Event: TypeAlias = "PartBegin | bytes | memoryview | PartEnd"
"""Bytes are the part's content; a memory view is of the chunk that was fed."""


def boundary_in(content_type: MediaType) -> str:
    """The boundary that a Content-Type names. Raises MultipartError."""
    boundary = content_type.parameter("boundary")
    if not content_type.name.startswith("multipart/"):
        raise MultipartError(f"Content-Type: {content_type.name[:80]} is not multipart")
    if not boundary:
        raise MultipartError("Content-Type: multipart without a boundary")
    if len(boundary) > BOUNDARY_CHARACTERS_MAX or not boundary.isascii() or not boundary.isprintable():
        raise MultipartError(f"Content-Type: no boundary, or longer than {BOUNDARY_CHARACTERS_MAX} characters")
    return boundary.rstrip(" ")


class Reader:
    """Takes a multipart body apart as it comes. Feed it all of it, then finish.

    Keeps no more than a header block, or what may be the beginning of a boundary. An error is final.
    """

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"\n--" + boundary.encode("ascii")
        self._go_on: Callable[[Reader, bytes, int], int] = Reader._content
        """No bound method: in a circle, what was fed last would stay until the garbage collector comes."""
        self._events: list[Event] = []
        self._held = b"\n"
        """What has come and cannot be judged yet."""
        self._is_lead = True
        """The first byte held is the line end of what went before, and no content."""
        self._delimiter_bytes = b""
        """What looked like the beginning of a line with a boundary."""
        self._preamble_bytes = 0
        self.part_count = 0
        """Parts that have begun."""

    def feed(self, chunk: bytes) -> list[Event]:
        """What follows. Views of the chunk are among the events. Raises MultipartError."""
        self._events = []
        offset = 0
        while offset < len(chunk):
            offset = self._go_on(self, chunk, offset)
        return self._events

    def finish(self) -> None:
        """The body has ended. Raises MultipartError if that is too early."""
        if self._go_on is Reader._epilogue:
            return
        if not self.part_count:
            raise MultipartError("the multipart body has no part: its boundary does not occur")
        raise MultipartError(f"the multipart body ends within part {self.part_count}, without its closing boundary")

    # Each state goes on from an offset in a chunk, and says where the next one does.

    def _content(self, chunk: bytes, offset: int) -> int:
        if self._held:
            return self._content_across(chunk, offset)
        found = chunk.find(self._delimiter, offset)
        if found >= 0:
            start = _with_carriage_return(chunk, found, offset)
            self._give(memoryview(chunk)[offset:start])
            self._go_on, self._delimiter_bytes = Reader._line, chunk[start : found + len(self._delimiter)]
            return found + len(self._delimiter)
        doubtful = self._doubtful_from(chunk, offset)
        self._give(memoryview(chunk)[offset:doubtful])
        self._held = chunk[doubtful:]
        return len(chunk)

    def _content_across(self, chunk: bytes, offset: int) -> int:
        """The same where what is held may go on as a boundary; looks at so much of the chunk as that takes."""
        held_length, lead = len(self._held), int(self._is_lead)
        joined = self._held + chunk[offset : offset + len(self._delimiter) + 1]
        found = joined.find(self._delimiter)
        start = _with_carriage_return(joined, found, 0)
        if 0 <= start < held_length:
            self._give(joined[lead:start])
            self._held, self._is_lead = b"", False
            after = found + len(self._delimiter)
            self._go_on, self._delimiter_bytes = Reader._line, joined[max(start, lead) : after]
            return offset + after - held_length
        doubtful = self._doubtful_from(joined, 0)
        if doubtful < held_length:
            self._give(joined[lead:doubtful])
            self._held = joined[doubtful:]
            self._is_lead = bool(lead) and doubtful == 0
            return len(chunk)
        self._give(joined[lead:held_length])
        self._held, self._is_lead = b"", False
        return offset

    def _doubtful_from(self, data: bytes, offset: int) -> int:
        """From where on the end of `data` may be the beginning of a boundary."""
        newline = data.rfind(b"\n", max(offset, len(data) - len(self._delimiter) + 1))
        if newline >= 0 and self._delimiter.startswith(data[newline:]):
            return _with_carriage_return(data, newline, offset)
        return len(data) - (len(data) > offset and data.endswith(b"\r"))

    def _line(self, chunk: bytes, offset: int) -> int:
        """Behind a boundary: only the end of its line, or of the whole, makes it one."""
        held_length = len(self._held)
        joined = self._held + chunk[offset : offset + _PADDING_BYTES_MAX]
        if joined.startswith(b"--"):
            self._end_part()
            self._go_on, self._held = Reader._epilogue, b""
            return len(chunk)
        padding, newline, _ = joined.partition(b"\n")
        is_blank = not padding.strip(b" \t\r")
        if newline and is_blank:
            self._end_part()
            self._go_on, self._held = Reader._head, b"\n"
            return offset + len(padding) + 1 - held_length
        if (is_blank or joined == b"-") and len(joined) < _PADDING_BYTES_MAX:
            self._held = joined
            return len(chunk)
        self._give(self._delimiter_bytes + self._held)
        self._go_on, self._held = Reader._content, b""
        return offset

    def _head(self, chunk: bytes, offset: int) -> int:
        """A header block; what is held begins with the line end before it."""
        held_length = len(self._held)
        joined = self._held + chunk[offset : offset + _HEAD_STEP_BYTES]
        found = _HEAD_END.search(joined)
        if (len(joined) if found is None else found.start()) > HEAD_BYTES_MAX:
            raise MultipartError(f"part {self.part_count + 1} has a header block of more than {HEAD_BYTES_MAX} bytes")
        if found is None:
            self._held = joined
            return min(offset + _HEAD_STEP_BYTES, len(chunk))
        self.part_count += 1
        self._events.append(_part_begin(joined[1 : found.start() + 1], self.part_count))
        self._go_on, self._held, self._is_lead = Reader._content, b"\n", True
        return offset + found.end() - held_length

    def _epilogue(self, chunk: bytes, offset: int) -> int:
        return len(chunk)

    def _give(self, data: bytes | memoryview) -> None:
        if not data:
            return
        if self.part_count:
            self._events.append(data)
            return
        self._preamble_bytes += len(data)
        if self._preamble_bytes > PREAMBLE_BYTES_MAX:
            raise MultipartError(f"no boundary within the first {PREAMBLE_BYTES_MAX} bytes of the multipart body")

    def _end_part(self) -> None:
        if self.part_count:
            self._events.append(PartEnd())


def _with_carriage_return(data: bytes, newline: int, first: int) -> int:
    """Where a line end begins."""
    return newline - 1 if newline > first and data[newline - 1] == 0x0D else newline


def _part_begin(block: bytes, number: int) -> PartBegin:
    """A header block taken apart. Raises MultipartError."""
    lines = [line.rstrip("\r") for line in _FOLD.sub(b" ", block).decode("latin-1").split("\n")[:-1]]
    if len(lines) > HEADER_COUNT_MAX:
        raise MultipartError(f"part {number} has more than {HEADER_COUNT_MAX} headers")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon or not name:
            raise MultipartError(f"part {number} has something else where a header should be")
        if name in headers:
            raise MultipartError(f"part {number} has the header {name[:40]} twice")
        headers[name] = value.strip()
    content_type = _content_type(headers.get("content-type", ""), number)
    if headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise MultipartError(f"part {number} has a Content-Transfer-Encoding; only binary is taken (PS3.18 8.6.1.2)")
    length = headers.get("content-length", "")
    return PartBegin(
        content_type,
        headers.get("content-location", ""),
        headers.get("content-id", ""),
        int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None,
    )


def _content_type(text: str, number: int) -> MediaType | None:
    if not text:
        return None
    found = parse_media_type(text)
    if found is None:
        raise MultipartError(f"part {number} has no Content-Type that can be read")
    if found.name.startswith("multipart/"):
        raise MultipartError(f"part {number} is multipart itself")
    return found
