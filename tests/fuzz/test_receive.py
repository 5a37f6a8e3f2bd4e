"""The receiver against its slow twin on streams from many seeds; FILMROOM_FUZZ_RUNS makes it a long run."""

from __future__ import annotations

import os

from tests.fuzz.receive import compare

RUNS = int(os.environ.get("FILMROOM_FUZZ_RUNS", "1500"))
SEED = int(os.environ.get("FILMROOM_FUZZ_SEED", "1"))


def test_receiver_and_twin_agree_on_whatever_comes() -> None:
    for seed in range(SEED, SEED + RUNS):
        compare(seed)
