"""The log on a disk that forgets: a cut at every call, many states after each, and nothing that was promised is lost.

The model is a dict of the payloads whose sync returned. After each cut every segment is recovered, and again with a
second cut during the recovery. A log whose sync does nothing must lose something, or the disk proves nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from engine.errors import StorageError
from engine.storage.keyring import KEYRING, DataKey
from engine.storage.reader import LogReader
from engine.storage.record import Position, crc32c
from engine.storage.recovery import recover_segment
from engine.storage.segment import Damage, list_segments
from engine.storage.segment_log import SegmentLog
from engine.storage.segment_store import LocalSegments
from tests import effort
from tests.faulty_files import PowerCut, SimulatedDisk

DIRECTORY = "D"
ARCHIVE_ID = b"archive-id-16-by"
DATA_KEY = DataKey(b"powercut", bytes(range(32)), ARCHIVE_ID)


@pytest.fixture(autouse=True)
def unlocked() -> Iterator[None]:
    KEYRING.add([DATA_KEY])
    yield
    KEYRING.drop([DATA_KEY.key_id])


class Promised(NamedTuple):
    """What the world was told before the cut."""

    payloads: dict[Position, bytes]
    """Synced: must be there."""
    appended: set[Position]
    """Appended: survive a kill."""
    tried: dict[bytes, bytes]
    """By key: may be there, and if so then whole."""


def work(
    disk: SimulatedDisk,
    seed: int,
    *,
    syncs: bool = True,
    allocate: bool = True,
    prewrite: bool = False,
    encrypted: bool = False,
) -> Promised:
    """A writer's life until the power goes: appends, streams, syncs, rolls, seals and perhaps a clean close."""
    rng = random.Random(seed)
    promised = Promised({}, set(), {})
    unsynced: dict[Position, bytes] = {}
    options = {"segment_bytes": 12_000, "allocate": allocate, "clock_ns": lambda: 7, "random_bytes": rng.randbytes}
    options["prewrite_bytes"] = 8192 if prewrite else 0
    data_key = (lambda: DATA_KEY) if encrypted else None
    log = SegmentLog(DIRECTORY, disk, ARCHIVE_ID, writer="w", data_key=data_key, **options)  # type: ignore[arg-type]
    try:
        if prewrite:
            log.prepare(patience_s=0)
        for count in range(14):
            payload = rng.randbytes(rng.choice((0, 10, 600, 2500)))
            key = b"1.2.%d" % count
            crc = crc32c(payload)
            promised.tried[key] = payload
            if rng.random() < 0.15:
                appender = log.begin_stream(1, 0, count, key, 20)
                appender.write([payload], len(payload))
                position = appender.finish(b"meta", crc)
                promised.payloads[position] = payload
            else:
                position = log.append(1, 0, count, key, b"meta", [payload], len(payload), crc)
                unsynced[position] = payload
            promised.appended.add(position)
            if rng.random() < 0.4:
                if syncs:
                    log.sync()
                promised.payloads.update(unsynced)
                unsynced.clear()
            if rng.random() < 0.3:
                log.seal_rolled()
            if prewrite:
                log.prewrite()
        if rng.random() < 0.5:
            log.close()
            promised.payloads.update(unsynced)
    except PowerCut:
        pass
    return promised


def recover(disk: SimulatedDisk) -> tuple[set[Position], list[Damage]]:
    """What a restart finds."""
    found: set[Position] = set()
    damage: list[Damage] = []
    for segment_id in list_segments(DIRECTORY, disk):
        recovery = recover_segment(disk, DIRECTORY, segment_id, 0)
        found |= {record.position for record in recovery.records}
        damage += recovery.damage
    return found, damage


def judge(disk: SimulatedDisk, promised: Promised, found: set[Position], damage: list[Damage], replay: str) -> None:
    """Fails, with how to replay it, unless every promise is kept."""
    lost = promised.payloads.keys() - found
    assert not lost, f"{replay}: lost {lost}"
    assert not [hole for hole in damage if hole.was_synced], f"{replay}: a false alarm {damage}"
    reader = LogReader(LocalSegments(DIRECTORY, disk))
    for position in found:
        assert reader.read(position) == promised.tried[reader.verify(position).key], replay
    reader.close()


