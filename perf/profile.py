"""Profiles the processor time of Filmroom's workers: the shares of kernel, interpreter, event loop and our own code.

    python -m perf.profile --case get                       C-GET of CT, in its steady state
    python -m perf.profile --case move --template mr
    python -m perf.profile --case store --peer filmroom-write-behind

Samples are taken with Linux perf (by CPU clock) of the workers only, while the load runs.
"""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from perf import harness, load_get, load_move, load_store, peers, retrieval
from perf.harness import NotInstalled, PerfError, say
from perf.load_store import StoreLoad
from perf.peers import Peer
from perf.retrieval import RetrievalLoad
from perf.sink import Sink

SAMPLES_PER_S = 5000
SECONDS_MIN = 2.0
"""The shortest sampling time: the load is repeated until then."""
_ROW = re.compile(r"\s*([0-9.]+)%\s+(\S+)")


def profile(load: Callable[[], object], peer: Peer) -> dict[str, float]:
    """Percent of the workers' processor time by library, largest first, while `load` runs."""
    pids = ",".join(str(pid) for pid in harness.descendants(peer.pid) if _name_of(pid).endswith("worker"))
    with tempfile.TemporaryDirectory(prefix="perf-profile-") as folder:
        data = str(Path(folder) / "samples")
        command = [peers.program("perf"), "record", "-q", "-e", "cpu-clock", "-F", str(SAMPLES_PER_S), "-o", data]
        recorder = subprocess.Popen([*command, "-p", pids], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            pause = threading.Event()
            while recorder.poll() is None and not Path(data).exists():
                pause.wait(0.05)
            ends_at = time.monotonic() + SECONDS_MIN
            load()
            while time.monotonic() < ends_at:
                load()
        finally:
            recorder.send_signal(signal.SIGINT)
            _, complaint = recorder.communicate(timeout=60)
        report = subprocess.run(
            [peers.program("perf"), "report", "-i", data, "--no-children", "--sort", "dso", "-g", "none", "--stdio"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    rows = [match for line in report.stdout.splitlines() if (match := _ROW.match(line))]
    if not rows:
        raise PerfError(f"no samples were taken: {complaint.decode(errors='replace').strip() or report.stderr.strip()}")
    return {_name(match[2]): float(match[1]) for match in rows}


def _name_of(pid: int) -> str:
    """What it calls itself (`engine.server.prefork`)."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _name(library: str) -> str:
    if library.startswith("[kernel"):
        return "kernel"
    if library.startswith(("libpython", "python")):
        return "interpreter"
    return library.split(".cpython-", 1)[0]


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--case", choices=("get", "move", "store"), default="get")
    parser.add_argument("--peer", default="filmroom", help="filmroom or filmroom-write-behind")
    parser.add_argument("--template", default="ct")
    parser.add_argument("--repeats", type=int, default=10, help="repetitions of three studies of 200 instances")
    options = parser.parse_args(arguments)
    if not options.peer.startswith("filmroom"):
        raise PerfError("only Filmroom's libraries are known by their names here")
    shape = RetrievalLoad(2, 10, options.template) if options.smoke else RetrievalLoad(template=options.template)
    repeats = 1 if options.smoke else options.repeats
    sink = Sink(0, peers.SINK_AET)
    try:
        peers.program("perf")
        with peers.running(options.peer, sink_port=sink.port) as peer:
            shares = profile(_load(options.case, peer, sink, shape, repeats), peer)
    except NotInstalled as error:
        if options.smoke:
            say(str(error))
            return 0
        raise
    finally:
        sink.close()
    say(harness.table(("library", "% of the workers' processor time"), list(shares.items())[:10]))
    if options.json:
        harness.write_json(options.json, {"profile": shares, "case": options.case, "smoke": options.smoke})
    return 0


def _load(case: str, peer: Peer, sink: Sink, shape: RetrievalLoad, repeats: int) -> Callable[[], object]:
    """Prepares the load. Returns the function to run while samples are taken."""
    if case == "store":
        count = shape.study_count * shape.study_instance_count * repeats
        studies = itertools.count(1, count)  # others each time, so that all of them are stored
        return lambda: load_store.run(
            peer.target, StoreLoad(template=shape.template, instance_count=count, first_study=next(studies))
        )
    study_uids = retrieval.prepare(peer.target, shape)

    def retrieve() -> None:
        for _ in range(repeats):
            if case == "get":
                load_get.run(peer.target, study_uids, shape)
            else:
                load_move.run(peer.target, sink, study_uids, shape)

    retrieve()
    return retrieve


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
