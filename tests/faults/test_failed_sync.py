"""A sync that failed, and what nobody may believe or say afterwards (Rebello et al., ATC'20)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from engine.errors import CorruptRecord, EngineError, StorageFailed
from engine.index.format.types import Outcome
from engine.index.upkeep import checkpoint_file, restoration
from tests.faults.histories import observe
from tests.faults.model import Model
from tests.faults.operations import CT, ROOT, Scene, check, data_set, received
from tests.faults.world import World
from tests.faulty_files import SimulatedFile

UID = f"{ROOT}.1.1.1"
OTHER = f"{ROOT}.1.1.2"
DATA = data_set(UID, 0, 600)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        world.disk.kept_share_badly = 0.0
        yield world


def send(world: World, uid: str, data: bytes, *, durable: bool = True) -> object:
    """One C-STORE to the first worker; its answer."""
    answers: list[object] = []
    worker = world.workers[0]
    worker.submit(data, CT, uid, durable, "keep-first", answers.append)
    worker.run()
    (answer,) = answers
    return answer


def shown(world: World, uid: str) -> bytes | None:
    return observe(Scene(world, Model(), random.Random(0)), uid).current


def _sent_again_after_a_failed_sync(world: World) -> tuple[object, bytes | None]:
    """What the second sending was answered, and what is left of it after a power cut."""
    world.start(1)
    world.disk.fail_when("fdatasync", ".seg")
    assert isinstance(send(world, UID, DATA), StorageFailed)
    world.kill()
    world.start(1)
    answer = send(world, UID, DATA)
    world.power_cut(1)
    world.start()
    return answer, shown(world, UID)


def test_a_restart_does_not_take_the_page_cache_for_the_disk(world: World) -> None:
    answer, left = _sent_again_after_a_failed_sync(world)
    assert answer == Outcome.STORED
    assert left == DATA


def test_the_page_cache_does_lie(world: World) -> None:
    """The control: with a recovery that reads from the cache the second answer is a promise that is broken."""
    with patch.object(SimulatedFile, "drop_cache", lambda self: None), pytest.raises(CorruptRecord):
        _sent_again_after_a_failed_sync(world)


def _commit_fails(world: World) -> None:
    world.disk.fail_when("commit", "data.mdb")


def _sync_fails(world: World) -> None:
    world.disk.fail_when("fdatasync", ".seg")


@pytest.mark.parametrize("fails", [_sync_fails, _commit_fails], ids=["sync", "commit"])
def test_a_worker_answers_nothing_good_after_a_failure(world: World, fails: Callable[[World], None]) -> None:
    world.start(1)
    assert send(world, OTHER, data_set(OTHER, 0, 50)) == Outcome.STORED
    fails(world)
    assert isinstance(send(world, UID, DATA), StorageFailed)
    for uid in (UID, OTHER, f"{ROOT}.1.1.3"):
        for durable in (True, False):
            assert isinstance(send(world, uid, data_set(uid, 1, 70), durable=durable), EngineError)
    assert world.workers[0].failed is not None
    world.stop()
    assert world.disk.violations == []


@pytest.mark.parametrize("fails", [_sync_fails, _commit_fails], ids=["sync", "commit"])
def test_an_import_answers_nothing_good_after_a_failure(world: World, fails: Callable[[World], None]) -> None:
    world.start()
    fails(world)
    with pytest.raises(StorageFailed):
        world.keeper.ingest_batch([received(DATA)])
    for uid in (UID, OTHER):
        with pytest.raises(StorageFailed):
            world.keeper.ingest_batch([received(data_set(uid, 1, 70))])
    world.stop()
    assert world.disk.violations == []


def test_a_failed_sync_of_what_is_there_already_ends_the_writer_too(world: World) -> None:
    world.start(1)
    assert send(world, UID, DATA, durable=False) == Outcome.STORED
    _sync_fails(world)
    assert isinstance(send(world, UID, DATA), StorageFailed)
    assert isinstance(send(world, OTHER, data_set(OTHER, 0, 50)), EngineError)
    world.stop()
    assert world.disk.violations == []


@pytest.mark.parametrize("name", [".seg", "data.mdb", "checkpoint"])
def test_after_a_failed_checkpoint_the_process_stores_and_syncs_no_more(world: World, name: str) -> None:
    world.start()
    # In the import's own log, not synced: a write-behind instance.
    scene = Scene(world, Model(), random.Random(0))
    store = world.keeper.writer("keeper", world.options)
    world.keeper.ingest_batch([received(DATA)])
    store.log.append(1, 0, 1, b"1.2.3", b"", [b"x"], 1, 0)
    world.disk.fail_when("fdatasync", name)
    keeper = world.keeper.parts.keeper
    assert keeper is not None
    if name == ".seg":
        with pytest.raises(StorageFailed):
            world.keeper.ingest_batch([received(data_set(OTHER, 0, 50))])
    else:
        with pytest.raises(StorageFailed):
            keeper.checkpoint()
        with pytest.raises(StorageFailed):
            keeper.checkpoint()
    world.stop()
    assert world.disk.violations == []
    world.kill()
    world.start()
    check(scene)
    assert shown(world, UID) == DATA


@pytest.mark.parametrize("trusts", [False, True], ids=["as it is", "control"])
def test_an_index_whose_first_checkpoint_failed_is_made_again(world: World, trusts: bool) -> None:
    """Nothing to go back to, and the page cache lies: the control takes it for an index."""
    world.disk.fail_when("fdatasync", "data.mdb")
    with pytest.raises(StorageFailed):
        world.start()
    found = checkpoint_file.read_file(f"{world.data}/index", world.disk)
    assert found is not None and found.kind == checkpoint_file.Kind.VOID
    without: AbstractContextManager[Any] = nullcontext()
    if trusts:
        believed = checkpoint_file.Checkpoint(found.kind, 0, "boot 0", b"")
        without = patch.object(checkpoint_file.Checkpoint, "decode", lambda data: believed)
    world.kill()
    with without:
        restored = restoration.restore(f"{world.data}/index", world.disk)
    assert restored == (restoration.RestoreResult.AS_IS if trusts else restoration.RestoreResult.DISCARDED)


def test_an_archive_whose_first_checkpoint_failed_lives(world: World) -> None:
    world.disk.fail_when("fdatasync", "data.mdb")
    with pytest.raises(StorageFailed):
        world.start()
    world.kill()
    world.start(1)
    assert send(world, UID, DATA) == Outcome.STORED
    for seed in range(6):
        world.power_cut(seed)
        world.start()
        assert shown(world, UID) == DATA
        check(Scene(world, Model(), random.Random(0)))


def test_a_segment_that_is_gone_does_not_keep_the_archive_from_opening(world: World) -> None:
    """Its rows stay, each retrieval says so, and everything else is served."""
    world.start(1)
    assert send(world, UID, DATA) == Outcome.STORED
    world.keeper.ingest_batch([received(data_set(OTHER, 0, 50))])
    keeper = world.keeper.parts.keeper
    assert keeper is not None
    keeper.checkpoint()
    instance = world.keeper.parts.index.locate(UID.encode())
    assert instance is not None
    world.kill()
    world.disk.unlink(f"{world.data}/segments/{instance.position.segment_id:016x}.seg")
    world.start()
    assert any("missing" in said for said in world.report.errors)
    assert shown(world, OTHER) == data_set(OTHER, 0, 50)
    with pytest.raises(CorruptRecord, match="gone"):
        shown(world, UID)
    keeper = world.keeper.parts.keeper
    assert keeper is not None
    keeper.checkpoint()