def call_count(seed: int, **options: bool) -> int:
    disk = SimulatedDisk()
    work(disk, seed, **options)
    return disk.calls


@pytest.mark.parametrize(
    ("allocate", "prewrite", "encrypted"),
    [(True, False, False), (False, False, False), (True, True, False), (True, False, True), (True, True, True)],
)
@pytest.mark.parametrize("seed", effort.some(range(6), 3))
def test_a_power_cut_at_every_call_loses_nothing_that_was_synced(
    seed: int, allocate: bool, prewrite: bool, encrypted: bool
) -> None:
    options = {"allocate": allocate, "prewrite": prewrite, "encrypted": encrypted}
    for cut_at in range(1, call_count(seed, **options) + 1):
        disk = SimulatedDisk(cut_at=cut_at)
        promised = work(disk, seed, **options)
        for state in range(6):
            replay = f"seed {seed}, {options}, cut at {cut_at}, state {state}"
            after = disk.after_power_cut(state)
            found, damage = recover(after)
            judge(after, promised, found, damage, replay)
            assert recover(after)[0] == found, f"{replay}: recovery is not idempotent"


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_kill_at_every_call_loses_nothing_that_was_appended(seed: int, encrypted: bool) -> None:
    for cut_at in range(1, call_count(seed, encrypted=encrypted) + 1):
        disk = SimulatedDisk(cut_at=cut_at)
        promised = work(disk, seed, encrypted=encrypted)
        after = disk.after_kill()
        found, damage = recover(after)
        replay = f"seed {seed}, killed at {cut_at}"
        judge(after, promised, found, damage, replay)
        assert damage == []
        assert promised.appended <= found, replay


@pytest.mark.parametrize("seed", range(4))
def test_a_second_power_cut_during_recovery_loses_nothing_either(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(12):
        disk = SimulatedDisk(cut_at=rng.randint(1, call_count(seed)))
        promised = work(disk, seed)
        state = rng.randrange(1000)
        counting = disk.after_power_cut(state)
        recover(counting)
        for cut_at in range(1, counting.calls + 1):
            first = disk.after_power_cut(state)
            first.cut_at = cut_at
            with pytest.raises(PowerCut):
                recover(first)
            for again in range(3):
                second = first.after_power_cut(again)
                found, damage = recover(second)
                replay = f"seed {seed}, cut at {disk.cut_at}, state {state}, recovery cut at {cut_at}, state {again}"
                judge(second, promised, found, damage, replay)


def test_the_disk_does_lose_what_is_not_synced() -> None:
    """The control: the same work with a sync that does nothing."""
    lost = 0
    for seed in range(6):
        for cut_at in range(1, call_count(seed, syncs=False) + 1, 3):
            disk = SimulatedDisk(cut_at=cut_at)
            promised = work(disk, seed, syncs=False)
            found, _ = recover(disk.after_power_cut(cut_at))
            lost += len(promised.payloads.keys() - found)
    assert lost > 100


@pytest.mark.parametrize("seed", range(3))
def test_a_disk_that_fills_up_refuses_and_keeps_what_it_has(seed: int) -> None:
    disk = SimulatedDisk(capacity_bytes=60_000)
    rng = random.Random(seed)
    log = SegmentLog(DIRECTORY, disk, ARCHIVE_ID, writer="w", segment_bytes=12_000, random_bytes=rng.randbytes)
    promised = Promised({}, set(), {})
    refused = 0
    for count in range(200):
        payload = rng.randbytes(rng.randrange(3000))
        key = b"key%d" % count
        promised.tried[key] = payload
        try:
            position = log.append(1, 0, count, key, b"m", [payload], len(payload), crc32c(payload))
            promised.payloads[position] = payload
        except StorageError:
            refused += 1
        if count % 10 == 0:
            log.sync()
            log.seal_rolled()
    log.close()
    assert refused > 50
    assert sum(map(len, promised.payloads.values())) > 20_000
    found, damage = recover(disk)
    assert found == set(promised.payloads)
    judge(disk, promised, found, damage, f"seed {seed}")
