"""The keeper's thread: nothing but a failure that it tells of ends it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.archive import keeper
from engine.archive.archive import Archive
from engine.errors import EngineError, StorageFailed, StorageFull
from engine.index.catalog import Catalog
from engine.index.upkeep import checkpoint_file, rebuild
from engine.storage.files import Files
from tests.archive.kept import data_set, opened, received
from tests.system.server import wait_for


class Sweeps:
    """Stands for the reader's sweep, and fails as often as it is told to."""

    def __init__(self, errors: list[BaseException]) -> None:
        self.errors = errors
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)


def _kept(data: Path, errors: list[BaseException], failures: list[EngineError]) -> tuple[Archive, Sweeps]:
    archive = Archive.open(data, role="keeper", create=True, sync_interval_s=0.01, on_keeper_failure=failures.append)
    assert archive.parts.keeper is not None
    sweeps = Sweeps(errors)
    archive.parts.keeper._reader.sweep = sweeps  # type: ignore[method-assign]
    return archive, sweeps


def test_what_nobody_foresaw_is_tried_again_and_what_was_stored_is_synced(tmp_path: Path) -> None:
    failures: list[EngineError] = []
    archive, sweeps = _kept(tmp_path, [OSError(116, "stale"), MemoryError()], failures)
    archive.ingest_batch([received(data_set(1))])
    assert archive.parts.keeper is not None
    wait_for(lambda: sweeps.count > keeper.TRIES, what="the keeper's work")
    wait_for(lambda: not archive.parts.keeper._checkpointer.needs_checkpoint(), what="a checkpoint")  # type: ignore[union-attr]
    assert not failures
    archive.close()


@pytest.mark.parametrize("error", [OSError(116, "stale"), SystemExit(1)], ids=["again and again", "the thread's end"])
def test_a_keeper_that_cannot_work_says_so_and_its_end_is_not_a_clean_one(tmp_path: Path, error: BaseException) -> None:
    failures: list[EngineError] = []
    told = threading.Event()
    archive, sweeps = _kept(tmp_path, [error] * keeper.TRIES, failures)
    assert archive.parts.keeper is not None
    wait_for(lambda: bool(failures), what="the failure being told")
    told.wait(0.05)
    assert len(failures) == 1 and isinstance(failures[0], StorageFailed)
    assert sweeps.count == (keeper.TRIES if isinstance(error, OSError) else 1)
    assert archive.parts.keeper.failed is failures[0]
    archive.close()


class FullWhile:
    """Stands for an index on a disk that is full as long as `is_full` says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, is_full: Callable[[], bool]) -> None:
        self.refused = 0
        apply = Catalog.apply

        def refusing(*args: Any, **options: Any) -> Any:
            if is_full():
                self.refused += 1
                raise StorageFull("the index cannot be written, 0 bytes are free")
            return apply(*args, **options)

        monkeypatch.setattr(Catalog, "apply", refusing)


def _as_after_a_kill(data: Path, elsewhere: Path) -> None:
    """A copy of an archive with two instances that lie in an unsealed segment and are not in the index."""
    with opened(data) as archive:
        archive.ingest_batch([received(data_set(1)), received(data_set(2))])
        shutil.copytree(data, elsewhere, ignore=shutil.ignore_patterns("index", "keeper.lock"))


def test_a_start_on_a_full_disk_uses_the_reserve_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "killed"
    _as_after_a_kill(tmp_path / "data", data)
    ballast = data / "ballast"
    ballast.write_bytes(bytes(4096))
    disk = FullWhile(monkeypatch, ballast.exists)
    with Archive.open(data, role="keeper") as archive:
        assert archive.stats()["instances"] == 2
    assert disk.refused == 1 and not ballast.exists()


def test_a_start_uses_the_reserve_file_for_its_first_checkpoint_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "killed"
    _as_after_a_kill(tmp_path / "data", data)
    ballast = data / "ballast"
    ballast.write_bytes(bytes(4096))
    write_void, refused = checkpoint_file.write_void, []

    def refusing(directory: str, files: Files) -> None:
        if ballast.exists():
            refused.append(directory)
            raise StorageFull("pwritev: No space left on device")
        write_void(directory, files)

    monkeypatch.setattr(checkpoint_file, "write_void", refusing)
    with Archive.open(data, role="keeper") as archive:
        assert archive.stats()["instances"] == 2
    assert len(refused) == 1 and not ballast.exists()


def test_a_start_without_a_reserve_file_says_that_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "killed"
    _as_after_a_kill(tmp_path / "data", data)
    with monkeypatch.context() as full:
        FullWhile(full, lambda: True)
        with pytest.raises(StorageFull, match="0 bytes are free"):
            Archive.open(data, role="keeper")
    with Archive.open(data, role="keeper") as archive:
        assert archive.stats()["instances"] == 2


def test_a_worker_that_dies_while_the_disk_is_full_does_not_end_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[EngineError] = []
    archive, _ = _kept(tmp_path, [], failures)
    keeper_ = archive.parts.keeper
    assert keeper_ is not None
    full = threading.Event()
    full.set()
    reports: list[str] = []
    replay = keeper_._replay

    def replaying(event: str) -> rebuild.Report:
        reports.append(event)
        if full.is_set():
            raise StorageFull("the index cannot be written, 0 bytes are free")
        return replay(event)

    monkeypatch.setattr(keeper_, "_replay", replaying)
    archive.recover_dead_writers()
    wait_for(lambda: len(reports) >= 3, what="another try at each interval")
    full.clear()
    wait_for(lambda: not keeper_._must_recover, what="the recovery")
    count = len(reports)
    archive.close()
    assert not failures and count >= 4


GUEST = """
import os, signal, sys
from pathlib import Path
from engine.archive.archive import Archive

archive = Archive.open(Path(sys.argv[1]), role="guest")
archive.parts.index._environment.begin_read()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_guest_was_reading_when_it_died_is_let_go_within_an_interval(tmp_path: Path) -> None:
    with Archive.open(tmp_path, role="keeper", create=True, sync_interval_s=0.01) as archive:

        def readers() -> int:
            return str(archive.parts.index._environment._environment.readers()).count("\n")

        before = readers()
        assert subprocess.run([sys.executable, "-c", GUEST, str(tmp_path)], timeout=60).returncode == -signal.SIGKILL
        wait_for(lambda: readers() <= before, what="its slot being freed")
