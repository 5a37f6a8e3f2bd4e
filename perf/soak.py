"""Open-loop load for hours: modalities that send at a fixed rate, with queries and retrievals.

    python -m perf.soak --port 11112 --minutes 480 --store-rate 40 --find-rate 5 --move-rate 0.05
    python -m perf.soak --peer filmroom --ramp 100:2000:100 --step-seconds 30
    python -m perf.soak --peer filmroom --smoke

A closed loop (`perf.load_store`) waits for each answer before it sends again, so a slow server gets less load. A
scanner does not wait: here each request has a due time, and its latency runs from that time. A server that falls behind
shows growing latency, never a shrinking load.

    --store-rate    instances/s, over --associations modalities; each sends studies of --series-instances
    --find-rate     C-FINDs/s of sent studies
    --move-rate     C-MOVEs/s of whole sent studies, to the sink of this process
    --ramp A:B:S    instances/s from A to B in steps of S, each --step-seconds long; ends where the server falls behind

Prints one line an interval. The last line says whether the server kept up: everything sent, nothing failed, p99 within
--latency-ms-max, and the last request no later than LATE_S_MAX. Exit code 1: it did not (not for a ramp).
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from perf import corpus, harness, load_store, peers, population, retrieval, wire
from perf.association import Association, Target
from perf.harness import Latencies, PerfError, say
from perf.sink import Sink

CONTEXT_ID = 1
LATE_S_MAX = 1.0
"""If a request is sent this long after its due time, the server does not keep up."""

KINDS = ("store", "find", "move")


@dataclass(frozen=True, slots=True)
class SoakLoad:
    """The load. Rates are arrivals a second, over all associations of a kind."""

    store_rate: float = 20.0
    association_count: int = 4
    find_rate: float = 0.0
    move_rate: float = 0.0
    seconds: float = 60.0
    interval_s: float = 10.0
    template: str = "ct"
    series_instance_count: int = 200
    first_study: int = 1
    latency_ms_max: float = 1000.0
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Interval:
    """The figures of one interval, or of the whole run."""

    at_s: float
    """Time from the start to its end."""
    store_rate: float
    """Answered instances a second."""
    store: Latencies
    """Latencies from the due times."""
    find: Latencies
    move: Latencies
    late_s: float
    """The longest delay of a request after its due time."""
    failures: dict[str, int]
    server_cpu_ms: float
    """CPU time of the server for each instance."""
    memory_bytes: int
    """PSS of the server's processes at its end; 0: unknown."""


@dataclass(slots=True)
class _Counts:
    """The counts of all threads, under `lock`; taken once an interval."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    latencies_ns: dict[str, list[int]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    failures: dict[str, int] = field(default_factory=dict)
    late_ns: int = 0
    sent_studies: list[int] = field(default_factory=list)
    """Completely stored studies, the newest last."""

    def note(self, kind: str, latency_ns: int, late_ns: int, failure: str) -> None:
        with self.lock:
            self.latencies_ns[kind].append(latency_ns)
            self.late_ns = max(self.late_ns, late_ns)
            if failure:
                self.failures[failure] = self.failures.get(failure, 0) + 1

    def take(self) -> tuple[dict[str, list[int]], dict[str, int], int]:
        with self.lock:
            taken = self.latencies_ns, self.failures, self.late_ns
            self.latencies_ns, self.failures, self.late_ns = {kind: [] for kind in KINDS}, {}, 0
        return taken


class _Clock:
    """The due times of one association's requests: random gaps with the mean of the rate, from a seed."""

    def __init__(self, rate: float, seed: str, stop: threading.Event) -> None:
        self._rate, self._rng, self._stop = rate, random.Random(seed), stop
        self._due_ns = time.perf_counter_ns() + int(self._rng.random() / rate * 1e9)

    def wait(self) -> tuple[int, int] | None:
        """Waits for the next request: (due time, delay), both in ns; None: the run is over."""
        due_ns = self._due_ns
        pause_s = (due_ns - time.perf_counter_ns()) / 1e9
        if self._stop.wait(pause_s) if pause_s > 0 else self._stop.is_set():
            return None
        self._due_ns += int(self._rng.expovariate(self._rate) * 1e9)
        return due_ns, max(0, time.perf_counter_ns() - due_ns)


