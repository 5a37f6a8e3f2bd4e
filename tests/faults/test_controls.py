"""The rig's own test: with a safeguard taken out of the engine it must see losses, or it proves nothing."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.rotating(5)]

SEEDS = 200
"""Histories of one control at most, some 0.3 s each: one in sixty cuts the power between two writes of a checkpoint."""

CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV}


def _run(control: str, first_seed: int, seeds: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.faults.controls", control, str(first_seed), str(seeds)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("control", "first_seed"),
    [
        ("fdatasync removed", 1),
        ("directory sync removed", 1),
        ("pin removed", 1),
        ("checkpoint file before data", 56),
        ("log not synced at checkpoint", 5),
        ("ledger kept once", 8),
    ],
)
def test_an_engine_without_it_is_caught(control: str, first_seed: int) -> None:
    # The first seeds are those that see it now. A change of the histories moves them: other ones see it then.
    done = _run(control, first_seed, SEEDS)
    assert done.returncode != 0, "the rig has seen nothing"
    # LMDB may crash over what it finds, by an assertion or an address; whatever else kills the process shows nothing.
    assert done.returncode == 3 or -done.returncode in CRASHES, f"exit code {done.returncode}: {done.stderr}"
    assert done.returncode < 0 or done.stdout.strip(), "nothing is said to be broken"


def test_an_engine_as_it_is_passes() -> None:
    done = _run("as it is", 1, 3)
    assert done.returncode == 0, done.stdout + done.stderr
