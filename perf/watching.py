"""The cost of the dashboard: the server's processor time while browsers watch /api/live, compared with nobody watching.

    python -m perf.watching --url http://127.0.0.1:8080 --pid SUPERVISOR --watchers 0 1 10 --seconds 30

Run it against an idle server, so that only watching costs something. Rounds alternate between the numbers of watchers.
Each watcher is a connection of its own that reads every frame; the tabs of one browser are one watcher.
"""

from __future__ import annotations

import argparse
import http.client
import threading
import time
from urllib.parse import urlsplit

from perf import harness
from perf.harness import median, say

SETTLE_S = 3.0


class Watcher:
    """One event stream, read in a thread."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port, timeout=60)
        self._connection.request("GET", f"{address.path.rstrip('/')}/api/live", headers={"Accept": "text/event-stream"})
        self._response = self._connection.getresponse()
        self.frames = 0
        self.bytes = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for line in self._response:
                self.bytes += len(line)
                self.frames += line.startswith(b"data: ")
        except (OSError, ValueError, AttributeError):
            return  # closed

    def close(self) -> None:
        """Leaves the stream."""
        if self._connection.sock is not None:
            self._connection.sock.close()
        self._response.close()


def measure(url: str, pid: int, count: int, seconds: float) -> tuple[float, float]:
    """The share of one core that the process tree uses while `count` watch, and the bytes of a frame."""
    watchers = [Watcher(url) for _ in range(count)]
    try:
        pause = threading.Event()
        pause.wait(SETTLE_S)
        cpu_s, started = harness.cpu_s(pid), time.perf_counter()
        pause.wait(seconds)
        share = (harness.cpu_s(pid) - cpu_s) / (time.perf_counter() - started)
        frames = sum(watcher.frames for watcher in watchers)
        return share, sum(watcher.bytes for watcher in watchers) / max(1, frames)
    finally:
        for watcher in watchers:
            watcher.close()


def main() -> int:
    """Prints one line for each number of watchers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--pid", type=int, required=True, help="of the supervisor")
    parser.add_argument("--watchers", type=int, nargs="+", default=[0, 1, 10])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    shares: dict[int, list[float]] = {count: [] for count in options.watchers}
    frame_bytes: dict[int, float] = {}
    for _ in range(options.rounds):
        for count in options.watchers:
            share, frame_bytes[count] = measure(options.url, options.pid, count, options.seconds)
            shares[count].append(share)
    for count in options.watchers:
        size = f", {frame_bytes[count] / 1000:.1f} kB a frame" if count else ""
        say(f"{count} watchers: {median(shares[count]) * 100:.2f} % of a core{size}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
