"""DICOMweb: sends the same requests to Filmroom and to Orthanc with its DICOMweb plugin, and prints one table.

    python -m perf.web                                       all cases, three interleaved rounds (some minutes)
    python -m perf.web --peers filmroom --cases frames-100,get --rounds 5

    frames-1, -6, -100    frames of 0.5 MB on 1, 6 and 100 connections
    get, study            the same study by C-GET and as application/dicom; CPU an instance
    metadata              of 200, 1 000 and 5 000 instances; `cold`: the first request after they were stored
    studies, instances    QIDO-RS: 101 studies, 1 000 instances of one
    rendered              a CT as JPEG, each instance once
    thumbnail             of each instance, after all have been asked for; `first`: each for the first time
    stow, store           0.5 MB each on 1 and 8 connections, by STOW-RS and by C-STORE
    beside                frames while C-STORE runs at half its rate, and C-STORE while studies are read without pause
    stow-parts            the cost of one request of 50 000 instances
    slow-readers          the cost of a hundred clients that read a study at 64 KiB/s

A case that a peer does not support is left out and named. Rates are requests; instances for get, store and stow.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from perf import corpus, harness, http_load, load_get, load_store, peers
from perf.harness import PerfError, median, say
from perf.http_load import HttpResult
from perf.peers import Peer
from perf.retrieval import RetrievalLoad
from perf.stow import StowLoad, run_parts
from perf.stow import run as run_stow

PEERS = ("filmroom", "orthanc")
EXTRA_HTTP = "requests_per_client_max = 1000\n"
"""All clients have one address."""
FRAMES = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}
FILES = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
JSON = {"Accept": "application/dicom+json", "Accept-Encoding": "gzip"}
JPEG = {"Accept": "image/jpeg"}
IMAGES, HEADS, STORES = 500_000, 600_000, 700_000
"""First study numbers: of images, of instances with few pixels, of the studies that cases store."""
SLOW_BYTES_PER_S = 64 << 10


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of all cases."""

    images: int = 200
    frame_requests: int = 1500
    metadata: tuple[int, ...] = (200, 1000, 5000)
    repeats: int = 10
    stored: int = 200
    slow_readers: int = 100
    parts: int = 50_000
    beside_s: float = 4.0


SMOKE = Sizes(6, 12, (6,), 2, 4, 2, 50, 0.3)


@dataclass(frozen=True, slots=True)
class Row:
    """One case of one peer."""

    case: str
    peer: str
    rate: float
    megabytes_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    first_byte_ms: float = 0.0
    """Median."""
    server_cpu_ms: float = 0.0
    """User + system time, a request or an instance."""
    generator_cpu_ms: float = 0.0
    memory_bytes: int = 0


class NotServed(PerfError):
    """The peer does not support the request."""


class Bench:
    """A running peer with the studies stored."""

    def __init__(self, peer: Peer, sizes: Sizes) -> None:
        self.peer = peer
        self.sizes = sizes
        self.next_study = STORES
        self._store("ct", IMAGES, sizes.images)
        for place, count in enumerate(sizes.metadata):
            self._store("ct-head", HEADS + 10 * place, count)

    def _store(self, template: str, first_study: int, count: int) -> None:
        load = load_store.StoreLoad(
            template=template, instance_count=count, series_instance_count=count, warm_up_count=0,
            first_study=first_study,
        )  # fmt: skip
        if failures := load_store.run(self.peer.target, load).failures:
            raise PerfError(f"storing failed: {failures}")

    def study(self, number: int = IMAGES) -> str:
        """The path of the study with this first number."""
        return f"{self.peer.web_root}/studies/{corpus.study_uid(number + 1).decode()}"

    def instance(self, place: int) -> str:
        series, uid = corpus.series_uid(IMAGES + 1, 1).decode(), corpus.instance_uid(IMAGES + 1, 1, place).decode()
        return f"{self.study()}/series/{series}/instances/{uid}"

    def get(
        self, case: str, paths: Iterable[str], headers: Mapping[str, str], *, connections: int = 1, total: int = 0,
        seconds: float = 0.0,
    ) -> Row:  # fmt: skip
        """Raises NotServed, PerfError."""
        requests = [http_load.get(path, self.peer.http_port, headers) for path in paths]
        result = http_load.run(
            self.peer.http_port, requests, connections=connections, total=total, seconds=seconds,
            server_pid=self.peer.pid,
        )  # fmt: skip
        if result.failed_count:
            kind = NotServed if result.last_failure in ("400", "404", "405", "406", "501") else PerfError
            raise kind(f"{case}: {result.failed_count} of {result.request_count} failed ({result.last_failure})")
        return self.row(case, result)

    def row(self, case: str, result: HttpResult) -> Row:
        return Row(
            case, self.peer.name, result.requests_per_s, result.megabytes_per_s, result.latency.p50_ms,
            result.latency.p99_ms, result.first_byte.p50_ms, result.server_cpu_ms, result.generator_cpu_ms,
        )  # fmt: skip

    def fresh_studies(self, count: int) -> int:
        """The first of `count` unused study numbers."""
        self.next_study += count + 1
        return self.next_study - count - 1


