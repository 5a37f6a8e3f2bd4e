"""A blocking HTTP/1.1 connection for the loads: requests as bytes, bodies read or dropped.

The kernel drops unneeded bodies (MSG_TRUNC) where there is no TLS.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from perf.association import TIMEOUT_S
from perf.harness import PerfError

_HEAD_BYTES_MAX = 65536
_BODY_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class WebTarget:
    """The root of the DICOMweb services under load."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with each request, e.g. credentials."""
    certificate_file: str = ""
    """Certificates that are trusted beside those of the system."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or (443 if self.is_secure else 80)

    @property
    def is_secure(self) -> bool:
        return urlsplit(self.url).scheme == "https"

    @property
    def authority(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def root(self) -> str:
        """The path before /studies."""
        return urlsplit(self.url).path.rstrip("/")

    @property
    def header_lines(self) -> str:
        return "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())


def web_target(url: str, headers: Mapping[str, str], certificate_file: str = "") -> WebTarget:
    """Checks a URL. Raises PerfError."""
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_complete = False
    if not is_complete:
        raise PerfError(f"{url} is no URL of DICOMweb services, such as http://127.0.0.1:8080/dicom-web")
    return WebTarget(url, headers, certificate_file)


@dataclass(frozen=True, slots=True)
class Answer:
    """The status and the body of one answer; a dropped body has a length only."""

    status: int
    byte_count: int
    body: bytes = b""


class Connection:
    """One kept connection. Raises PerfError if the peer does not answer, or not with HTTP."""

    def __init__(self, target: WebTarget) -> None:
        self.target = target
        self._ahead = b""
        self._scratch = memoryview(bytearray(1 << 18))
        self._sock = self._connected()
        self._is_ended = self._is_used = False

    def _connected(self) -> socket.socket:
        target = self.target
        try:
            sock: socket.socket = socket.create_connection((target.host, target.port), timeout=10)
            if target.is_secure:
                context = ssl.create_default_context()
                if target.certificate_file:
                    context.load_verify_locations(target.certificate_file)
                sock = context.wrap_socket(sock, server_hostname=target.host)
        except OSError as error:
            raise PerfError(f"{target.url} cannot be reached: {error.strerror or error}") from None
        sock.settimeout(TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def close(self) -> None:
        self._sock.close()

    def get(self, path: str, accept: str, *, keep_body: bool, method: str = "GET") -> Answer:
        target = self.target
        head = f"{method} {path} HTTP/1.1\r\nHost: {target.authority}\r\nAccept: {accept}\r\n{target.header_lines}\r\n"
        return self.send(head.encode(), keep_body=keep_body)

    def send(self, request: bytes | bytearray, *, keep_body: bool) -> Answer:
        """Sends a whole request and reads its answer; on a new connection if the server has ended the old one."""
        if self._is_ended or (self._is_used and self._has_input()):
            self._sock.close()
            self._sock, self._ahead, self._is_ended = self._connected(), b"", False
        self._is_used = True
        try:
            self._sock.sendall(request)
            return self._read_answer(keep_body)
        except TimeoutError:
            raise PerfError(f"no answer for {TIMEOUT_S:.0f} s") from None

    def _has_input(self) -> bool:
        """Whether something comes though nothing was asked for: the end of a connection that was idle for too long."""
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        return bool(poller.poll(0))

    def _read_answer(self, keep_body: bool) -> Answer:
        head = self._read_until(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ", 2)
        if not words[0].startswith("HTTP/1.") or len(words) < 2 or not words[1].isdigit():
            raise PerfError(f"the answer is not HTTP: it begins with {lines[0][:40]!r}")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        status, body, count = int(words[1]), list[bytes](), 0
        if status in (204, 304):
            return Answer(status, 0)
        if "chunked" in fields.get("transfer-encoding", "").lower():
            while size := self._chunk_size():
                body.append(self._take(size, keep_body))
                count += size
                self._take(2, False)
            while self._read_until(b"\r\n"):  # trailer fields
                pass
        elif "content-length" in fields:
            count = _number(fields["content-length"], 10, "the answer has no length")
            body.append(self._take(count, keep_body))
        else:
            count = self._take_rest(body, keep_body)
        self._is_ended = self._is_ended or fields.get("connection", "").lower() == "close"
        return Answer(status, count, b"".join(body))

    def _take_rest(self, body: list[bytes], keep: bool) -> int:
        """Reads a body that only the end of the connection ends (RFC 9112 6.3). Returns its length."""
        self._is_ended = True
        count, piece = 0, self._ahead or self._sock.recv(1 << 18)
        self._ahead = b""
        while piece:
            count += len(piece)
            if keep:
                if count > _BODY_BYTES_MAX:
                    raise PerfError("an answer without a length is too long")
                body.append(piece)
            piece = self._sock.recv(1 << 18)
        return count

    def _chunk_size(self) -> int:
        line = self._read_until(b"\r\n").decode("latin-1")
        return _number(line.partition(";")[0], 16, "a chunk of the answer has no size")

    def _read_until(self, mark: bytes) -> bytes:
        while mark not in self._ahead:
            piece = self._sock.recv(65536)
            if not piece:
                raise PerfError("the server closed the connection in place of an answer")
            self._ahead += piece
            if len(self._ahead) > _HEAD_BYTES_MAX * 8:
                raise PerfError("the head of the answer is too long")
        head, _, self._ahead = self._ahead.partition(mark)
        return head

    def _take(self, length: int, keep: bool) -> bytes:
        """Reads `length` bytes, and returns them if they are kept."""
        if keep and length > _BODY_BYTES_MAX:
            raise PerfError(f"an answer of {length} bytes is too long")
        first, self._ahead = self._ahead[:length], self._ahead[length:]
        left, kept = length - len(first), [first]
        flags = 0 if keep or self.target.is_secure else socket.MSG_TRUNC
        while left:
            count = self._sock.recv_into(self._scratch, min(left, len(self._scratch)), flags)
            if not count:
                raise PerfError("the server closed the connection within an answer")
            left -= count
            if keep:
                kept.append(bytes(self._scratch[:count]))
        return b"".join(kept) if keep else b""


def _number(text: str, base: int, why: str) -> int:
    """A length that the server names. Raises PerfError."""
    try:
        number = int(text, base)
    except ValueError:
        number = -1
    if number < 0:
        raise PerfError(why)
    return number
