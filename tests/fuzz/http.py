"""Hostile HTTP over loopback against a running server that must not mind.

    python -m tests.fuzz.http MUTATIONS [--seed S] [--progress FILE]

First every request of `hostile()`, each on a fresh connection and each behind a good request with a body on the same
one; then mutations of good and hostile requests, which follow from the seed and their number alone. A request that is
answered is answered with a status that it may have, and once: what was smuggled into it is no request of its own.
Looked at in between: the same processes live, a good request is answered, memory does not grow. A failure prints the
request.
"""

from __future__ import annotations

import argparse
import gzip
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import samples
from tests.fuzz.mutation import mutated
from tests.fuzz.server import Found, Vital, store_some
from tests.system.server import Server

CONFIG = """
[limits]
disk_reserve_bytes = 0
[http]
header_timeout_s = 2.0
transfer_timeout_s = 2.0
[log]
level = "error"
"""
PRIVATE_MORE_BYTES_MAX = 96 << 20
ANSWER_S = 10.0
LINGER_S = 0.02
"""How long a second answer is waited for, which must not come."""
INCOMPLETE_S = 0.04
"""How long an answer is waited for where none need come."""
CHECK_EVERY = 100

REFUSED = frozenset(range(400, 500)) | {501, 505}
GIVEN = frozenset((200, 206, 304))
ANY = GIVEN | REFUSED

STUDIES = "/dicom-web/studies"
STUDY = f"{STUDIES}/{samples.ROOT}.77"
INSTANCE = f"{STUDY}/series/{samples.ROOT}.77.1/instances/{samples.ROOT}.77.1.1"
SMUGGLED = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
BEFORE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
"""A good request, and a body that nobody asked for."""
ENDLESS = 1 << 20
ANSWER_BYTES_MAX = 64 << 10
"""Of an answer, beside the length of its request: twice what is stored. No repetition in a request makes it longer."""


@dataclass(frozen=True)
class Hostile:
    """A request, and what may become of it."""

    name: str
    request: bytes
    statuses: frozenset[int] = REFUSED
    is_incomplete: bool = False
    """Whether the server waits for more, so that there need be no answer."""
    answers_max: int = 1


