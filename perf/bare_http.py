"""The upper limit of HTTP on this machine: a minimal server in C that sends a file's bytes to the load's connections.

    python -m perf.bare_http                                 frames of 0.5 MB on 1, 6 and 100 connections, both ways
    python -m perf.bare_http --connections 100 --congestion cubic

`read`: each answer is read from the page cache into a buffer and sent with one call; `sendfile`: it is not read. The
server parses nothing, looks nothing up and checks nothing, so that no server with one event loop is faster with this
generator. `--congestion` sets TCP's congestion control of its sockets instead of the machine's.
"""

from __future__ import annotations

import ctypes
import socket
import tempfile
import threading
from dataclasses import asdict, dataclass

from perf import harness, http_load, native
from perf.harness import NotInstalled, PerfError, say

FILE_ANSWERS = 64
"""Bodies in the file, which bare_http.c sends in turn."""
BODY_BYTES = 512 << 10
BACKLOG = 1024
WAYS = ("read", "sendfile")


@dataclass(frozen=True, slots=True)
class BareHttpResult:
    way: str
    connection_count: int
    requests_per_s: float
    megabytes_per_s: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float
    """A request, as the next one."""
    generator_cpu_ms: float


def run(way: str, connections: int, total: int, congestion: str = "") -> BareHttpResult:
    """Raises NotInstalled without a C compiler, PerfError."""
    library = native.compiled("bare_http")
    if library is None:
        raise NotInstalled("a C compiler is not installed")
    library.serve.restype = ctypes.c_int64
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES
    cpu_ns = [0]
    with tempfile.TemporaryFile() as file, socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        file.write(bytes(BODY_BYTES) * FILE_ANSWERS)
        file.flush()
        listener.setblocking(False)
        port = listener.getsockname()[1]

        def serve(count: int) -> None:
            cpu_ns[0] = library.serve(
                listener.fileno(), head, ctypes.c_int64(len(head)), file.fileno(), ctypes.c_int64(BODY_BYTES),
                int(way == "sendfile"), congestion.encode(), ctypes.c_int64(count),
            )  # fmt: skip

        serving = threading.Thread(target=serve, args=(total,))
        serving.start()
        result = http_load.run(port, [http_load.get("/", port)], connections=connections, total=total)
        serving.join()
    if cpu_ns[0] < 0 or result.failed_count:
        raise PerfError(f"the bare server failed, or {congestion or 'TCP'} is not available")
    server_cpu_ms = cpu_ns[0] / total / 1e6
    return BareHttpResult(
        way=way,
        connection_count=connections,
        requests_per_s=result.requests_per_s,
        megabytes_per_s=result.megabytes_per_s,
        p50_ms=result.latency.p50_ms,
        p99_ms=result.latency.p99_ms,
        server_cpu_ms=round(server_cpu_ms, 4),
        generator_cpu_ms=round(max(0.0, result.generator_cpu_ms - server_cpu_ms), 4),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--connections", type=int, default=0, help="1, 6 and 100 unless given")
    parser.add_argument("--total", type=int, default=3000, help="requests")
    parser.add_argument("--congestion", default="", help="such as cubic; the machine's unless given")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.total = 32
    counts = [options.connections] if options.connections else [1, 6, 100] if not options.smoke else [2]
    results = [run(way, count, options.total, options.congestion) for count in counts for way in WAYS]
    rows = [
        [r.way, r.connection_count, f"{r.requests_per_s:.0f}", f"{r.megabytes_per_s:.0f}", f"{r.p50_ms:.2f}",
         f"{r.p99_ms:.2f}", r.server_cpu_ms, r.generator_cpu_ms]
        for r in results
    ]  # fmt: skip
    headings = ("way", "connections", "requests/s", "MB/s", "p50 ms", "p99 ms", "server CPU ms", "generator CPU ms")
    say(harness.table(headings, rows))
    if options.json:
        harness.write_json(options.json, {"bare_http": [asdict(r) for r in results], "smoke": options.smoke})
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
