"""A stored copy that cannot be read when the same instance comes again: it is healed, and nothing else changes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.index.format.types import Outcome
from tests.faults.histories import observe
from tests.faults.model import Model, Shown
from tests.faults.operations import POLICIES, ROOT, Scene, data_set, received
from tests.faults.world import World

UID = f"{ROOT}.1.1.1"
ASIDE = data_set(UID, 0, 600)
CURRENT = data_set(UID, 1, 40)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("method", ["open", "pread"])
def test_healing_a_version_leaves_the_current_one_alone(tmp_path: Path, policy: str, method: str) -> None:
    """Found by a random history: healed with `replace`, a version took the current instance's place."""
    with World(tmp_path) as world:
        world.start()
        world.keeper.ingest_batch([received(ASIDE)])
        world.keeper.ingest_batch([received(CURRENT)], policy="keep-both-versions")
        world.restart(cleanly=True)
        scene = Scene(world, Model(), random.Random(0))
        world.disk.fail_when(method, ".seg")
        assert world.keeper.ingest_batch([received(ASIDE)], policy=policy) == [Outcome.KEPT_ASIDE]
        assert world.disk.fault_hit
        for _ in range(2):
            assert observe(scene, UID) == Shown(CURRENT, (ASIDE,))
            world.kill()
            world.start()
