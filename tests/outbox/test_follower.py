"""outbox.follower: nothing is lost or reordered by kill -9, and only what was accepted last may come again."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

from tests.system.server import wait_for

ROUNDS = 4


def test_a_killed_follower_loses_nothing_and_repeats_only_the_last_unit(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    choose = random.Random(seed)
    (tmp_path / "feed").mkdir()
    accepted = tmp_path / "accepted"

    def numbers() -> list[int]:
        return [int(line) for line in accepted.read_text().split()] if accepted.exists() else []

    kills = []
    for round_ in range(1, ROUNDS + 1):
        before = len(numbers())
        more = choose.randint(1, 30)
        child = subprocess.Popen([sys.executable, "-m", "tests.outbox.crashing", str(tmp_path), "100000"])
        try:
            wait_for(lambda goal=before + more: len(numbers()) >= goal, what=f"round {round_}")  # type: ignore[misc]
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        kills.append(len(numbers()))
    found = numbers()
    repeated = [at for at in range(1, len(found)) if found[at] == found[at - 1]]
    assert set(repeated) <= set(kills), f"a number comes twice only where a process was killed; seed {seed}"
    distinct = [number for at, number in enumerate(found) if at not in repeated]
    assert distinct == list(range(1, len(distinct) + 1)), f"all of them, in order; seed {seed}"