def _store(target: Target, load: SoakLoad, index: int, counts: _Counts, stop: threading.Event) -> None:
    """Runs one modality: study after study on one association."""
    template = corpus.template(load.template)
    context = wire.Context(CONTEXT_ID, template.sop_class_uid, (corpus.EXPLICIT_LITTLE_ENDIAN,))
    association = Association(target, [context])
    message = wire.StoreMessage(template, CONTEXT_ID, association.pdu_length_max)
    clock = _Clock(load.store_rate / load.association_count, f"{load.seed} store {index}", stop)
    study, place = load.first_study + index, 0
    try:
        while (due := clock.wait()) is not None:
            if place == 0:
                message.set_study(population.plain_study(study, "CT", (load.series_instance_count,)))
                message.set_series(corpus.series_uid(study, 1), 1)
            place += 1
            message.set_instance(place, place & 0x7FFF)
            association.sock.sendall(message.buffer)
            status = association.read_status()
            counts.note("store", time.perf_counter_ns() - due[0], due[1], f"store {status:04X}" if status else "")
            if place == load.series_instance_count:
                counts.sent_studies.append(study)
                study, place = study + load.association_count, 0
    finally:
        association.release()


def _find(target: Target, load: SoakLoad, counts: _Counts, stop: threading.Event) -> None:
    """Queries sent studies."""
    association = Association(target, [wire.Context(CONTEXT_ID, wire.STUDY_ROOT_FIND)])
    syntax = association.accepted.transfer_syntaxes[CONTEXT_ID]
    clock, rng = _Clock(load.find_rate, f"{load.seed} find", stop), random.Random(load.seed)
    vrs = {0x00080052: b"CS", 0x00100010: b"PN", 0x00100020: b"LO", 0x0020000D: b"UI"}
    try:
        while (due := clock.wait()) is not None:
            if not counts.sent_studies:
                continue
            facts = population.plain_study(rng.choice(counts.sent_studies), "CT", (1,))
            keys = {0x00080052: b"STUDY", 0x00100010: b"", 0x00100020: facts.patient_id, 0x0020000D: b""}
            association.send_message(
                CONTEXT_ID, wire.find_rq(wire.STUDY_ROOT_FIND, 1), wire.identifier(keys, syntax, vrs)
            )
            matches, _, status = association.read_responses(retrieval.PENDING)
            failure = f"find {status:04X}" if status else "" if matches == 1 else f"find: {matches} matches"
            counts.note("find", time.perf_counter_ns() - due[0], due[1], failure)
    finally:
        association.release()


def _move(target: Target, load: SoakLoad, sink: Sink, counts: _Counts, stop: threading.Event) -> None:
    """Retrieves whole sent studies, and counts the arriving instances."""
    association = Association(target, [wire.Context(CONTEXT_ID, wire.STUDY_ROOT_MOVE)])
    syntax = association.accepted.transfer_syntaxes[CONTEXT_ID]
    clock, rng = _Clock(load.move_rate, f"{load.seed} move", stop), random.Random(load.seed)
    try:
        while (due := clock.wait()) is not None:
            if not counts.sent_studies:
                continue
            sink.reset()
            identifier = retrieval.study_identifier(corpus.study_uid(rng.choice(counts.sent_studies)), syntax)
            association.send_message(CONTEXT_ID, wire.move_rq(1, sink.aet), identifier)
            _, _, status = association.read_responses(retrieval.PENDING)
            missing = load.series_instance_count - sink.counts.instance_count
            failure = f"move {status:04X}" if status else f"move: {missing} missing" if missing else ""
            counts.note("move", time.perf_counter_ns() - due[0], due[1], failure)
    finally:
        association.release()


def run(
    target: Target,
    sink: Sink,
    load: SoakLoad,
    *,
    server_pid: int = 0,
    shown: Callable[[Interval], None] = lambda interval: None,
) -> list[Interval]:
    """Runs the load for `load.seconds`; calls `shown` with each ended interval. Raises PerfError if it cannot send."""
    counts, stop = _Counts(), threading.Event()
    work: list[Callable[[], None]] = []
    if load.store_rate:
        work += [
            lambda index=index: _store(target, load, index, counts, stop)  # type: ignore[misc]
            for index in range(load.association_count)
        ]
    if load.find_rate:
        work.append(lambda: _find(target, load, counts, stop))
    if load.move_rate:
        work.append(lambda: _move(target, load, sink, counts, stop))

    def guarded(each: Callable[[], None]) -> None:
        try:
            each()
        except (OSError, PerfError) as error:
            with counts.lock:
                counts.failures[str(error)] = counts.failures.get(str(error), 0) + 1

    threads = [threading.Thread(target=guarded, args=(each,), daemon=True) for each in work]
    started, intervals = time.perf_counter(), list[Interval]()
    for thread in threads:
        thread.start()
    try:
        while (left_s := started + load.seconds - time.perf_counter()) > 0 and any(t.is_alive() for t in threads):
            before_s, cpu_s = time.perf_counter(), harness.cpu_s(server_pid) if server_pid else 0.0
            stop.wait(min(load.interval_s, left_s))
            intervals.append(_interval(counts, started, before_s, cpu_s, server_pid))
            shown(intervals[-1])
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=30)
    return intervals


