"""Random histories of a whole archive on the disk that forgets; a few here, ten thousand states by `histories`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.faults.histories import History, Tally

ROUNDS = int(os.environ.get("FILMROOM_FAULTS_ROUNDS", "20"))
SEEDS = [int(os.environ["FILMROOM_FAULTS_SEED"])] if "FILMROOM_FAULTS_SEED" in os.environ else range(1, ROUNDS + 1)


def test_random_histories_keep_every_promise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    for seed in SEEDS:
        tally.add(History(tmp_path / str(seed), seed, flips=seed % 4 == 0).run())
    with capsys.disabled():
        sys.stdout.write(f"\n{len(SEEDS)} histories, {tally.states} crash states, faults {dict(tally.faults)}")
    assert tally.states >= 2 * len(SEEDS)
