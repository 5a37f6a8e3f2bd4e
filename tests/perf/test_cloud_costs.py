"""The costs of a bucket: sums of a demand and a table of prices that anybody can replace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.cli import exit_codes
from perf import cloud_costs
from perf.cloud_costs import HEAD_BYTES, Prices, StorageClass
from perf.harness import PerfError
from perf.sizing import Demand
from tests.cli.commands import run

DEMAND = Demand(100, 1, 1.073741824, 1)
"""A hundred instances of a GiB / 1000 a day."""
TABLE = Prices(
    put_per_1000=1.0,
    egress_per_gib=0.5,
    classes={"standard": StorageClass(gib_month=2.0), "cold": StorageClass(gib_month=1.0, read_per_gib=0.25)},
)


def test_a_month_is_segments_in_the_class_hints_in_the_hot_one_and_the_tail() -> None:
    gib = 100 * 365 * 1.073741824e6 / 2**30
    hot, cold = cloud_costs.costs(DEMAND, TABLE)
    more = 100 * 365 * HEAD_BYTES / 2**30 * 2 + 100 * 365 / 12 / 1000
    assert hot.value == pytest.approx(gib * 2 + more)
    assert cold.value == pytest.approx(gib + more)
    assert f"to read all of it elsewhere ${gib * 0.75:,.0f}" in cold.rule


def test_the_tail_is_an_object_a_second_at_most() -> None:
    busy = [cloud_costs.costs(replace(DEMAND, studies_per_day=count), TABLE)[0] for count in (1e6, 2e6)]
    tails = {need.rule.partition("tail $")[2].partition(";")[0] for need in busy}
    assert tails == {f"{365 / 12 * 86.4:,.2f}"}


def test_the_command_adds_a_line_for_each_class(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "size", "--studies-per-day", "600", "--cloud")
    assert code == exit_codes.OK
    for name in cloud_costs.prices().classes:
        assert f"bucket, {name}" in out
    own = tmp_path / "own.toml"
    own.write_text("put_per_1000 = 0.0\negress_per_gib = 0.0\n[classes.standard]\ngib_month = 0.0\n")
    code, out, _ = run(capsys, "size", "--studies-per-day", "600", "--prices", str(own))
    assert code == exit_codes.OK and "$0 a month" in out and "deep-archive" not in out
    assert "bucket," not in run(capsys, "size", "--studies-per-day", "600")[1]


@pytest.mark.parametrize(
    "text", ["", "[classes", "put_per_1000 = 1\negress_per_gib = 1\n[classes.cold]\ngib_month = 1\n"]
)
def test_a_table_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    own = tmp_path / "own.toml"
    own.write_text(text)
    with pytest.raises(PerfError):
        cloud_costs.prices(own)
    code, _, err = run(capsys, "size", "--studies-per-day", "600", "--prices", str(own))
    assert code == exit_codes.USAGE and "own.toml" in err
