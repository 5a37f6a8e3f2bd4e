"""The receiver against its slow twin on streams from many seeds; FILMROOM_FUZZ_RUNS makes it a long run."""

from __future__ import annotations

import os

from tests import effort
from tests.fuzz.receive import compare

RUNS = int(os.environ.get("FILMROOM_FUZZ_RUNS", "1500"))
STRIDE = 1 if effort.ALL or "FILMROOM_FUZZ_RUNS" in os.environ else 3
SEED = int(os.environ.get("FILMROOM_FUZZ_SEED", "1"))


def test_receiver_and_twin_agree_on_whatever_comes() -> None:
    for seed in effort.part(range(SEED, SEED + RUNS), STRIDE, effort.seed("EFFORT")):
        compare(seed)
