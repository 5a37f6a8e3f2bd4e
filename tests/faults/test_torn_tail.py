"""The last record torn at every length: the archive starts, and loses nothing that it owes.

A run takes every FILMROOM_TORN_STRIDE-th length, others with each commit (`effort`); --all takes them all.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from engine.storage.record import Position
from tests import effort
from tests.faults.histories import observe
from tests.faults.model import Model
from tests.faults.operations import ROOT, Import, Scene, check, data_set, received
from tests.faults.world import World, WorldDisk

STRIDE = effort.amount("TORN_STRIDE", 8, 1)

FIRST, LAST = f"{ROOT}.1.1.1", f"{ROOT}.1.1.2"


def _base(world: World) -> tuple[WorldDisk, Position]:
    """A disk with two instances that the index on it does not know yet, all of it synced; where the last one lies."""
    world.start()
    scene = Scene(world, Model(), random.Random(0))
    for uid in (FIRST, LAST):
        Import.store(scene, {uid: data_set(uid, 0, 4)}, "keep-first")
    last = world.keeper.parts.index.locate(LAST.encode())
    assert last is not None
    # Killed: the index goes back to its checkpoint, and both come from the log.
    world.kill()
    for _, file in world.disk.files():
        file.sync()
    for name in ("pacs", "pacs/data", "pacs/data/segments", "pacs/data/index", ""):
        world.disk.sync_directory(f"{world.disk.root}/{name}".rstrip("/"))
    return world.disk, last.position


@pytest.mark.parametrize("ends", [False, True], ids=["zeros follow", "the file ends"])
def test_a_tail_torn_at_every_length(tmp_path: Path, ends: bool) -> None:
    with World(tmp_path) as world:
        base, position = _base(world)
        name = f"pacs/data/segments/{position.segment_id:016x}.seg"
        starts = 0
        lengths = range(position.record_bytes + 1)
        # Where the parts of a record meet, always.
        for length in sorted({*effort.part(lengths, STRIDE, effort.seed("TORN")), 0, 1, lengths[-2], lengths[-1]}):
            world.disk = base.lost_power(world._next_root(), 0)
            world.machine_starts += 1
            file = dict(world.disk.files())[name]
            for content in (file.durable, file.now):
                tail = bytes(len(content) - position.offset - length)
                content[position.offset + length :] = b"" if ends else tail
            world.start()
            starts += 1
            scene = Scene(world, Model(), random.Random(0))
            assert observe(scene, FIRST).current == data_set(FIRST, 0, 4), length
            last = observe(scene, LAST).current
            assert last in (None, data_set(LAST, 0, 4)), length
            padding = position.record_bytes - (position.payload_offset + position.payload_length - position.offset)
            if length < position.record_bytes - padding - 8:
                assert last is None, length
            check(scene)
            if starts % 16 == 1:
                Import.store(scene, {LAST: data_set(LAST, 0, 4)}, "keep-first") if last is None else None
                assert world.keeper.ingest_batch([received(data_set(f"{ROOT}.1.1.3", 0, 4))])
            world._end_process()
            shutil.rmtree(world.disk.root)
        assert starts >= len(lengths) // STRIDE
        world.disk = base