def get(path: str | bytes, *headers: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """A request as it goes over the wire, whatever is in it."""
    raw = path.encode() if isinstance(path, str) else path
    lines = [b"%s %s %s" % (method.encode(), raw, version.encode()), b"Host: localhost"]
    lines += [header.encode("latin-1") for header in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(*headers: str, body: bytes = b"", path: str = STUDIES) -> bytes:
    """The same with a body."""
    return get(path, *headers, method="POST") + body


def hostile() -> Iterator[Hostile]:
    """All of them."""
    yield from _framing()
    yield from _heads()
    yield from _targets()
    yield from _bodies()
    yield from _ranges_and_accept()


def _framing() -> Iterator[Hostile]:
    """What two parsers read in two ways."""
    chunked = "Transfer-Encoding: chunked"
    yield Hostile("CL and TE", post("Content-Length: 6", chunked, body=b"0\r\n\r\n" + SMUGGLED))
    yield Hostile("TE and CL", post(chunked, "Content-Length: 4", body=b"5c\r\n" + SMUGGLED))
    for lengths in (("5", "6"), ("0", str(len(SMUGGLED)))):
        yield Hostile(f"lengths {lengths}", post(*(f"Content-Length: {n}" for n in lengths), body=SMUGGLED))
    for length in ("+5", "-1", "0x5", "5 5", "5,5", "1e3", "9" * 30, "", "\xb2"):
        yield Hostile(f"length {length!r}", post(f"Content-Length: {length}", body=SMUGGLED))
    for encoding in (
        "xchunked",
        "chunked, identity",
        "identity, chunked",
        "chunked;x=y",
        "\x0bchunked",
        "gzip, chunked",
    ):
        request = post(f"Transfer-Encoding: {encoding}", body=b"0\r\n\r\n")
        yield Hostile(f"encoding {encoding!r}", request, is_incomplete=True)
    yield Hostile("encoding twice", post(chunked, chunked, body=b"0\r\n\r\n" + SMUGGLED))
    yield Hostile("blank before the colon", post("Transfer-Encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED))
    yield Hostile("obs-fold", post("Content-Length: 0", "X-A: b\r\n Content-Length: 5"))
    yield Hostile("folded encoding", post("Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n" + SMUGGLED))
    yield Hostile("bare LF", b"GET /health/live HTTP/1.1\nHost: localhost\n\n", ANY, is_incomplete=True)
    yield Hostile("bare CR", b"GET /health/live HTTP/1.1\rHost: localhost\r\r", ANY, is_incomplete=True)
    yield Hostile("LF in a header", get("/health/live", "X-A: b\nX-C: d"), ANY)
    yield Hostile("old version with chunks", get(STUDIES, chunked, method="POST", version="HTTP/1.0") + b"0\r\n\r\n")
    sizes = ("G", "-1", "+1", "0x1", "F" * 17, "1" * 40, "1;" + "x" * 70_000, " 1", "1 1", "")
    for size in sizes:
        yield Hostile(
            f"chunk {size[:20]!r}", post(chunked, body=f"{size}\r\na\r\n0\r\n\r\n".encode()), is_incomplete=True
        )
    yield Hostile("chunk without an end", post(chunked, body=b"1\r\naX0\r\n\r\n"))
    yield Hostile("chunk with bare LF", post(chunked, body=b"1\na\n0\n\n"), is_incomplete=True)
    trailer = b"0\r\n" + b"X-T: " + b"t" * ENDLESS
    yield Hostile("endless trailer", post(chunked, body=trailer), is_incomplete=True)
    yield Hostile(
        "many chunks", post(chunked, "Content-Type: application/dicom", body=b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n")
    )


def _heads() -> Iterator[Hostile]:
    """Heads without end, and what is none."""
    yield Hostile("endless header", b"GET / HTTP/1.1\r\nX-A: " + b"a" * ENDLESS, is_incomplete=True)
    yield Hostile("endless name", b"GET / HTTP/1.1\r\n" + b"a" * ENDLESS, is_incomplete=True)
    yield Hostile("endless line", b"GET /" + b"a" * ENDLESS, is_incomplete=True)
    yield Hostile("10 000 headers", get("/health/live", *(f"X-{n}: {n}" for n in range(10_000))))
    yield Hostile("large headers", get("/health/live", *(f"X-{n}: {'v' * 15_000}" for n in range(90))), ANY)
    for line in ("X-A", ": b", "X A: b", "X-A\0: b", "X-A: b\0c", "X-\xe4: b", "(): b"):
        yield Hostile(f"header {line!r}", get("/health/live", line))
    yield Hostile("two hosts", get("/health/live", "Host: evil.example"))
    yield Hostile("no host", b"GET /health/live HTTP/1.1\r\n\r\n", ANY)
    yield Hostile("foreign host", b"GET /health/live HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    yield Hostile("user in host", b"GET /health/live HTTP/1.1\r\nHost: a@evil.example\r\n\r\n", ANY)
    for version in ("HTTP/9.9", "HTTP/1.", "HTTP/11.1", "HTTPS/1.1", "http/1.1", "ICY/1.0"):
        yield Hostile(version, get("/health/live", version=version))
    yield Hostile("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    for method in ("TRACE", "CONNECT", "get", "G ET", "GET\0", "PROPFIND", "M" * 5000):
        yield Hostile(f"method {method[:9]!r}", get("/health/live", method=method))
    for upgrade in ("h2c", "websocket"):
        headers = (f"Upgrade: {upgrade}", "Connection: Upgrade", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
        yield Hostile(f"upgrade {upgrade}", get("/health/live", *headers), ANY)
    yield Hostile("expectation", post("Expect: a-miracle", "Content-Length: 5", body=b"hello"))
    yield Hostile("pages of others", post("Origin: https://evil.example", "Content-Length: 5", body=b"hello"))


def _targets() -> Iterator[Hostile]:
    """Paths and queries."""
    paths = (
        "/%00", "/health/live%00", "/../../etc/passwd", "/dicom-web/%2e%2e/%2e%2e/etc/passwd", "/%zz", "/%", "/%c0%ae",
        "/dicom-web/studies/%2F%2F/metadata", f"{STUDIES}/{'1' * 5000}", f"{STUDIES}/1%0d%0aX-A:%20b/metadata",
        f"{STUDIES}/%F0%9F%A6%B4/metadata", "/" * 20_000 + "x", "/a" * 10_000, "*", "//evil.example/health",
        "http://evil.example/health/live", "health/live", "?", "#", f"{INSTANCE}/frames/{'1,' * 3000}1",
        f"{INSTANCE}/frames/{','.join(map(str, range(1, 1500)))}", f"{INSTANCE}/frames/1,{'1' * 9}",
        f"{INSTANCE}/frames/{'9' * 400}", f"{INSTANCE}/frames/-1", f"{INSTANCE}/bulkdata/7FE00010/1/7FE00010",
        f"{INSTANCE}/bulkdata/7FE0001%30/{'9' * 50}/00100010", f"{STUDIES}/..%2f..%2fx",
    )  # fmt: skip
    for path in paths:
        yield Hostile(f"path {path[:40]!r}", get(path), ANY)
    yield Hostile("bytes in the path", get(b"/dicom-web/\xff\xfe\x80"), ANY)
    yield Hostile("NUL in the path", get(b"/health/live\0"), ANY)
    queries = (
        "&".join(f"a{n}={n}" for n in range(4000)), "&" * 10_000,
        "&".join(f"includefield={n:08X}" for n in range(1000)),
        "PatientName=" + "*" * 9000, "PatientName=" + "?*" * 4000, "StudyInstanceUID=" + "1.2," * 6000, "limit=-1",
        "limit=" + "9" * 9000, "offset=1e9", "StudyDate=" + "2" * 5000, "=", "%", "%00=%00", "PatientName=%FF%FE",
        "00400275." * 2000 + "00400009=1", "PatientName=(a+)+$", "limit=1&limit=2", "fuzzymatching=perhaps",
        "accept=" + "a/b," * 3000, "a" * 20_000,
    )  # fmt: skip
    for query in queries:
        yield Hostile(f"query {query[:40]!r}", get(f"{STUDIES}?{query}"), ANY)
    yield Hostile("10 000 parameters", get(f"{STUDIES}?{'&'.join(f'{n}=' for n in range(10_000))}"))


def _bodies() -> Iterator[Hostile]:
    """What is sent to be stored, and is not."""
    multipart = 'Content-Type: multipart/related; type="application/dicom"; boundary='

    def sent(body: bytes, boundary: str = "b") -> bytes:
        return post(multipart + boundary, f"Content-Length: {len(body)}", body=body)

    part = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
    stored = REFUSED | {200, 202}
    for name, request in {
        "no boundary": sent(b"", ""),
        "no multipart": sent(b"hello"),
        "no parts": sent(b"--b--\r\n"),
        "no end": sent(part + b"hello"),
        "no file": sent(part + b"hello\r\n--b--\r\n"),
        "endless preamble": sent(b"x" * ENDLESS),
        "endless part head": sent(b"--b\r\nX-A: " + b"x" * ENDLESS),
        "many part headers": sent(b"--b\r\n" + b"A: b\r\n" * 50_000 + b"\r\n\r\n--b--\r\n"),
        "nested": sent(b"--b\r\nContent-Type: multipart/related; boundary=c\r\n\r\n--c\r\n\r\n--c--\r\n--b--\r\n"),
        "boundaries that are none": sent(part + b"\r\n--bX" * 50_000 + b"\r\n--b--\r\n"),
        "5000 empty parts": sent((part + b"\r\n") * 5000 + b"--b--\r\n"),
        "long boundary": sent(b"--" + b"b" * 300 + b"--\r\n", "b" * 300),
        "a name in a part": sent(
            part.replace(b"\r\n\r\n", b"\r\nContent-Location: ../../etc/passwd\r\n\r\n") + b"\r\n--b--"
        ),
    }.items():
        yield Hostile(f"multipart: {name}", request, stored)
    bomb = gzip.compress(bytes(4 << 20))
    for encoding in ("gzip", "deflate", "br", "zstd"):
        headers = (multipart + "b", f"Content-Encoding: {encoding}", f"Content-Length: {len(bomb)}")
        yield Hostile(f"compressed by {encoding}", post(*headers, body=bomb))
    yield Hostile("a promise", post(multipart + "b", f"Content-Length: {1 << 60}", body=part), is_incomplete=True)
    yield Hostile(
        "JSON depths",
        post("Content-Type: application/json", "Content-Length: 60000", body=b"[" * 60_000, path="/api/holds"),
    )
    yield Hostile("no body", post("Content-Type: application/dicom", "Content-Length: 0"))


def _ranges_and_accept() -> Iterator[Hostile]:
    """Headers that are small languages."""
    ranges = (
        "bytes=0-18446744073709551616", "bytes=99999999999999999999-", "bytes=5-1", "bytes=-0", "bytes=--5", "bytes=",
        "bytes=0-0,", "bytes=" + ",".join(f"{n}-{n}" for n in range(2500)), "bytes=0-,0-,0-", "lines=1-2", "bytes=a-b",
        "bytes=-99999999999999999999", "bytes=1", "bytes 0-1",
    )  # fmt: skip
    for value in ranges:
        for accept in ("application/dicom", "*/*"):
            request = get(INSTANCE, f"Range: {value}", f"Accept: {accept}")
            yield Hostile(f"range {value[:30]!r} of {accept}", request, ANY)
    overlapping = "Range: bytes=" + ",".join(["0-"] * 3500)
    for path in (STUDY, f"{STUDY}/pixeldata", f"{INSTANCE}/pixeldata", f"{INSTANCE}/frames/1"):
        for accept in ("application/dicom", "application/octet-stream"):
            request = get(path, overlapping, f"Accept: multipart/related; type={accept}; transfer-syntax=*")
            yield Hostile(f"3500 ranges of {path[-20:]}", request, ANY)
    accepts = (
        ",".join(f"a{n}/b;q=0.{n}" for n in range(1000)), "*/*;" + "a=b;" * 3000, '"' * 8000, 'a/b;c="' + "\\" * 8000,
        "," * 15_000, "multipart/related;" * 800, 'multipart/related;type="' * 500, "*/*;q=1e999", "*/*;q=-1",
        "\xff/\xfe",
    )  # fmt: skip
    for value in accepts:
        for path in (STUDIES, INSTANCE, f"{INSTANCE}/frames/1", f"{INSTANCE}/rendered"):
            yield Hostile(f"accept {value[:30]!r} of {path[-12:]}", get(path, f"Accept: {value}"), ANY)
    for header in ("If-None-Match: " + '"x",' * 4000, "If-Range: \0", "If-Range: " + "x" * 9000, "If-None-Match: *"):
        yield Hostile(f"{header[:20]!r}", get(INSTANCE, header, "Range: bytes=0-9"), ANY)


def answers_in(data: bytes) -> list[int]:
    """The statuses of the answers that are whole, or have no length of their own; 100 is none."""
    found = []
    while data:
        match = re.match(rb"HTTP/1\.[01] (\d{3})[^\r\n]*\r\n", data)
        head, separator, rest = data.partition(b"\r\n\r\n")
        if match is None or not separator:
            break
        status = int(match[1])
        length = re.search(rb"\r\nContent-Length: (\d+)", head, re.IGNORECASE)
        if length is not None and status != 304:
            if len(rest) < int(length[1]):
                break
            data = rest[int(length[1]) :]
        elif b"chunked" in head.lower():
            if not (end := re.search(rb"(?:^|\r\n)0\r\n\r\n", rest)):
                break
            data = rest[end.end() :]
        else:
            data = rest
        if status != 100:
            found.append(status)
    return found


class Fuzzer:
    """A server, and what it is told."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.requests = 0
        self.answered = 0
        self._port = int(server.url.rpartition(":")[2])
        self._pids = [server.process.pid, *server.worker_pids()]
        self._first: dict[int, Vital] | None = None
        self._answer_s = ANSWER_S

    def send(self, request: Hostile, *, before: bytes = b"") -> None:
        """One request. Raises Found."""
        self.requests += 1
        timeout_s = INCOMPLETE_S if request.is_incomplete else self._answer_s
        data, is_closed = self._exchange(request.request, timeout_s, before)
        statuses = answers_in(data)
        self.answered += bool(statuses)
        if len(data) > ANSWER_BYTES_MAX + len(request.request):
            raise Found(f"{request.name}: the answer has {len(data)} bytes\n{request.request[:300]!r}")
        if not statuses and not request.is_incomplete and not is_closed:
            raise Found(f"{request.name}: neither an answer nor an end\n{request.request[:300]!r}")
        if len(statuses) > request.answers_max or set(statuses) - request.statuses:
            raise Found(f"{request.name}: answered with {statuses}\n{request.request[:300]!r}\n{data[:600]!r}")

    def mutate(self, seed: int, count: int) -> None:
        """Mutations of everything. Raises Found."""
        seeds = [each.request[:4000] for each in hostile()] + [BEFORE, get(INSTANCE), get(f"{STUDIES}?PatientName=D*")]
        rng = random.Random()
        for number in range(count):
            rng.seed(seed << 40 | number)
            request = mutated(rng, seeds)
            self.requests += 1
            data, _ = self._exchange(request, INCOMPLETE_S / 4)
            statuses = answers_in(data)
            self.answered += bool(statuses)
            if any(status == 500 for status in statuses):
                raise Found(f"mutation {seed}:{number} is answered with {statuses}: {request[:2000]!r}")
            if number % CHECK_EVERY == 0:
                self.check()

    def slow(self, count: int) -> None:
        """Heads and bodies that come byte by byte: they are ended, and meanwhile others are served. Raises Found."""
        body = post("Content-Type: application/dicom", "Content-Length: 100000", body=b"x")
        starts = [b"GET /health/live HTTP/1.1\r\n", body, b"G", b""]
        socks = [socket.create_connection(("127.0.0.1", self._port), ANSWER_S) for _ in range(count)]
        for number, sock in enumerate(socks):
            sock.sendall(starts[number % len(starts)])
        deadline = time.monotonic() + 60
        opened = {sock for number, sock in enumerate(socks) if starts[number % len(starts)]}
        for sock in opened:
            sock.setblocking(False)
        while opened:
            self.check()
            if time.monotonic() > deadline:
                raise Found(f"{len(opened)} slow connections are still open")
            for sock in list(opened):
                try:
                    sock.send(b"x")
                    is_open = sock.recv(4096) != b""
                except BlockingIOError:
                    is_open = True
                except OSError:
                    is_open = False
                if not is_open:
                    opened.discard(sock)
            threading.Event().wait(0.1)
        for sock in socks:
            sock.close()

    def check(self) -> None:
        """The processes are the same, answer, and have not grown. Raises Found."""
        if self.server.process.poll() is not None:
            raise Found("the server has ended:\n" + "".join(self.server.log[-40:]))
        data, _ = self._exchange(get("/health/live"), ANSWER_S)
        if answers_in(data) != [200]:
            raise Found(f"a good request is answered with {data[:300]!r}")
        if (pids := [self.server.process.pid, *self.server.worker_pids()]) != self._pids:
            raise Found(f"a worker died: {self._pids} have become {pids}\n" + "".join(self.server.log[-40:]))
        now = {pid: Vital.of(pid) for pid in pids}
        if self._first is None:
            self._first = now
        for pid, vital in now.items():
            if vital.private_bytes - self._first[pid].private_bytes > PRIVATE_MORE_BYTES_MAX:
                raise Found(f"process {pid} has grown from {self._first[pid]} to {vital}")

    def _exchange(self, request: bytes, timeout_s: float, before: bytes = b"") -> tuple[bytes, bool]:
        """What comes back, and whether the other side closed. `before`: a good request on the same connection."""
        with socket.create_connection(("127.0.0.1", self._port), ANSWER_S) as sock:
            if before:
                sock.sendall(before)
                if answers_in(answer := sock.recv(1 << 16)) != [200]:
                    raise Found(f"the good request before is answered with {answer[:300]!r}")
            try:
                sock.sendall(request)
            except ConnectionError:
                pass  # it has refused the request and gone; what it said is read below
            return _received(sock, timeout_s)


def _received(sock: socket.socket, timeout_s: float) -> tuple[bytes, bool]:
    """All that comes until the time is over, or a little while after a whole answer; whether the other side closed."""
    data = b""
    deadline = time.monotonic() + timeout_s
    while (rest_s := deadline - time.monotonic()) > 0:
        if answers_in(data):
            deadline = min(deadline, time.monotonic() + LINGER_S)
            rest_s = LINGER_S
        sock.settimeout(rest_s)
        try:
            part = sock.recv(1 << 20)
        except TimeoutError:
            break
        except ConnectionError:
            return data, True
        if not part:
            return data, True
        data += part
    return data, False


def run(server: Server, mutations: int, seed: int) -> Fuzzer:
    """Everything. Raises Found."""
    store_some(server)
    fuzzer = Fuzzer(server)
    for number, request in enumerate(hostile()):
        fuzzer.send(request)
        fuzzer.send(request, before=BEFORE)
        if number % 10 == 0:
            fuzzer.check()
    fuzzer.slow(40)
    fuzzer.mutate(seed, mutations)
    fuzzer.check()
    return fuzzer


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.http")
    parser.add_argument("mutations", type=int)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="filmroom-fuzz-") as folder:
        server = Server(Path(folder) / "data", config=CONFIG, workers=1, http=True)
        try:
            fuzzer = run(server, given.mutations, given.seed)
            if server.stop() != 0:
                raise Found(f"the server ended with code {server.process.returncode}")
        except Found as error:
            sys.stdout.write(f"seed {given.seed}: {error}\n")
            return 1
        finally:
            server.close()
    sys.stdout.write(f"seed {given.seed}: {fuzzer.requests} requests, {fuzzer.answered} answered, nothing found\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
