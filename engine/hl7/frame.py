"""MLLP: messages as blocks in a stream of bytes (HL7 Minimal Lower Layer Protocol, release 1).

    0B  message …  1C 0D

`framed` writes nothing else. `FrameReader` takes what senders really write, and says what was odd:

    bytes before 0B           skipped, the first of them kept for the journal
    0B 0B, 1C 0D 1C 0D        the second of a pair is skipped
    1C 0A, 1C 0B, 1C at last  ends a block as 1C 0D does; so does 1C before a pause, and 0D 0C before 0B or a pause
    MSH without 0B            a block all the same; it ends at 1C 0D, at the next 0B or at a pause
    0B MSH inside a block     the block before was cut off: it is returned as such, and never acknowledged
    06, 15 as a block         the acknowledgement of MLLP release 2; `is_commit` says so

A pause is what the caller takes for one: it then calls `pause`. A request of HTTP is refused (`FrameError`): a browser
can be made to post a message to any port.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from engine.errors import FrameError, FrameTooLong

START = b"\x0b"
END = b"\x1c\x0d"
BYTES_MAX = 16 << 20
"""A report with a PDF or a scanned document has some MiB."""
SKIPPED_KEPT_BYTES = 64

_END = re.compile(rb"\x1c[\r\n\x0b]")
_HTTP = re.compile(rb"(GET|POST|PUT|HEAD|OPTIONS|PATCH|DELETE|CONNECT|TRACE) [^\r\n]{0,4000} HTTP/1")
_UNFRAMED = re.compile(rb"MSH[^A-Za-z0-9\s]")
_PADDING = b"\r\n\x1c\x00 "


class Frame(NamedTuple):
    """One block."""

    payload: bytes
    oddities: tuple[str, ...] = ()
    """What was not as the protocol has it, in words; bytes in hex."""
    is_cut: bool = False
    """Whether the block ends before its message does."""

    @property
    def is_commit(self) -> bool:
        """Whether it is no message but an acknowledgement of MLLP release 2."""
        return self.payload in (b"\x06", b"\x15")


def framed(message: bytes) -> bytes:
    """A message as a block."""
    return b"".join((START, message, END))


class FrameReader:
    """Finds the blocks in what one connection sends; holds at most one message."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._data = bytearray()
        self._searched = 0
        """Bytes of the block in which no end was found."""
        self._inside = False
        self._oddities: list[str] = []
        self._skipped = bytearray()
        self._skipped_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes that were received and have not been returned."""
        return len(self._data)

    @property
    def is_idle(self) -> bool:
        """Whether no block has begun."""
        return not self._inside and not self._data

    @property
    def head(self) -> bytes:
        """The beginning of the block that has not ended: for the answer to one that is too long."""
        return bytes(self._data[:4096]) if self._inside else b""

    def feed(self, data: bytes | bytearray | memoryview, most: int | None = None) -> list[Frame]:
        """The blocks that these bytes complete, `most` at most: feed b"" for the others. Raises FrameTooLong,
        FrameError: then close the connection.
        """
        self._data += data
        frames: list[Frame] = []
        while self._data and (most is None or len(frames) < most):
            if not self._inside and not self._enter():
                break
            frame = self._next()
            if frame is None:
                break
            frames.append(frame)
        return frames

    def pause(self) -> list[Frame]:
        """The sender has stopped: what may be a whole message is one. Call it after a second without bytes."""
        if not self._inside or not self._data:
            return []
        data = self._data
        if data.endswith(b"\x1c"):
            return [self._take(len(data) - 1, 1, "ends with 1C alone")]
        if data.endswith(b"\r\x0c"):
            return [self._take(len(data) - 1, 1, "ends with 0D 0C")]
        if "begins without 0B" in self._oddities and data.endswith((b"\r", b"\n")):
            return [self._take(len(data), 0, "ends without 1C 0D")]
        return []

    def end(self) -> list[Frame]:
        """The connection has ended: what is whole, and what was cut off."""
        frames = self.pause()
        if self._inside and self._data:
            frames.append(self._take(len(self._data), 0, "the connection ended inside a message", is_cut=True))
        return frames

    def _enter(self) -> bool:
        """Skips to the beginning of a block; False: there is none yet."""
        data = self._data
        start = data.find(START)
        unframed = _UNFRAMED.search(data, 0, start if start >= 0 else len(data))
        if not unframed and start < 0:
            # The beginning of "MSH|" may be the last bytes.
            keep = next((count for count in (3, 2, 1) if data.endswith(b"MSH"[:count])), 0)
            self._skip(len(data) - keep)
            return False
        self._skip(unframed.start() if unframed else start)
        if self._skipped.strip(_PADDING):
            if _HTTP.match(bytes(self._skipped_head())):
                raise FrameError("a request of HTTP on a port of HL7")
            shown = self._skipped[:SKIPPED_KEPT_BYTES].hex(" ")
            self._oddities.append(f"{self._skipped_bytes} bytes before 0B: {shown}")
        elif b"\x1c" in self._skipped:
            self._oddities.append("1C 0D twice")
        self._skipped.clear()
        self._skipped_bytes = 0
        if unframed:
            self._oddities.append("begins without 0B")
        else:
            del data[:1]
        self._inside = True
        self._searched = 0
        return True

    def _skipped_head(self) -> bytearray:
        return self._skipped.lstrip(_PADDING)

    def _skip(self, count: int) -> None:
        if not count:
            return
        room = 4096 - len(self._skipped)
        if room > 0:
            self._skipped += self._data[: min(count, room)]
        self._skipped_bytes += count
        del self._data[:count]
        if _HTTP.match(bytes(self._skipped_head())):
            raise FrameError("a request of HTTP on a port of HL7")

    def _next(self) -> Frame | None:
        data = self._data
        while data.startswith(START):
            del data[:1]
            if "0B twice" not in self._oddities:
                self._oddities.append("0B twice")
        # In C: each byte of a message may be 1C.
        found = _END.search(data, self._searched)
        end = found.start() if found else len(data)
        again = _find_start(data, max(self._searched - 4, 0), end)
        if again >= 0:
            return self._restart(again)
        if end > self._bytes_max:
            raise FrameTooLong(f"a message of more than {self._bytes_max} bytes")
        if found is None:
            self._searched = max(len(data) - 1, 0)
            return None
        second = data[end + 1]
        odd = "" if second == 0x0D else f"ends with 1C {second:02X}"
        return self._take(end, 1 if second == 0x0B else 2, odd)

    def _restart(self, at: int) -> Frame:
        """A block begins inside a block."""
        if self._data[:at].endswith(b"\r\x0c"):
            return self._take(at - 1, 1, "ends with 0D 0C")
        if "begins without 0B" in self._oddities:
            return self._take(at, 0, "ends without 1C 0D")
        return self._take(at, 0, "another message begins inside it", is_cut=True)

    def _take(self, length: int, more: int, oddity: str, *, is_cut: bool = False) -> Frame:
        payload = bytes(memoryview(self._data)[:length])
        del self._data[: length + more]
        if oddity:
            self._oddities.append(oddity)
        oddities, self._oddities = tuple(self._oddities), []
        self._inside = False
        self._searched = 0
        return Frame(payload, oddities, is_cut)


def _find_start(data: bytearray, start: int, end: int) -> int:
    """Where a message begins between these places; -1 if none does."""
    return data.find(b"\x0bMSH", start, end)
