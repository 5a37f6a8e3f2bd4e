"""The page for those who decide: targets judged, text escaped, mistakes named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perf import report
from perf.harness import PerfError
from perf.report import Target

SAMPLE = {"rate": 500.0, "p99_ms": 4.0, "server_cpu_ms": 0.5, "failed_count": 0}
RESULT: dict[str, Any] = {
    "machine": {"time": "2026-11-29", "cpu_model": "<b>Model</b>"},
    "samples": {"store-8": {"filmroom": [SAMPLE, {**SAMPLE, "rate": 700.0}, {**SAMPLE, "rate": 600.0}]}},
}


def test_a_target_is_judged_by_the_median_of_the_rounds() -> None:
    met = Target("enough", "store-8", "rate", at_least=600)
    missed = Target("more", "store-8", "rate", at_least=601)
    assert report.page(RESULT, [met])[1] == 0
    shown, count = report.page(RESULT, [met, missed])
    assert count == 1 and "1 of 2 targets" in shown


def test_what_the_result_says_is_text_and_never_markup() -> None:
    shown, _ = report.page(RESULT, [])
    assert "<b>Model" not in shown and "&lt;b&gt;Model" in shown


def test_a_target_of_something_that_was_not_measured_is_named() -> None:
    with pytest.raises(PerfError, match="no rate of move/filmroom; it has store-8/filmroom"):
        report.page(RESULT, [Target("", "move", "rate", at_least=1)])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no"),
        ("[[target]]\ntext = 'a'\ncase = 'move'\nfigure = 'rate'\n", "at_least or at_most"),
        ("[[target]]\ntext = 'a'\nkase = 'move'\n", "unexpected keyword argument 'kase'"),
        ("[[target", "targets.toml"),
    ],
)
def test_a_mistake_in_the_targets_is_named(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(text)
    with pytest.raises(PerfError, match=why):
        report.targets_of(path)


def test_a_document_that_is_no_result_is_refused() -> None:
    with pytest.raises(PerfError, match="no result"):
        report.page({"something": 1}, [])


def test_a_soak_is_shown_too() -> None:
    latencies = {"p50_ms": 1.0, "p99_ms": 3.0}
    interval = {"store_rate": 40.0, "store": latencies, "server_cpu_ms": 0.5, "late_s": 0.1, "failures": {}}
    shown, missed = report.page({"soak": [interval]}, [Target("forty", "soak", "rate", at_least=40)])
    assert not missed and "the whole run" in shown
