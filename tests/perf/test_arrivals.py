"""The open loop on a clock of its own: due times never wait for answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from perf.bench.arrivals import NS, Arrivals, WallClock


class FakeClock:
    """Time passes only when somebody sleeps or works."""

    def __init__(self) -> None:
        self.at_ns = 0
        self.stopped = False

    def now_ns(self) -> int:
        return self.at_ns

    def sleep_until(self, when_ns: int) -> bool:
        self.at_ns = max(self.at_ns, when_ns)
        return not self.stopped

    def work(self, seconds: float) -> None:
        self.at_ns += int(seconds * NS)


def arrivals_of(clock: FakeClock, rate: float, *, end_s: float = 10.0, steady: bool = True) -> Arrivals:
    return Arrivals(clock, rate=rate, seed="1", steady=steady, begin_ns=0, end_ns=int(end_s * NS))


def test_a_request_is_due_though_the_one_before_has_taken_long() -> None:
    clock = FakeClock()
    arrivals = arrivals_of(clock, 10.0)
    first = arrivals.next()
    clock.work(0.35)
    late = [arrivals.next() for _ in range(3)]
    assert first is not None and all(late)
    assert [start.due_ns for start in late if start] == [first.due_ns + place * NS // 10 for place in (1, 2, 3)]
    assert [start.late_ns for start in late if start] == [250_000_000, 150_000_000, 50_000_000]


def test_the_server_and_not_the_generator_is_to_blame_for_a_busy_connection() -> None:
    clock = FakeClock()
    arrivals = arrivals_of(clock, 10.0)
    arrivals.next()
    clock.work(0.35)
    late = arrivals.next()
    assert late is not None and late.late_ns > 0 and late.lag_ns == 0


def test_requests_that_nobody_took_are_left_with_their_due_times() -> None:
    clock = FakeClock()
    arrivals = arrivals_of(clock, 10.0, end_s=1.0)
    assert arrivals.next() is not None
    clock.stopped = True
    assert arrivals.next() is None
    assert len(arrivals.left()) == 8, "0.1 was sent; 0.2 to 0.9 are left, also the one that was waited for"


def test_a_run_ends_at_its_end() -> None:
    clock = FakeClock()
    arrivals = arrivals_of(clock, 10.0, end_s=0.55)
    assert sum(1 for _ in iter(arrivals.next, None)) == 5
    assert arrivals.left() == []


def test_random_arrivals_have_the_rate_and_are_the_same_again() -> None:
    runs = []
    for _ in range(2):
        arrivals = arrivals_of(FakeClock(), 100.0, end_s=100.0, steady=False)
        runs.append([start.due_ns for start in iter(arrivals.next, None)])
    assert runs[0] == runs[1]
    assert 9_000 < len(runs[0]) < 11_000


def test_a_closed_loop_is_due_when_its_connection_is_free() -> None:
    clock = FakeClock()
    arrivals = arrivals_of(clock, 0.0, end_s=1.0)
    starts = []
    while (start := arrivals.next()) is not None:
        starts.append(start)
        clock.work(0.3)
    assert [start.due_ns for start in starts] == [0, 300_000_000, 600_000_000, 900_000_000]
    assert not any(start.late_ns for start in starts) and arrivals.left() == []


def test_the_machines_clock_wakes_its_sleepers_when_it_is_stopped() -> None:
    clock = WallClock()
    assert clock.sleep_until(clock.now_ns() + 1) and clock.sleep_until(clock.now_ns() - NS)
    with ThreadPoolExecutor(1) as threads:
        sleeper = threads.submit(clock.sleep_until, clock.now_ns() + 3600 * NS)
        clock.stop()
        assert not sleeper.result(60)