# cases -------------------------------------------------------------------------------------------


def _frames(connections: int) -> Callable[[Bench], Iterable[Row]]:
    def measure(bench: Bench) -> Iterable[Row]:
        paths = [f"{bench.instance(place)}/frames/1" for place in range(1, bench.sizes.images + 1)]
        total = bench.sizes.frame_requests
        if bench.peer.name != "filmroom":
            total = max(total // 20, connections)
        yield bench.get(f"frames-{connections}", paths, FRAMES, connections=connections, total=total)

    return measure


def _study(bench: Bench) -> Iterable[Row]:
    row = bench.get("study", [bench.study()], FILES, total=bench.sizes.repeats)
    yield dataclasses.replace(row, server_cpu_ms=round(row.server_cpu_ms / bench.sizes.images, 4))


def _get(bench: Bench) -> Iterable[Row]:
    load = RetrievalLoad(bench.sizes.repeats, bench.sizes.images)
    uids = [corpus.study_uid(IMAGES + 1)] * bench.sizes.repeats
    result = load_get.run(bench.peer.target, uids, load, server_pid=bench.peer.pid)
    yield Row(
        "get", bench.peer.name, result.instances_per_s, result.megabytes_per_s,
        first_byte_ms=result.first_command.p50_ms, server_cpu_ms=result.server_cpu_ms,
        generator_cpu_ms=result.generator_cpu_ms,
    )  # fmt: skip


def _metadata(bench: Bench) -> Iterable[Row]:
    for place, count in enumerate(bench.sizes.metadata):
        path = f"{bench.study(HEADS + 10 * place)}/metadata"
        yield bench.get(f"metadata-{count} cold", [path], JSON, total=1)
        repeats = bench.sizes.repeats if bench.peer.name == "filmroom" else 1
        yield bench.get(f"metadata-{count}", [path], JSON, total=repeats)


def _studies(bench: Bench) -> Iterable[Row]:
    path = f"{bench.peer.web_root}/studies?limit=101&offset=0&includefield=00081030%2C00080060%2C00080090"
    yield bench.get("studies", [path], JSON, total=bench.sizes.repeats)


def _instances(bench: Bench) -> Iterable[Row]:
    place = min(1, len(bench.sizes.metadata) - 1)
    repeats = bench.sizes.repeats if bench.peer.name == "filmroom" else 1
    path = f"{bench.study(HEADS + 10 * place)}/instances"
    yield bench.get(f"instances-{bench.sizes.metadata[place]}", [path], JSON, total=repeats)


def _picture(resource: str) -> Callable[[Bench], Iterable[Row]]:
    def measure(bench: Bench) -> Iterable[Row]:
        paths = [f"{bench.instance(place)}/{resource}" for place in range(1, bench.sizes.images + 1)]
        total = len(paths) if bench.peer.name == "filmroom" else max(2, len(paths) // 10)
        first = f"{resource} first" if resource == "thumbnail" else resource
        yield bench.get(first, paths, JPEG, total=total)
        if resource == "thumbnail":
            yield bench.get(resource, paths, JPEG, total=total)

    return measure


def _store(connections: int) -> Callable[[Bench], Iterable[Row]]:
    def measure(bench: Bench) -> Iterable[Row]:
        count = bench.sizes.stored
        load = load_store.StoreLoad(association_count=connections, instance_count=count)
        load = dataclasses.replace(load, first_study=bench.fresh_studies(load_store.study_count(load)))
        result = load_store.run(bench.peer.target, load, server_pid=bench.peer.pid)
        yield _stored_row(f"store-{connections}", bench, result)

    return measure


def _stow(connections: int) -> Callable[[Bench], Iterable[Row]]:
    def measure(bench: Bench) -> Iterable[Row]:
        load = StowLoad(connections, bench.sizes.stored, bench.fresh_studies(connections), bench.peer.web_root)
        result = run_stow(bench.peer.http_port, load, server_pid=bench.peer.pid)
        if result.failures:
            kind = NotServed if set(result.failures) <= {"404", "405"} else PerfError
            raise kind(f"stow-{connections}: {result.failures}")
        yield _stored_row(f"stow-{connections}", bench, result)

    return measure


def _stored_row(case: str, bench: Bench, result: load_store.StoreResult) -> Row:
    if result.failures:
        raise PerfError(f"{case}: {result.failures}")
    return Row(
        case, bench.peer.name, result.instances_per_s, result.megabytes_per_s, result.latency.p50_ms,
        result.latency.p99_ms, 0.0, result.server_cpu_ms, result.generator_cpu_ms,
    )  # fmt: skip


def _beside(bench: Bench) -> Iterable[Row]:
    """Measures frames on six connections alone and during C-STORE; C-STORE alone and while studies are read."""
    paths = [f"{bench.instance(place)}/frames/1" for place in range(1, bench.sizes.images + 1)]
    seconds, many = bench.sizes.beside_s, 1_000_000
    yield bench.get("beside: frames alone", paths, FRAMES, connections=6, total=many, seconds=seconds)
    (alone,) = _store(4)(bench)
    yield dataclasses.replace(alone, case="beside: store alone")
    rows: list[Row] = []
    reading = threading.Thread(
        target=lambda: rows.append(bench.get("beside: study with store", [bench.study()], FILES, total=many,
                                             seconds=seconds))
    )  # fmt: skip
    reading.start()
    (beside,) = _store(4)(bench)
    reading.join()
    yield from rows
    yield dataclasses.replace(beside, case="beside: store with study")
    done = threading.Event()
    storing = threading.Thread(target=_store_at, args=(bench, alone.rate / 2, done))
    storing.start()
    try:
        yield bench.get("beside: frames with store", paths, FRAMES, connections=6, total=many, seconds=seconds)
    finally:
        done.set()
        storing.join()


def _store_at(bench: Bench, rate: float, done: threading.Event) -> None:
    """Sends C-STOREs at a rate, in bursts of ten, until `done`."""
    while not done.is_set():
        began = time.perf_counter()
        load = load_store.StoreLoad(instance_count=10, warm_up_count=0, first_study=bench.fresh_studies(3))
        load_store.run(bench.peer.target, load)
        done.wait(max(0.0, 10 / rate - (time.perf_counter() - began)))


def _slow_readers(bench: Bench) -> Iterable[Row]:
    """Additional memory of all processes while slow clients read."""
    before = _memory_bytes(bench.peer)
    request = http_load.get(bench.study(), bench.peer.http_port, FILES)
    most, pause = before, threading.Event()
    with ExitStack() as stack:
        readers = []
        for _ in range(bench.sizes.slow_readers):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BYTES_PER_S)
            reader.connect(("127.0.0.1", bench.peer.http_port))
            reader.sendall(request)
            readers.append(reader)
        end = time.monotonic() + bench.sizes.beside_s
        while time.monotonic() < end:
            for reader in readers:
                reader.recv(SLOW_BYTES_PER_S // 4, socket.MSG_DONTWAIT) if _is_readable(reader) else None
            most = max(most, _memory_bytes(bench.peer))
            pause.wait(0.25)
    yield Row(f"slow-readers-{bench.sizes.slow_readers}", bench.peer.name, 0.0, memory_bytes=most - before)


def _stow_parts(bench: Bench) -> Iterable[Row]:
    """Additional memory of all processes while one request is stored."""
    before = _memory_bytes(bench.peer)
    looks = [before]
    load = StowLoad(1, bench.sizes.parts, bench.fresh_studies(1), bench.peer.web_root, "ct-head")
    seconds = run_parts(bench.peer.http_port, load, lambda: looks.append(_memory_bytes(bench.peer)))
    rate = round(bench.sizes.parts / seconds, 1)
    yield Row(f"stow-parts-{bench.sizes.parts}", bench.peer.name, rate, memory_bytes=max(looks) - before)


def _is_readable(reader: socket.socket) -> bool:
    try:
        return bool(reader.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


def _memory_bytes(peer: Peer) -> int:
    return sum(harness.memory(pid).pss_bytes for pid in harness.descendants(peer.pid))


CASES: dict[str, Callable[[Bench], Iterable[Row]]] = {
    "frames-1": _frames(1),
    "frames-6": _frames(6),
    "frames-100": _frames(100),
    "get": _get,
    "study": _study,
    "metadata": _metadata,
    "studies": _studies,
    "instances": _instances,
    "rendered": _picture("rendered"),
    "thumbnail": _picture("thumbnail"),
    "store-1": _store(1),
    "stow-1": _stow(1),
    "store-8": _store(8),
    "stow-8": _stow(8),
    "beside": _beside,
    "slow-readers": _slow_readers,
    "stow-parts": _stow_parts,
}
ONLY_FILMROOM = ("beside", "slow-readers", "stow-parts")
"""Cases for Filmroom only."""


# the run -----------------------------------------------------------------------------------------


def measure(names: Iterable[str], cases: Iterable[str], sizes: Sizes, rounds: int, workers: int) -> dict[str, object]:
    """Runs all cases with all peers, peers in turn within a round. Rows are medians of the rounds."""
    names, cases = list(names), list(cases)
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    for number in range(rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            http = {"http": True, "extra_http": EXTRA_HTTP}
            with peers.running(name, workers=workers, **http) as peer:  # type: ignore[arg-type]
                bench = Bench(peer, sizes)
                for case in cases:
                    if case in ONLY_FILMROOM and name != "filmroom":
                        continue
                    try:
                        rows += CASES[case](bench)
                    except NotServed as error:
                        left_out[f"{case} {name}"] = str(error)
            say(f"round {number + 1}: {name}")
    return {"rows": [asdict(row) for row in _medians(rows)], "left_out": left_out, "samples": [asdict(r) for r in rows]}


def _medians(rows: Iterable[Row]) -> list[Row]:
    by_case: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_case.setdefault((row.case, row.peer), []).append(row)
    numbers = [field.name for field in dataclasses.fields(Row)][2:]
    return [
        Row(case, peer, **{name: median([getattr(row, name) for row in found]) for name in numbers})
        for (case, peer), found in by_case.items()
    ]


def report(result: Mapping[str, object]) -> None:
    rows = [Row(**row) for row in result["rows"]]  # type: ignore[attr-defined]
    by_case = {(row.case, row.peer): row for row in rows}

    def cells(row: Row) -> list[object]:
        other = by_case.get((row.case, "orthanc")) if row.peer == "filmroom" else None
        ratio = f"{row.rate / other.rate:.1f}" if other and other.rate else ""
        values: list[object] = [
            f"{row.rate:.1f}", f"{row.megabytes_per_s:.0f}", f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}",
            f"{row.first_byte_ms:.2f}", f"{row.server_cpu_ms:.3f}", f"{row.generator_cpu_ms:.3f}",
        ]  # fmt: skip
        memory = f"{row.memory_bytes / 1e6:.0f} MB" if row.memory_bytes else ""
        return [
            row.case,
            row.peer,
            *("" if value in ("0", "0.0", "0.00") else value for value in values),
            ratio,
            memory,
        ]

    header = [
        "case",
        "server",
        "/s",
        "MB/s",
        "p50 ms",
        "p99 ms",
        "first byte",
        "CPU ms",
        "client",
        "× Orthanc",
        "memory",
    ]
    say(harness.table(header, [cells(row) for row in sorted(rows, key=lambda row: row.case)]))
    for name, why in result["left_out"].items():  # type: ignore[attr-defined]
        say(f"left out: {name}: {why}")


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="Filmroom's workers")
    options = parser.parse_args(arguments)
    if unknown := set(options.cases.split(",")) - set(CASES):
        raise PerfError(f"no case is called {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    sizes, rounds = (SMOKE, 1) if options.smoke else (Sizes(), options.rounds)
    facts = harness.machine_facts(Path("/tmp"))
    result = measure(options.peers.split(","), options.cases.split(","), sizes, rounds, options.workers)
    report(result)
    say(f"commit {facts['commit']}, load before {facts['load_before']}, {options.workers} worker(s), {rounds} round(s)")
    if options.json:
        harness.write_json(options.json, {"machine": facts, "smoke": options.smoke, **result})
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
