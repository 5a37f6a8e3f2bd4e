"""One short life of an archive, and every call of it hit once: by a power cut, EIO, ENOSPC, EMFILE, a short write.

The life stores, streams, writes behind, rolls and seals segments, deletes, holds, compacts, scrubs, backs up, closes
and opens again. Each call that the archive makes is hit in a life of its own, with the kinds of fault that it can have.
A run takes every FILMROOM_FAULTS_STRIDE-th one, others with each commit (`effort`); --all takes them all.

    power cut    before and in the middle of it        everything acknowledged is there, nothing else but what was sent
    EIO          a write, a sync, a commit             whoever met it acknowledges nothing any more and syncs nothing
                                                       again; a restart has everything; a read: an error, no wrong byte
    ENOSPC       and none until room comes             refused, and without a restart taken again afterwards
    EMFILE       once                                  the same
    short write  half, then ENOSPC                     the same; the half is never taken for anything
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from engine.errors import EngineError, StorageFailed
from tests import effort
from tests.faults import administration as admin
from tests.faults import operations as ops
from tests.faults.histories import History, settle
from tests.faults.model import Broken, Model
from tests.faults.operations import CT, Import, Operation, Scene, check
from tests.faults.world import World
from tests.faulty_files import CHANGES, READS, TAKES_DESCRIPTOR, TAKES_ROOM, PowerCut

pytestmark = pytest.mark.slow

STRIDE = effort.amount("FAULTS_STRIDE", 132, 1)
OFFSET = effort.seed("FAULTS")
SEED = 3

LIFE: tuple[type[Operation] | str, ...] = (
    "start",
    Import,
    ops.Receive,
    ops.Receive,
    ops.Prepare,
    admin.ReserveFile,
    Import,
    ops.Stream,
    ops.Receive,
    admin.Hold,
    admin.Correct,
    ops.Receive,
    ops.Checkpoint,
    admin.BackUp,
    Import,
    ops.Seal,
    admin.Delete,
    admin.Delete,
    admin.PutIntoTrash,
    admin.Compact,
    admin.SettleTrash,
    ops.Receive,
    ops.WorkerDies,
    admin.Scrub,
    "stop",
    "start",
    Import,
    admin.Delete,
    admin.Compact,
    admin.BackUp,
    ops.StreamGivenUp,
    ops.Checkpoint,
    "stop",
)


class Life:
    """One archive from its first start to its last stop, unless something hits it."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder, segment_bytes=12_000, prewrite_bytes=8192)
        self.scene = Scene(self.world, Model(), random.Random(SEED))

    def live(self) -> None:
        for step in LIFE:
            self.do(step)

    def do(self, step: type[Operation] | str) -> None:
        self.scene.did.append(str(step))
        if step == "start":
            if self.world.archive is None:
                self.world.start(1)
        elif step == "stop":
            try:
                if self.world.archive is not None:
                    self.world.stop()
            finally:
                self.world.archive = None
                self.next_process()
        elif isinstance(step, type) and self.world.archive is not None and step().can_run(self.scene):
            step().run(self.scene)

    def next_process(self) -> None:
        """All calls are counted through, and what is to come still comes."""
        before = self.world.disk
        self.world.kill()
        for name in ("calls", "calls_all", "trace", "cut_at", "_fault_at", "_fault_kind", "is_full", "fault_hit"):
            setattr(self.world.disk, name, getattr(before, name))

    def must_be_whole(self, *, lost_power: bool) -> None:
        """Starts again: everything that was acknowledged is there, and the archive works."""
        self.world.start(1)
        check(self.scene)
        before = settle(self.scene, lost_power=lost_power)
        uid, data = self.scene.pick_new()
        Import.store(self.scene, {uid: data}, "keep-first")
        self.world.restart(cleanly=True)
        after = settle(self.scene, lost_power=False)
        for uid, shown in before.items():
            if after[uid] != shown:
                raise Broken(f"{uid}: a second start shows {after[uid]} and no longer {shown}")
        check(self.scene)


@cache
def calls() -> tuple[list[tuple[str, str]], int]:
    """Every call of the life when nothing goes wrong, and how many of them change something."""
    trace: list[tuple[str, str]] = []
    with TemporaryDirectory(prefix="faults") as folder:
        life = Life(Path(folder))
        with life.world:
            life.world.disk.trace = trace
            life.live()
            return trace, life.world.disk.calls


def numbers(methods: frozenset[str] | None) -> Sequence[int]:
    """The calls of these methods, counted from 1."""
    return [number for number, (method, _) in enumerate(calls()[0], 1) if methods is None or method in methods]


def replayed(life: Life, number: int, kind: str, error: BaseException) -> Broken:
    hit = life.world.disk.fault_hit or "nothing"
    return Broken(f"{kind} at call {number} ({hit}) after {life.scene.did[-3:]}: {error!r}")


