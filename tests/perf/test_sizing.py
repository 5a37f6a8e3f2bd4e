"""The sums of `filmroom size`, the page that shows them, and the hardware targets that have to be large enough."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from engine.cli import exit_codes
from perf import sizing
from perf.bench import profiles, targets
from perf.bench.targets import Target
from perf.harness import PerfError
from perf.sizing import Demand
from tests.cli.commands import run

PAGE = Path(sizing.__file__).with_name("SIZING.md")
DEMAND = Demand(200, 300, 0.5, 5)


def values(demand: Demand) -> dict[str, float]:
    return {need.part: need.value for need in sizing.needs(demand)}


def test_the_page_has_the_tables_of_the_command() -> None:
    blocks = dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- end -->", PAGE.read_text(), re.DOTALL))
    assert blocks == sizing.markdown(), "python -m perf.sizing prints them anew"


def test_the_disk_is_instances_times_bytes_times_days() -> None:
    found = values(DEMAND)
    assert found["disk space"] == pytest.approx(200 * 300 * (0.5e6 + 2000) * 365 * 5 * 1.25 / 1e12)
    assert values(replace(DEMAND, years=10))["disk space"] == pytest.approx(2 * found["disk space"])


@pytest.mark.parametrize("more", [{"studies_per_day": 4000.0}, {"senders": 40}, {"workstations": 90}])
def test_more_load_needs_no_less_of_anything(more: dict[str, float]) -> None:
    small, large = values(DEMAND), values(replace(DEMAND, **more))  # type: ignore[arg-type]
    assert all(large[part] >= small[part] for part in small if part != "sync latency" and "IOPS" not in part)
    assert large["processors"] > small["processors"] or large["network"] > small["network"]


def test_every_figure_that_a_sum_names_is_measured() -> None:
    named = {need.figure for need in sizing.needs(DEMAND)} - {""}
    assert named <= sizing.figures().keys()
    assert all(figure.measured and figure.source for figure in sizing.figures().values())


@pytest.mark.parametrize(
    "demand",
    [
        replace(DEMAND, years=0),
        replace(DEMAND, studies_per_day=-1),
        replace(DEMAND, megabytes_per_instance=float("nan")),
    ],
)
def test_a_demand_that_is_none_is_refused(demand: Demand) -> None:
    with pytest.raises(PerfError, match="above 0"):
        sizing.needs(demand)


def test_a_demand_beyond_one_machine_is_refused() -> None:
    with pytest.raises(PerfError, match="divide the archive"):
        sizing.needs(replace(DEMAND, studies_per_day=1e6))


def test_a_mix_weighs_instances_by_their_number() -> None:
    instances, megabytes = sizing.mixed({"ct": 1, "dx": 1})
    assert instances == 201
    assert megabytes == pytest.approx((400 * 0.53 + 2 * 15) / 402)


@pytest.mark.parametrize("text", ["ct", "ct=x", "bogus=1", "ct=0", "ct=-1,mr=2", ""])
def test_a_mix_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PerfError):
        sizing.mixed(sizing.parse_mix(text))


@pytest.mark.parametrize("target", targets.shipped().values(), ids=lambda target: target.name)
def test_a_target_has_the_hardware_that_its_volume_needs(target: Target) -> None:
    volume, hardware = target.volume, target.hardware
    found = values(
        Demand(volume.studies_per_day, volume.instances_per_study, volume.megabytes_per_instance, target.years)
    )
    assert hardware.cores >= found["processors"] and hardware.memory_gb >= found["memory"]
    assert hardware.disk_tb >= found["disk space"] * 0.99 and hardware.syncs_per_s_min >= found["disk syncs (IOPS)"]
    assert hardware.sync_p99_ms_max <= found["sync latency"]
    assert hardware.write_mb_per_s_min >= found["disk writes"] and hardware.read_mb_per_s_min >= found["disk reads"]
    assert hardware.network_mbit_per_s_min >= found["network"]


@pytest.mark.parametrize("target", targets.shipped().values(), ids=lambda target: target.name)
def test_a_target_asks_only_for_streams_that_its_profiles_have_and_for_no_more_than_they_send(target: Target) -> None:
    for each in target.run:
        streams = {stream.name: stream for stream in profiles.read(each.profile).stream}
        for must in each.must:
            stream = streams[must.stream]
            if must.figure == "rate" and must.at_least is not None:
                assert must.at_least <= stream.rate * each.factor


def test_the_command_answers_in_json_and_names_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "size", "--studies-per-day", "200", "--modality-mix", "ct=1", "--json")
    rows = {row["part"]: row for row in map(json.loads, out.splitlines())}
    assert (
        code == exit_codes.OK
        and rows["processors"]["value"] >= 2
        and "0.49 to 0.58 ms" in rows["processors"]["measured"]
    )
    for wrong in (("--modality-mix", "bogus=1"), ("--megabytes", "1"), ("--years", "0")):
        code, _, err = run(capsys, "size", "--studies-per-day", "200", *wrong)
        assert code == exit_codes.USAGE and err