def _interval(counts: _Counts, started_s: float, before_s: float, cpu_before_s: float, server_pid: int) -> Interval:
    latencies_ns, failures, late_ns = counts.take()
    now_s, stored = time.perf_counter(), len(latencies_ns["store"])
    cpu_s = harness.cpu_s(server_pid) - cpu_before_s if server_pid else 0.0
    memory_bytes = sum(harness.memory(pid).pss_bytes for pid in harness.descendants(server_pid)) if server_pid else 0
    return Interval(
        at_s=round(now_s - started_s, 1),
        store_rate=round(stored / (now_s - before_s), 1),
        store=Latencies.of(latencies_ns["store"]),
        find=Latencies.of(latencies_ns["find"]),
        move=Latencies.of(latencies_ns["move"]),
        late_s=round(late_ns / 1e9, 3),
        failures=failures,
        server_cpu_ms=round(cpu_s * 1000 / max(1, stored), 4),
        memory_bytes=memory_bytes,
    )


def fell_behind(load: SoakLoad, intervals: list[Interval]) -> str:
    """Why the server did not keep up with `load`; "" if it did."""
    failures: dict[str, int] = {}
    for interval in intervals:
        for name, count in interval.failures.items():
            failures[name] = failures.get(name, 0) + count
    if failures:
        return ", ".join(f"{count} × {name}" for name, count in failures.items())
    if not intervals or (load.store_rate and not any(interval.store.count for interval in intervals)):
        return "nothing was stored"
    if intervals[-1].late_s > LATE_S_MAX:
        return f"the last requests were sent {intervals[-1].late_s:.1f} s late"
    worst = max(interval.store.p99_ms for interval in intervals)
    if worst > load.latency_ms_max:
        return f"p99 of C-STORE was {worst:.0f} ms, the limit is {load.latency_ms_max:.0f}"
    return ""


# command line ------------------------------------------------------------------------------------

HEADER = (
    "s", "instances/s", "store p50", "p99 ms", "find p99", "move p50 ms", "late s", "CPU ms", "memory MB", "failed",
)  # fmt: skip
WIDTHS = (7, 11, 9, 8, 8, 11, 7, 7, 9, 6)


def line_of(interval: Interval) -> str:
    """One interval as a line below HEADER."""

    def ms(latencies: Latencies, value: float) -> str:
        return f"{value:.1f}" if latencies.count else ""

    cells = (
        f"{interval.at_s:.0f}",
        f"{interval.store_rate:.1f}",
        ms(interval.store, interval.store.p50_ms),
        ms(interval.store, interval.store.p99_ms),
        ms(interval.find, interval.find.p99_ms),
        ms(interval.move, interval.move.p50_ms),
        f"{interval.late_s:.2f}",
        f"{interval.server_cpu_ms:.3f}" if interval.server_cpu_ms else "",
        f"{interval.memory_bytes / 1e6:.0f}" if interval.memory_bytes else "",
        str(sum(interval.failures.values()) or ""),
    )
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=True))


def _show(interval: Interval) -> None:
    say(line_of(interval))
    for name, count in interval.failures.items():
        say(f"         {count} × {name}")


def steps_of(text: str) -> list[float]:
    """The rates of --ramp A:B:S. Raises PerfError."""
    try:
        first, last, step = (float(part) for part in text.split(":"))
    except ValueError:
        raise PerfError(f"--ramp {text}: write FROM:TO:STEP in instances/s, such as 100:2000:100") from None
    if first <= 0 or step <= 0 or last < first:
        raise PerfError(f"--ramp {text}: FROM and STEP are above 0, and TO is not below FROM")
    return [first + step * number for number in range(int((last - first) / step + 1e-9) + 1)]


