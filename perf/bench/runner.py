"""Sends one load: opens all connections, runs every stream in its threads, and ends an interval now and then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perf.bench.arrivals import NS, Arrivals, Start, WallClock
from perf.bench.observer import Observer
from perf.bench.operation import Opener, Operation
from perf.bench.profiles import Stream
from perf.bench.recorder import Counts, Histogram, Outcome, Recorder, most_frequent
from perf.bench.result import Interval, Sample, StreamResult, Warning_
from perf.bench.warnings import delayed_acknowledgements
from perf.harness import PerfError

RETRY_PAUSE_S = 0.5
"""After a lost connection, so that a soak survives a restart of the server and does not flood it."""
GIVE_UP_FAILURES = 100
"""If every stream has failed so often in a row, the run ends."""
LOOK_NS = NS // 5
THREAD_NAME = "bench "
"""The names of all threads of a load begin with it."""
JOIN_S = 130.0
"""How long a request that is on its way at the end may take: a little longer than the timeout of a connection."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A stream that can run, with the service that it uses."""

    stream: Stream
    service: str
    open: Opener


@dataclass(frozen=True, slots=True)
class Pace:
    """How a load is sent."""

    seconds: float
    warm_up_s: float = 0.0
    interval_s: float = 10.0
    factor: float = 1.0
    closed_loop: bool = False
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Measured:
    """What a load has shown."""

    streams: list[StreamResult]
    samples: list[Sample]
    seconds: float
    """Measured time, without the warm-up."""
    warnings: list[Warning_]
    """Those that need the latencies of all requests."""
    stopped: str
    """Why the run ended early."""


Shown = Callable[[Sequence[tuple[str, Interval]]], None]
"""Called with each ended interval: (name of the stream, its figures)."""


