"""filmroom doctor --target: this machine beside hardware targets."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.cli import exit_codes
from engine.doctor import examination, hardware
from engine.doctor.finding import Verdict, good
from engine.doctor.hardware import Hardware, network_mbit_per_s
from perf.bench import targets
from tests.cli.commands import rows, run
from tests.doctor.test_examination import config_of

EASY = Hardware(
    cores=1,
    memory_gb=0.1,
    disk_tb=1e-6,
    sync_p99_ms_max=1e6,
    syncs_per_s_min=0.001,
    write_mb_per_s_min=0.001,
    read_mb_per_s_min=0.001,
    network_mbit_per_s_min=0.001,
)
FIGURES = good("disk", "", sync_p50_ms=1.0, sync_p99_ms=2.0, write_mb_per_s=300.0, read_mb_per_s=500.0, free_bytes=1e12)


@pytest.fixture(autouse=True)
def _link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the kernel of this machine knows the speed of a link does not matter."""
    monkeypatch.setattr(hardware, "network_mbit_per_s", lambda: 10_000.0)


def verdicts_of(target: Hardware) -> dict[str, Verdict]:
    found = hardware.examine("it", {"it": target}, [FIGURES])
    return {finding.subject.removeprefix("it: "): finding.verdict for finding in found}


def test_a_machine_that_has_everything_is_good_for_the_target() -> None:
    assert set(verdicts_of(EASY).values()) == {Verdict.GOOD}
    assert "good for it" in list(hardware.examine("it", {"it": EASY}, [FIGURES]))[-1].what


@pytest.mark.parametrize(
    ("subject", "more"),
    [
        ("processors", {"cores": 100_000}),
        ("memory", {"memory_gb": 1e6}),
        ("free space", {"disk_tb": 1.1}),
        ("sync latency", {"sync_p99_ms_max": 1.9}),
        ("syncs", {"syncs_per_s_min": 1001}),
        ("write rate", {"write_mb_per_s_min": 301}),
        ("read rate", {"read_mb_per_s_min": 501}),
    ],
)
def test_what_a_machine_lacks_is_a_warning_of_its_own(subject: str, more: dict[str, float]) -> None:
    found = verdicts_of(msgspec.structs.replace(EASY, **more))
    assert [name for name, verdict in found.items() if verdict is Verdict.WARNING] == [subject, "good for"]


def test_what_was_not_measured_is_said_and_never_good() -> None:
    *lines, last = hardware.examine("it", {"it": EASY}, [])
    assert "not known: free space, sync latency, syncs, write rate, read rate" in last.what
    good = [line.subject for line in lines if line.verdict is Verdict.GOOD]
    assert good == ["it: processors", "it: memory", "it: network"]


def test_a_link_without_a_speed_is_no_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "network_mbit_per_s", lambda: None)
    assert verdicts_of(EASY)["network"] is Verdict.WARNING


def test_the_fastest_link_counts_and_one_without_a_speed_does_not(tmp_path: Path) -> None:
    for name, speed in (("eth0", "1000"), ("eth1", "10000"), ("veth", "-1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "speed").write_text(speed)
    (tmp_path / "lo").mkdir()
    assert network_mbit_per_s(tmp_path) == 10_000.0
    assert network_mbit_per_s(tmp_path / "lo") is None


def test_the_disk_is_judged_by_the_target_that_is_named(tmp_path: Path) -> None:
    strict = msgspec.structs.replace(EASY, sync_p99_ms_max=1e-6)
    goal = examination.Goal("strict", {"easy": EASY, "strict": strict})
    found = {each.subject: each for each in examination.examine(config_of(tmp_path), measure_bytes=4 << 20, goal=goal)}
    assert "the target is 1e-06 ms" in found["sync latency"].advice
    assert found["strict: sync latency"].verdict is Verdict.WARNING
    assert "good for easy; it is too small for strict" in found["good for"].what


def test_the_command_knows_the_shipped_targets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = rows(capsys, "doctor", "--quick", "--target", "small-clinic", "--data", str(tmp_path))
    last = next(row for row in found if row["subject"] == "good for")
    assert all(name in last["what"] for name in targets.shipped())
    code, _, err = run(capsys, "doctor", "--target", "nothing")
    assert code == exit_codes.USAGE and "there is no 'nothing' in targets" in err