def ramp(target: Target, sink: Sink, loads: list[SoakLoad], *, server_pid: int = 0) -> tuple[float, list[Interval]]:
    """Runs each load in turn until the server falls behind. Returns the last rate that it kept up with, 0.0: none."""
    kept, intervals = 0.0, list[Interval]()
    for load in loads:
        say(f"-- {load.store_rate:g} instances/s")
        measured = run(target, sink, load, server_pid=server_pid, shown=_show)
        intervals += measured
        why = fell_behind(load, measured)
        if why:
            say(f"fell behind at {load.store_rate:g} instances/s: {why}")
            break
        kept = load.store_rate
    return kept, intervals


def _options() -> argparse.ArgumentParser:
    parser = harness.parser(__doc__)
    harness.target_options(parser)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--interval", type=float, default=10.0, help="seconds for each line")
    parser.add_argument("--store-rate", type=float, default=20.0, help="instances/s; 0: none")
    parser.add_argument("--associations", type=int, default=4, help="number of sending modalities")
    parser.add_argument("--find-rate", type=float, default=0.0, help="C-FINDs/s")
    parser.add_argument("--move-rate", type=float, default=0.0, help="C-MOVEs/s, each of a whole study")
    parser.add_argument("--ramp", default="", metavar="A:B:S", help="instances/s from A to B in steps of S")
    parser.add_argument("--step-seconds", type=float, default=30.0, help="length of each step of --ramp")
    parser.add_argument("--latency-ms-max", type=float, default=1000.0, help="highest p99 of C-STORE that keeps up")
    parser.add_argument("--template", default="ct", help="ct, mr or tiny")
    parser.add_argument("--series-instances", type=int, default=200)
    parser.add_argument("--first-study", type=int, default=300_000_000, help="so that a second load has other UIDs")
    parser.add_argument("--sink-host", default="127.0.0.1", help="this machine's address as the server knows SINK")
    parser.add_argument("--sink-port", type=int, default=0, help="where the server finds SINK; 0: any, with --peer")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = _options().parse_args(arguments)
    if options.smoke:
        options.minutes, options.interval, options.template, options.series_instances = 3 / 60, 1.0, "tiny", 10
        options.store_rate, options.find_rate, options.move_rate, options.associations = 100.0, 10.0, 3.0, 2
        options.step_seconds = 1.0
    if options.associations < 1 or min(options.store_rate, options.find_rate, options.move_rate) < 0:
        raise PerfError("--associations is 1 or more, and no rate is below 0")
    rates = steps_of(options.ramp) if options.ramp else [options.store_rate]
    seconds = options.step_seconds if options.ramp else options.minutes * 60
    # Each step has its own studies: many times as many numbers as it can use.
    loads = [
        SoakLoad(
            store_rate=rate,
            association_count=options.associations,
            find_rate=options.find_rate,
            move_rate=options.move_rate,
            seconds=seconds,
            interval_s=options.interval,
            template=options.template,
            series_instance_count=options.series_instances,
            first_study=options.first_study + number * 1_000_000,
            latency_ms_max=options.latency_ms_max,
        )
        for number, rate in enumerate(rates)
    ]
    sink = Sink(options.sink_port, peers.SINK_AET, options.sink_host)

    def measure(target: Target, server_pid: int) -> int:
        say("  ".join(name.rjust(width) for name, width in zip(HEADER, WIDTHS, strict=True)))
        if options.ramp:
            kept, intervals = ramp(target, sink, loads, server_pid=server_pid)
            say(f"kept up with {kept:g} instances/s" if kept else "kept up with none of these rates")
            why = "" if kept else "no step was kept up with"
        else:
            intervals = run(target, sink, loads[0], server_pid=server_pid, shown=_show)
            why = fell_behind(loads[0], intervals)
            kept = 0.0 if why else loads[0].store_rate
            say(f"did not keep up: {why}" if why else f"kept up with {loads[0].store_rate:g} instances/s")
        if not options.peer:
            say(load_store.REMOVAL)
        if options.json:
            document = {"soak": [asdict(interval) for interval in intervals], "kept_up_with": kept, "why": why}
            harness.write_json(Path(options.json), {**document, "smoke": options.smoke})
        return 1 if why else 0

    try:
        return peers.with_target(options, measure, sink_port=sink.port)
    finally:
        sink.close()


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
