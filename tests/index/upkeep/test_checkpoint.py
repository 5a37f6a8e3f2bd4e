"""Power cuts on a directory that loses writes, and all other events after which a checkpoint must be valid or void."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import boot
from engine.errors import IndexError_, StorageError, StorageFailed
from engine.index.catalog import Catalog
from engine.index.database import data_file
from engine.index.upkeep import checkpoint_file, restoration
from engine.index.upkeep.checkpoint import Checkpointer
from engine.index.upkeep.checkpoint_file import Checkpoint, Kind
from engine.index.upkeep.restoration import RestoreResult
from engine.storage.files import Files
from tests import effort
from tests.faulty_files import FaultyFiles
from tests.index.entries import Tail, entry, meaning, random_history

SECTOR = 512
MAP_BYTES = 1 << 28


def _nothing() -> None:
    pass


class Machine:
    """A data directory whose power can be cut: it keeps every version of data.mdb since the last sync."""

    def __init__(self, directory: Path, *, with_pin: bool = True) -> None:
        self.directory = str(directory)
        self.with_pin = with_pin
        self.files = Files()
        self.restored = restoration.restore(self.directory, self.files)
        self.index = Catalog.open(self.directory, map_bytes=MAP_BYTES)
        self.checkpointer = Checkpointer(self.index._environment, self.files, self._synced)
        self.between: Any = None
        """Called while a checkpoint runs, after its state is chosen and before it is synced."""
        self.versions: list[bytes] = []
        self.durable = b""
        self.said: dict[str, Any] = {}

    def _synced(self) -> None:
        if self.between is not None:
            self.between()

    def data(self) -> bytes:
        return Path(self.directory, "data.mdb").read_bytes()

    def apply(self, records: list[Any]) -> None:
        self.index.apply(records)
        self.versions.append(self.data())

    def checkpoint(self) -> None:
        self.said = meaning(self.index)
        self.checkpointer.checkpoint()
        if not self.with_pin:
            self.checkpointer._pin.abort()
            self.checkpointer._pin = None
        self.durable = self.data()
        self.versions = []

    def power_cut(self, rng: random.Random, target: Path) -> None:
        """The directory as the next boot finds it: for each sector any version since the sync, in any mixture."""
        target.mkdir()
        versions = [self.durable, *self.versions]
        chance = rng.choice((0.1, 0.5, 0.9))
        size = len(rng.choice(versions))
        sectors = []
        for at in range(0, size, SECTOR):
            candidates = [version[at : at + SECTOR] for version in versions if len(version) > at]
            pick = rng.randrange(len(candidates)) if rng.random() < chance else 0
            sectors.append(candidates[pick] if len(self.durable) > at or pick else bytes(SECTOR))
        (target / "data.mdb").write_bytes(b"".join(sectors))
        shutil.copy(f"{self.directory}/checkpoint", target / "checkpoint")

    def close(self) -> None:
        self.checkpointer.close(clean=False)
        self.index.close()


def _history(rng: random.Random, machine: Machine) -> list[Any]:
    """Batches, some checkpoints among them, and the records after the last one."""
    records = random_history(rng, 240)
    machine.apply(records[:20])
    machine.checkpoint()
    at = 20
    after = 0
    while at < len(records):
        size = rng.randrange(1, 12)
        machine.apply(records[at : at + size])
        at += size
        if rng.random() < 0.08:
            machine.checkpoint()
            after = at
    return records[after:] if after else records[20:]


@pytest.mark.parametrize("seed", effort.some(range(25), 4))
def test_after_a_power_cut_the_index_is_as_it_was_at_the_checkpoint(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    machine = Machine(tmp_path / "index")
    remaining = _history(rng, machine)
    everything = meaning(machine.index)
    for cut in range(4):
        target = tmp_path / str(cut)
        machine.power_cut(rng, target)
        assert restoration.restore(str(target), Files()) == RestoreResult.CHECKPOINT
        index = Catalog.open(str(target), map_bytes=MAP_BYTES)
        assert meaning(index) == machine.said, f"seed {seed} cut {cut}"
        index.apply(remaining)
        assert meaning(index) == everything, f"seed {seed} cut {cut}"
        index.close()
    machine.close()


def test_commits_during_a_checkpoint_are_not_part_of_it(tmp_path: Path) -> None:
    for seed in range(6):
        rng = random.Random(seed)
        machine = Machine(tmp_path / f"index{seed}")
        records = random_history(rng, 200)
        machine.apply(records[:100])
        pending = [records[at : at + 10] for at in range(100, 160, 10)]
        machine.between = lambda pending=pending, machine=machine: [machine.index.apply(batch) for batch in pending]
        machine.checkpoint()
        for at in range(160, 200, 4):
            machine.apply(records[at : at + 4])
        machine.power_cut(rng, tmp_path / f"cut{seed}")
        restoration.restore(str(tmp_path / f"cut{seed}"), Files())
        index = Catalog.open(str(tmp_path / f"cut{seed}"), map_bytes=MAP_BYTES)
        assert meaning(index) == machine.said, f"seed {seed}"
        index.close()
        machine.close()


_CONTROL = """
import random, sys
from pathlib import Path
from engine.index.database import data_file
from engine import boot
from engine.index.upkeep import checkpoint, restoration
from engine.index.catalog import Catalog
from engine.storage.files import Files
from tests.index.upkeep.test_checkpoint import MAP_BYTES, Machine, _history
from tests.index.entries import meaning
seed, directory, with_pin = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "pin"
rng = random.Random(seed)
machine = Machine(directory / "index", with_pin=with_pin)
rest = _history(rng, machine)
everything = meaning(machine.index)
machine.power_cut(rng, directory / "cut")
restoration.restore(str(directory / "cut"), Files())
index = Catalog.open(str(directory / "cut"), map_bytes=MAP_BYTES)
same = meaning(index) == machine.said
index.apply(rest)
same = same and meaning(index) == everything
sys.exit(0 if same else 3)
"""


def _runs(directory: Path, seed: int, pin: str) -> bool:
    (directory / f"{pin}{seed}").mkdir()
    process = subprocess.run(
        [sys.executable, "-c", _CONTROL, str(seed), str(directory / f"{pin}{seed}"), pin],
        capture_output=True,
        timeout=120,
        check=False,
    )
    return process.returncode == 0


@pytest.mark.rotating(3)  # the control of the test above
def test_without_the_pin_a_power_cut_is_fatal(tmp_path: Path) -> None:
    """The control: the same cuts, but LMDB may reuse pages of the checkpoint. In its own process: LMDB may crash."""
    assert all(_runs(tmp_path, seed, "pin") for seed in range(2))
    failures = sum(not _runs(tmp_path, seed, "nopin") for seed in range(6))
    assert failures >= 4


def test_restore_returns_to_the_checkpoint_even_if_nothing_was_lost(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "index")
    tail = Tail()
    machine.apply([entry(tail, instance=1)])
    machine.checkpoint()
    machine.apply([entry(tail, instance=2)])
    machine.close()
    assert restoration.restore(machine.directory, Files()) == RestoreResult.CHECKPOINT
    index = Catalog.open(machine.directory, map_bytes=MAP_BYTES)
    assert meaning(index) == machine.said
    index.close()


def test_a_clean_end_needs_no_restore_and_loses_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "index")
    assert machine.restored == RestoreResult.NEW
    machine.apply([entry(Tail())])
    content = meaning(machine.index)
    machine.checkpointer.close()
    machine.index.close()
    again = Machine(tmp_path / "index")
    assert again.restored == RestoreResult.CLEAN
    assert meaning(again.index) == content
    assert not again.checkpointer.needs_checkpoint()
    again.apply([entry(Tail(), instance=2)])
    assert again.checkpointer.needs_checkpoint()
    again.close()


def test_the_cut_may_come_right_after_a_clean_start(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "index")
    machine.apply(random_history(random.Random(1), 100))
    content = meaning(machine.index)
    machine.checkpointer.close()
    machine.index.close()
    again = Machine(tmp_path / "index")
    again.durable = again.data()
    rng = random.Random(5)
    for record in random_history(rng, 60):
        again.apply([record])
    for cut in range(6):
        again.power_cut(rng, tmp_path / str(cut))
        assert restoration.restore(str(tmp_path / str(cut)), Files()) in (RestoreResult.CHECKPOINT, RestoreResult.CLEAN)
        index = Catalog.open(str(tmp_path / str(cut)), map_bytes=MAP_BYTES)
        assert meaning(index) == content
        index.close()
    again.close()


def test_a_write_without_a_checkpointer_voids_the_checkpoint_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "index")
    tail = Tail()
    machine.apply([entry(tail, instance=1)])
    machine.checkpoint()
    machine.checkpointer.close(clean=False)
    checkpoint = checkpoint_file.read_file(machine.directory, Files())
    assert checkpoint is not None and checkpoint.kind == Kind.OPEN
    machine.index.apply([entry(tail, instance=2)])
    checkpoint = checkpoint_file.read_file(machine.directory, Files())
    assert checkpoint is not None and checkpoint.kind == Kind.VOID
    content = meaning(machine.index)
    machine.index.close()
    # kill -9 of everything: the machine has not stopped, so the page cache has it all.
    assert restoration.restore(machine.directory, Files()) == RestoreResult.AS_IS
    index = Catalog.open(machine.directory, map_bytes=MAP_BYTES)
    assert meaning(index) == content
    index.close()
    monkeypatch.setattr(boot, "boot_id", lambda: "another boot")
    assert restoration.restore(machine.directory, Files()) == RestoreResult.DISCARDED
    assert not Path(machine.directory, "data.mdb").exists()


def test_an_index_in_use_is_not_changed(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "index")
    machine.apply([entry(Tail())])
    machine.checkpoint()
    assert restoration.restore(machine.directory, Files()) == RestoreResult.IN_USE
    with pytest.raises(IndexError_, match="in use"):
        restoration.discard(machine.directory, Files())
    machine.close()


def test_there_is_one_checkpointer(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "index")
    with pytest.raises(IndexError_, match="checkpointer already"):
        Checkpointer(machine.index._environment, Files(), _nothing)
    machine.close()


@pytest.mark.parametrize("damage", ["gone", "empty", "short", "flipped", "old format"])
def test_without_a_usable_checkpoint_the_index_is_discarded(tmp_path: Path, damage: str) -> None:
    machine = Machine(tmp_path / "index")
    machine.apply([entry(Tail())])
    machine.checkpoint()
    machine.close()
    file = Path(machine.directory, "checkpoint")
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "short":
        file.write_bytes(data[:-1])
    elif damage == "flipped":
        data[1000] ^= 1
        file.write_bytes(data)
    else:
        data[8] = 9
        file.write_bytes(data)
    assert restoration.restore(machine.directory, Files()) == RestoreResult.DISCARDED


def test_every_mutation_of_the_file_is_noticed() -> None:
    page = bytearray(4096)
    page[16:24] = data_file._META_MAGIC.pack(data_file.LMDB_MAGIC, data_file.LMDB_DATA_VERSION)
    page[144] = 7
    whole = Checkpoint(Kind.OPEN, 7, "boot", bytes(page))
    data = whole.encode()
    assert Checkpoint.decode(data) == whole
    rng = random.Random(3)
    for _ in range(300):
        mutated = bytearray(data)
        mutated[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        assert Checkpoint.decode(bytes(mutated)) is None


@pytest.mark.parametrize("method", ["create", "pwritev", "fdatasync", "rename", "sync_directory"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_failed_checkpoint_leaves_the_previous_one(tmp_path: Path, method: str, at: int) -> None:
    files = FaultyFiles()
    directory = str(tmp_path / "index")
    index = Catalog.open(directory, map_bytes=MAP_BYTES)
    checkpointer = Checkpointer(index._environment, files, _nothing)
    tail = Tail()
    index.apply([entry(tail, instance=1)])
    checkpointer.checkpoint()
    first = meaning(index)
    index.apply([entry(tail, instance=2)])
    second = meaning(index)
    files.fail(method, errno.EIO, at=at)
    failed = False
    try:
        checkpointer.checkpoint()
    except StorageFailed:
        failed = True
    assert failed == (at == 1 or method == "fdatasync")
    for instance in range(3, 40):
        index.apply([entry(tail, instance=instance)])
    checkpointer.close(clean=False)
    index.close()
    assert restoration.restore(directory, Files()) == RestoreResult.CHECKPOINT
    index = Catalog.open(directory, map_bytes=MAP_BYTES)
    # Renamed and then the directory could not be synced: either may be there, and both are pinned.
    expected = [first, second] if method == "sync_directory" else [first if failed else second]
    assert meaning(index) in expected
    index.close()


def test_the_log_is_synced_before_the_index(tmp_path: Path) -> None:
    calls: list[str] = []

    class Watched(Files):
        def fdatasync(self, fd: int) -> None:
            calls.append(os.readlink(f"/proc/self/fd/{fd}").rsplit("/", 1)[1].split(".")[0])
            super().fdatasync(fd)

    directory = str(tmp_path / "index")
    index = Catalog.open(directory, map_bytes=MAP_BYTES)
    checkpointer = Checkpointer(index._environment, Watched(), lambda: calls.append("log"))
    index.apply([entry(Tail())])
    calls.clear()
    checkpointer.checkpoint()
    assert calls == ["log", "data", "checkpoint"]
    checkpointer.close()
    index.close()


def test_without_a_sync_of_the_log_there_is_no_checkpoint(tmp_path: Path) -> None:
    directory = str(tmp_path / "index")
    index = Catalog.open(directory, map_bytes=MAP_BYTES)

    def broken() -> None:
        raise StorageError("no")

    checkpointer = Checkpointer(index._environment, Files(), broken)
    index.apply([entry(Tail())])
    with pytest.raises(StorageError):
        checkpointer.checkpoint()
    assert checkpointer.needs_checkpoint()
    checkpoint = checkpoint_file.read_file(directory, Files())
    assert checkpoint is not None and checkpoint.kind == Kind.VOID
    checkpointer.close(clean=False)
    index.close()
