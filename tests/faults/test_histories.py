"""Random histories of a whole archive on the disk that forgets; a few here, ten thousand states by `histories`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import effort
from tests.faults.histories import History, Tally

ROUNDS = os.environ.get("FILMROOM_FAULTS_ROUNDS")
SEEDS: Sequence[int] = range(1, int(ROUNDS) + 1) if ROUNDS else effort.one_half(range(1, 21))
if "FILMROOM_FAULTS_SEED" in os.environ:
    SEEDS = [int(os.environ["FILMROOM_FAULTS_SEED"])]


def test_random_histories_keep_every_promise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    for seed in SEEDS:
        tally.add(History(tmp_path / str(seed), seed, flips=seed % 4 == 0).run())
    with capsys.disabled():
        sys.stdout.write(f"\n{len(SEEDS)} histories, {tally.states} crash states, faults {dict(tally.faults)}")
    assert tally.states >= 2 * len(SEEDS)
