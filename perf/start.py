"""The time of a start: from exec to the ready line and to the first answered C-ECHO.

    python -m perf.start --peer filmroom --data /var/tmp/archive --rounds 5
    python -m perf.start --peer filmroom --data /var/tmp/archive --kill

With --kill each start follows a kill -9 of all the server's processes during an ingest; otherwise a clean stop. Without
--data a small temporary archive is made.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from perf import harness, load_store, peers
from perf.harness import PerfError, say
from perf.load_store import StoreLoad
from perf.peers import Peer

KILL_STUDY = 700_000_000


@dataclass(frozen=True, slots=True)
class StartResult:
    after: str
    """`clean` or `kill`: the previous end of the server."""
    ready_s: float
    echo_s: float
    stop_s: float
    """Time of the end: from SIGTERM to exit."""


def measure_start(peer: Peer, after: str) -> StartResult:
    """Starts the server and waits for a C-ECHO. `after`: the previous end."""
    started = time.perf_counter()
    peer.start()
    if not peer.answers_echo():
        raise PerfError(f"{peer.name} printed that it is ready, but answers no C-ECHO")
    echo_s = time.perf_counter() - started
    return StartResult(after, round(peer.ready_s, 4), round(echo_s, 4), 0.0)


def end_clean(peer: Peer) -> float:
    started = time.perf_counter()
    peer.stop()
    return time.perf_counter() - started


def end_by_kill(peer: Peer, round_number: int, ingest_s: float = 0.5) -> None:
    """kill -9 of everything while two associations store."""

    def ingest() -> None:
        try:
            load = StoreLoad(association_count=2, instance_count=100_000, warm_up_count=0,
                             first_study=KILL_STUDY + round_number * 10_000)  # fmt: skip
            load_store.run(peer.target, load)
        except PerfError:
            pass  # the kill may come before the associations are open

    thread = threading.Thread(target=ingest, daemon=True)
    thread.start()
    threading.Event().wait(ingest_s)
    peer.kill()
    thread.join(timeout=180)


def run(name: str, data: Path, *, round_count: int, kill: bool, workers: int = 0) -> list[StartResult]:
    directory = Path(tempfile.mkdtemp(prefix="perf-start-"))
    peer = peers.make(name, directory, workers=workers)
    peer.data = data
    results = []
    try:
        peer.start()  # finishes a recovery after earlier runs
        for number in range(round_count):
            if kill:
                end_by_kill(peer, number)
                stop_s = 0.0
            else:
                stop_s = end_clean(peer)
            result = measure_start(peer, "kill" if kill else "clean")
            results.append(StartResult(result.after, result.ready_s, result.echo_s, round(stop_s, 4)))
        return results
    finally:
        peer.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--peer", default="filmroom", help="the server, see perf.peers")
    parser.add_argument("--data", type=Path, help="its data folder, from perf.scale or perf.fill")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kill", action="store_true", help="kill -9 during ingest before each start")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.smoke:
        options.rounds = 1
    data = options.data or Path(tempfile.mkdtemp(prefix="perf-start-data-"))
    try:
        results = run(options.peer, data, round_count=options.rounds, kill=options.kill, workers=options.workers)
    finally:
        if options.data is None:
            shutil.rmtree(data, ignore_errors=True)
    for result in results:
        times = f"ready {result.ready_s:.3f} s, first C-ECHO {result.echo_s:.3f} s, stop {result.stop_s:.3f} s"
        say(f"after {result.after}: {times}")
    say(f"median ready {harness.median([result.ready_s for result in results]):.3f} s")
    if options.json:
        harness.write_json(options.json, {"start": [asdict(result) for result in results], "smoke": options.smoke})
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
