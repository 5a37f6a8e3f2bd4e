"""HTTP load: N persistent connections that take requests from a list in turn; the loop is compiled (`http_load.c`).

    python -m perf.http_load --port 8080 --connections 6 --total 1000 --path /health/live

Costs less than any server: the kernel drops the body of an answer. `perf.web` measures DICOMweb with it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perf import harness, native
from perf.harness import Latencies, NotInstalled, PerfError, say


class _Load(ctypes.Structure):
    """`struct load` of http_load.c."""

    _fields_ = (
        ("address", ctypes.c_char_p),
        ("port", ctypes.c_int32),
        ("connection_count", ctypes.c_int32),
        ("request_count", ctypes.c_int32),
        ("window_bytes", ctypes.c_int32),
        ("requests", ctypes.POINTER(ctypes.c_char_p)),
        ("request_lengths", ctypes.POINTER(ctypes.c_int64)),
        ("total", ctypes.c_int64),
        ("end_ns", ctypes.c_int64),
        ("latencies_ns", ctypes.POINTER(ctypes.c_int64)),
        ("first_bytes_ns", ctypes.POINTER(ctypes.c_int64)),
        ("next", ctypes.c_int64),
        ("body_bytes", ctypes.c_int64),
        ("failed_count", ctypes.c_int64),
        ("repeated_count", ctypes.c_int64),
        ("last_status", ctypes.c_int32),
    )


@dataclass(frozen=True, slots=True)
class HttpResult:
    requests_per_s: float
    megabytes_per_s: float
    latency: Latencies
    first_byte: Latencies
    server_cpu_ms: float
    """User + system time of the server's processes, a request; 0 if no process was named."""
    generator_cpu_ms: float
    request_count: int
    failed_count: int
    repeated_count: int
    """Requests that were repeated because the server had closed the connection."""
    last_failure: str
    body_bytes: int
    elapsed_s: float


def get(path: str, port: int, headers: Mapping[str, str] | None = None, host: str = "127.0.0.1") -> bytes:
    """One GET request as bytes."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def run(
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int = 1,
    total: int = 0,
    seconds: float = 0.0,
    server_pid: int = 0,
    host: str = "127.0.0.1",
) -> HttpResult:
    """Sends `total` requests (0: each once) from the list in turn, or as many as begin within `seconds`.

    Raises PerfError if a connection fails, NotInstalled without a C compiler.
    """
    library = native.compiled("http_load")
    if library is None:
        raise NotInstalled("the HTTP load is compiled: it needs a C compiler")
    library.run.restype = ctypes.c_int64
    total = total or len(requests)
    latencies, first_bytes = (ctypes.c_int64 * total)(), (ctypes.c_int64 * total)()
    load = _Load(
        address=host.encode(),
        port=port,
        connection_count=connections,
        request_count=len(requests),
        requests=(ctypes.c_char_p * len(requests))(*requests),
        request_lengths=(ctypes.c_int64 * len(requests))(*map(len, requests)),
        total=total,
        latencies_ns=latencies,
        first_bytes_ns=first_bytes,
    )
    cpu_before = harness.cpu_s(server_pid) if server_pid else 0.0
    own_before = time.process_time()
    load.end_ns = time.monotonic_ns() + int(seconds * 1e9) if seconds else 0
    elapsed_ns = library.run(ctypes.byref(load))
    own_s = time.process_time() - own_before
    cpu_s = harness.cpu_s(server_pid) - cpu_before if server_pid else 0.0
    if elapsed_ns < 0:
        raise PerfError(f"no connection to {host}:{port}")
    count = min(load.next, total)
    answered = [place for place in range(count) if latencies[place] > 0]
    elapsed_s = elapsed_ns / 1e9
    return HttpResult(
        requests_per_s=round(len(answered) / elapsed_s, 1),
        megabytes_per_s=round(load.body_bytes / elapsed_s / 1e6, 1),
        latency=Latencies.of([latencies[place] for place in answered]),
        first_byte=Latencies.of([first_bytes[place] for place in answered]),
        server_cpu_ms=round(cpu_s * 1000 / max(1, count), 4),
        generator_cpu_ms=round(own_s * 1000 / max(1, count), 4),
        request_count=count,
        failed_count=load.failed_count,
        repeated_count=load.repeated_count,
        last_failure=str(load.last_status) if load.failed_count else "",
        body_bytes=load.body_bytes,
        elapsed_s=round(elapsed_s, 4),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--path", action="append", default=[], help="may be given several times")
    parser.add_argument("--accept", default="*/*")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--total", type=int, default=1000)
    parser.add_argument("--server-pid", type=int, default=0, help="measure the CPU of this process tree")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.total = 20
    requests = [get(path, options.port, {"Accept": options.accept}) for path in options.path or ["/health/live"]]
    result = run(
        options.port,
        requests,
        connections=options.connections,
        total=options.total,
        server_pid=options.server_pid,
    )
    say(f"{result.requests_per_s:.0f} requests/s  {result.megabytes_per_s:.0f} MB/s  {result.latency}")
    say(f"first byte {result.first_byte}")
    say(
        f"server CPU {result.server_cpu_ms:.3f} ms a request, generator {result.generator_cpu_ms:.3f} ms; "
        f"{result.failed_count} failed {result.last_failure}"
    )
    return 1 if result.failed_count else 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