class _Stream:
    """The connections of one lane, with their counts."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.recorder = Recorder()
        self.total = Counts()
        self.intervals: list[Interval] = []
        self.unsent_count = 0
        self.behind_s = 0.0
        """The age of the oldest request that was not sent."""
        self.operations: list[Operation] = [lane.open() for _ in range(lane.stream.connections)]
        self.threads: list[threading.Thread] = []

    def start(self, arrivals: Arrivals, clock: WallClock) -> None:
        self.arrivals = arrivals
        self.threads = [
            threading.Thread(
                target=self._work, args=(operation, clock), name=THREAD_NAME + self.lane.stream.name, daemon=True
            )
            for operation in self.operations
        ]
        for thread in self.threads:
            thread.start()

    def _work(self, first: Operation, clock: WallClock) -> None:
        operation: Operation | None = first
        while (start := self.arrivals.next()) is not None:
            try:
                operation = operation or self.lane.open()
                outcome = operation.request()
            except (PerfError, OSError) as error:
                outcome = Outcome(str(error) or type(error).__name__)
                _close(operation)
                operation = None
            self._note(start, outcome, clock.now_ns())
            if operation is None:
                clock.sleep_until(clock.now_ns() + int(RETRY_PAUSE_S * NS))
        _close(operation)

    def _note(self, start: Start, outcome: Outcome, now_ns: int) -> None:
        self.recorder.note(outcome, now_ns - start.due_ns, start.late_ns, start.lag_ns)

    def end_interval(self, at_s: float, length_s: float, *, warm_up: bool) -> tuple[Interval, Histogram]:
        counts = self.recorder.take()
        if not warm_up:
            self.total.merge(counts)
        interval = Interval(
            at_s=round(at_s, 2),
            warm_up=warm_up,
            rate=round(counts.succeeded / length_s, 2),
            instances_per_s=round(counts.instance_count / length_s, 2),
            latency=counts.latencies.percentiles(),
            late_s=round(counts.late_ns / NS, 3),
            failure_count=counts.failures.total(),
        )
        self.intervals.append(interval)
        return interval, counts.lags

    def count_unsent(self, end_ns: int) -> None:
        """Requests that were due and not sent have waited at least until the end."""
        for due_ns in self.arrivals.left():
            self.total.latencies.add(end_ns - due_ns)
            self.unsent_count += 1
            self.behind_s = max(self.behind_s, (end_ns - due_ns) / NS)

    def result(self, pace: Pace, seconds: float) -> StreamResult:
        stream, total = self.lane.stream, self.total
        return StreamResult(
            name=stream.name,
            text=stream.text,
            service=self.lane.service,
            unit=stream.unit,
            connections=stream.connections,
            offered_rate=0.0 if pace.closed_loop else round(stream.rate * pace.factor, 3),
            rate=round(total.succeeded / seconds, 2),
            instances_per_s=round(total.instance_count / seconds, 2),
            megabytes_per_s=round(total.byte_count / seconds / 1e6, 2),
            latency=total.latencies.percentiles(),
            distribution=total.latencies.curve(),
            p99_ms_max=stream.p99_ms_max,
            late_s=round(max([self.behind_s, *(interval.late_s for interval in self.intervals[-1:])]), 3),
            unsent_count=self.unsent_count,
            failures=most_frequent(total.failures),
            intervals=self.intervals,
        )


def _close(operation: Operation | None) -> None:
    if operation is not None:
        operation.close()


class _Load:
    """One load in progress."""

    def __init__(self, lanes: Sequence[Lane], pace: Pace, observer: Observer, shown: Shown) -> None:
        self._streams = [_Stream(lane) for lane in lanes]
        self._pace, self._observer, self._shown = pace, observer, shown
        self._clock = WallClock()
        self._begin_ns = self._last_ns = self._clock.now_ns()
        self._end_ns = self._begin_ns + int((pace.warm_up_s + pace.seconds) * NS)
        self._samples: list[Sample] = []

    def send(self) -> Measured:
        self._observer.sample(0.0, Histogram(), warm_up=True)  # the first one counts from here
        for stream in self._streams:
            self._start(stream)
        stopped = ""
        try:
            for border_ns in _borders(self._begin_ns, self._end_ns, self._pace):
                stopped = self._wait_until(border_ns)
                if stopped or border_ns == self._end_ns:
                    self._stop()
                in_warm_up = border_ns - self._begin_ns <= int(self._pace.warm_up_s * NS)
                self._end_interval(warm_up=in_warm_up and not stopped)
                if stopped:
                    break
        finally:
            self._stop()
        if not stopped:
            for stream in self._streams:
                stream.count_unsent(self._end_ns)
        elapsed_s = (self._last_ns - self._begin_ns) / NS
        measured_s = elapsed_s if elapsed_s <= self._pace.warm_up_s else elapsed_s - self._pace.warm_up_s
        results = [stream.result(self._pace, measured_s) for stream in self._streams]
        found = [delayed_acknowledgements(each.lane.stream.name, each.total.services) for each in self._streams]
        return Measured(results, self._samples, measured_s, [each for each in found if each], stopped)

    def _start(self, stream: _Stream) -> None:
        described, pace = stream.lane.stream, self._pace
        arrivals = Arrivals(
            self._clock,
            rate=0.0 if pace.closed_loop else described.rate * pace.factor,
            seed=f"{pace.seed} {described.name}",
            steady=described.arrivals == "steady",
            begin_ns=self._begin_ns,
            end_ns=self._end_ns,
        )
        stream.start(arrivals, self._clock)

    def _wait_until(self, border_ns: int) -> str:
        """Waits. Returns why the run has to end early, or nothing."""
        try:
            while (now_ns := self._clock.now_ns()) < border_ns:
                self._clock.sleep_until(min(border_ns, now_ns + LOOK_NS))
                if all(stream.recorder.failures_in_a_row >= GIVE_UP_FAILURES for stream in self._streams):
                    return f"every request failed, {GIVE_UP_FAILURES} in a row and more"
        except KeyboardInterrupt:
            return "interrupted"
        return ""

    def _end_interval(self, *, warm_up: bool) -> None:
        now_ns = self._clock.now_ns()
        at_s, length_s = (now_ns - self._begin_ns) / NS, max((now_ns - self._last_ns) / NS, 1e-6)
        self._last_ns = now_ns
        lags, rows = Histogram(), []
        for stream in self._streams:
            interval, stream_lags = stream.end_interval(at_s, length_s, warm_up=warm_up)
            lags.merge(stream_lags)
            rows.append((stream.lane.stream.name, interval))
        self._samples.append(self._observer.sample(at_s, lags, warm_up=warm_up))
        self._shown(rows)

    def _stop(self) -> None:
        self._clock.stop()
        for stream in self._streams:
            for thread in stream.threads:
                thread.join(JOIN_S)


def send(lanes: Sequence[Lane], pace: Pace, observer: Observer, shown: Shown = lambda rows: None) -> Measured:
    """Sends a load until its time is over, it fails altogether, or Ctrl-C. Raises PerfError if it cannot begin."""
    return _Load(lanes, pace, observer, shown).send()


def _borders(begin_ns: int, end_ns: int, pace: Pace) -> list[int]:
    """The ends of the intervals: of the warm-up, then each `interval_s`."""
    borders = [begin_ns + int(pace.warm_up_s * NS)] if pace.warm_up_s else []
    at_ns = borders[-1] if borders else begin_ns
    while at_ns < end_ns:
        at_ns = min(at_ns + int(pace.interval_s * NS), end_ns)
        borders.append(at_ns)
    return borders
