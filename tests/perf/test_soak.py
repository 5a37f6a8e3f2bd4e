"""The open loop: due times, the verdict on a run, the steps of a ramp."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from perf import soak
from perf.harness import Latencies, PerfError
from perf.soak import Interval, SoakLoad
from tests.perf.test_smoke import run_program

GOOD = Interval(
    at_s=10.0,
    store_rate=20.0,
    store=Latencies(200, 1.0, 2.0, 3.0, 4.0),
    find=Latencies.of([]),
    move=Latencies.of([]),
    late_s=0.01,
    failures={},
    server_cpu_ms=0.5,
    memory_bytes=0,
)


def test_stores_finds_and_moves_run_beside_each_other_and_are_kept_up_with(tmp_path: Path) -> None:
    result = tmp_path / "soak.json"
    assert "kept up with" in run_program("soak", "--smoke", "--peer", "filmroom", "--json", str(result))
    intervals = json.loads(result.read_text())["soak"]
    assert all(any(interval[kind]["count"] for interval in intervals) for kind in soak.KINDS)
    assert not any(interval["failures"] for interval in intervals)


def test_a_run_in_which_all_is_well_was_kept_up_with() -> None:
    assert soak.fell_behind(SoakLoad(), [GOOD, GOOD]) == ""


@pytest.mark.parametrize(
    ("interval", "why"),
    [
        (replace(GOOD, failures={"store A700": 3}), "3 × store A700"),
        (replace(GOOD, late_s=2.5), "sent 2.5 s late"),
        (replace(GOOD, store=Latencies(200, 900.0, 1000.0, 1500.0, 1600.0)), "p99 of C-STORE was 1500 ms"),
    ],
)
def test_failures_lateness_and_latency_are_each_a_reason(interval: Interval, why: str) -> None:
    assert why in soak.fell_behind(SoakLoad(), [GOOD, interval])


def test_a_run_that_stored_nothing_was_not_kept_up_with() -> None:
    assert soak.fell_behind(SoakLoad(), [replace(GOOD, store=Latencies.of([]))]) == "nothing was stored"


def test_a_request_is_due_though_the_one_before_has_taken_long() -> None:
    """The schedule does not move: what comes late is late by what it waited."""
    clock = soak._Clock(1e6, "seed 1", threading.Event())
    first = clock.wait()
    threading.Event().wait(0.02)
    second = clock.wait()
    assert first is not None and second is not None
    assert second[0] - first[0] < 10_000_000 <= second[1]


def test_a_ramp_has_both_ends() -> None:
    assert soak.steps_of("100:300:100") == [100.0, 200.0, 300.0]


@pytest.mark.parametrize("text", ["100", "a:b:c", "0:10:1", "10:5:1", "1:10:0"])
def test_a_ramp_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PerfError, match="--ramp"):
        soak.steps_of(text)