def say(capsys: pytest.CaptureFixture[str], kind: str, count: int, total: int, **more: object) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{kind}: {count} of {total} calls hit {more or ''}")


def test_the_life_makes_every_call_there_is() -> None:
    trace, _ = calls()
    made = {method for method, _ in trace}
    assert made >= (CHANGES | READS | {"commit"}) - {"preadv_cached", "size"}
    assert len(trace) > 500


def test_a_power_cut_at_every_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    total = calls()[1]
    chosen = effort.part(range(1, total + 1), STRIDE, OFFSET)
    for number in chosen:
        life = Life(tmp_path / str(number))
        with life.world:
            life.world.disk.cut_at = number
            try:
                with pytest.raises(PowerCut):
                    life.live()
                life.world.power_cut(number)
                life.must_be_whole(lost_power=True)
            except (EngineError, Broken) as error:
                raise replayed(life, number, "power cut", error) from error
    say(capsys, "power cut", len(chosen), total)


def test_eio_at_every_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = effort.part(numbers(None), STRIDE, OFFSET)
    silent: Counter[str] = Counter()
    for number in chosen:
        life = Life(tmp_path / str(number))
        with life.world:
            try:
                _live_with_eio(life, number, silent)
            except (EngineError, OSError, Broken) as error:
                raise replayed(life, number, "EIO", error) from error
    say(capsys, "EIO", len(chosen), len(calls()[0]), nobody_was_told_of=dict(silent))
    assert set(silent) <= READS | {"unlink", "pwritev", "rename"}


def _live_with_eio(life: Life, number: int, silent: Counter[str]) -> None:
    world = life.world
    world.disk.fail_at(number, "EIO")
    failed: Exception | None = None
    for step in LIFE:
        try:
            life.do(step)
        except (EngineError, OSError) as error:
            failed = error
            break
    hit = world.disk.fault_hit
    method = hit.partition(" ")[0]
    if not hit:
        raise Broken("the life goes another way")
    if failed is None:
        silent[method] += 1
    elif isinstance(failed, OSError):
        raise Broken("a bare OSError") from failed
    elif method in ("pwritev", "fdatasync", "truncate", "allocate", "create") and step in STORES:
        _must_refuse(life, step)
    History.excuse_unsynced(life.scene)
    if world.archive is not None:
        try:
            world.stop()
        except EngineError:
            pass
    if world.disk.violations:
        raise Broken(world.disk.violations[0])
    if number % 2:
        world.kill()
    else:
        world.power_cut(number)
    life.must_be_whole(lost_power=True)


STORES = {Import, ops.Stream, ops.Receive}


def _must_refuse(life: Life, step: type[Operation] | str) -> None:
    """Who has met the error stores nothing any more."""
    uid, data = life.scene.pick_new()
    life.scene.model.tried(uid, data, "keep-first")
    if step is ops.Receive:
        answers: list[object] = []
        worker = life.world.workers[0]
        worker.submit(data, CT, uid, False, "keep-first", answers.append)
        worker.run()
        refused = isinstance(answers[0], EngineError)
    else:
        try:
            life.world.keeper.ingest_batch([ops.received(data)])
            refused = False
        except EngineError:
            refused = True
    if not refused:
        raise Broken("the next instance is acknowledged")


@pytest.mark.parametrize(
    ("kind", "methods"),
    [
        ("ENOSPC", TAKES_ROOM | {"pwritev", "commit"}),
        ("EMFILE", TAKES_DESCRIPTOR),
        ("short", frozenset({"pwritev"})),
    ],
)
def test_want_of_room_at_every_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, methods: frozenset[str]
) -> None:
    able = numbers(methods)
    chosen = effort.part(able, STRIDE, OFFSET)
    assert chosen
    refused: Counter[str] = Counter()
    for number in chosen:
        life = Life(tmp_path / str(number))
        with life.world:
            try:
                _live_without_room(life, number, kind, refused)
            except (EngineError, OSError, Broken) as error:
                raise replayed(life, number, kind, error) from error
    say(capsys, kind, len(chosen), len(able), refused=refused.total())


def _live_without_room(life: Life, number: int, kind: str, refused: Counter[str]) -> None:
    """What is refused is refused; then there is room, and life goes on without a restart."""
    world = life.world
    world.disk.fail_at(number, kind)
    for step in LIFE:
        try:
            life.do(step)
        except StorageFailed as error:
            raise Broken("want of room was taken for a broken disk") from error
        except EngineError as error:
            refused[type(error).__name__] += 1
            world.disk.make_room()
            life.do(step)
        for worker in world.workers:
            if worker.failed is not None:
                raise Broken(f"{worker.name} has ended: {worker.failed!r}")
    if not world.disk.fault_hit:
        raise Broken("the life goes another way")
    world.disk.make_room()
    world.kill()
    life.must_be_whole(lost_power=False)
