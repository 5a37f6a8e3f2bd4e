"""The keeper's thread: nothing but a failure that it tells of ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.archive import keeper
from engine.archive.archive import Archive
from engine.errors import EngineError, StorageFailed
from tests.archive.kept import data_set, received
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
