"""Leases: one holder at a time, and a holder that has lost its lease is told."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.archive import layout as layouts
from engine.archive import locks
from engine.archive.leases import FileLeases
from engine.errors import ArchiveInUse, LeaseLost
from engine.storage.files import Files
from tests.archive import kept

HOLDER = """
import sys
from pathlib import Path
from engine.archive.leases import FileLeases
from engine.storage.files import Files
grant = FileLeases(Path(sys.argv[1]), Files()).acquire("scheduler")
print("held" if grant else "taken", flush=True)
sys.stdin.read()
"""


def test_a_lease_has_one_holder_until_it_is_released(tmp_path: Path) -> None:
    first, second = FileLeases(tmp_path, Files()), FileLeases(tmp_path, Files())
    grant = first.acquire("scheduler")
    assert grant is not None
    assert (grant.name, grant.epoch) == ("scheduler", 0)
    assert second.acquire("scheduler") is None
    assert first.acquire("scheduler") is None
    other = second.acquire("tierer")
    assert other is not None
    first.check(grant)
    first.renew(grant)
    first.release(grant)
    first.release(grant)
    for attempt in (first.check, first.renew):
        with pytest.raises(LeaseLost):
            attempt(grant)
    again = second.acquire("scheduler")
    assert again is not None
    first.release(grant)
    assert first.acquire("scheduler") is None, "a grant of earlier ends no later one"
    second.release(again)
    second.release(other)


def test_a_lease_ends_with_its_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        leases = FileLeases(tmp_path, Files())
        assert leases.acquire("scheduler") is None
        holder.kill()
        holder.wait()
        grant = leases.acquire("scheduler")
        assert grant is not None
        leases.release(grant)


def test_a_holder_whose_file_was_removed_has_lost_its_lease(tmp_path: Path) -> None:
    first, second = FileLeases(tmp_path, Files()), FileLeases(tmp_path, Files())
    grant = first.acquire("caretaker")
    assert grant is not None
    (tmp_path / "caretaker.lock").unlink()
    taken = second.acquire("caretaker")
    assert taken is not None
    with pytest.raises(LeaseLost, match="caretaker"):
        first.check(grant)
    first.release(grant)
    second.check(taken)
    second.release(taken)


def test_one_process_at_a_time_changes_the_ledger_and_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.opened(tmp_path / "data").close()
    layout, files = layouts.existing(tmp_path / "data"), Files()
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with locks.ledger(layout, files):
            order.append("second")

    monkeypatch.setattr(locks, "LEDGER_PATIENCE_S", 300.0)
    thread = threading.Thread(target=second)
    with locks.ledger(layout, files):
        thread.start()
        assert waiting.wait(60.0)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    with locks.caretaker(layout, files), pytest.raises(ArchiveInUse, match="compacts or scrubs"):
        with locks.caretaker(layout, files):
            pass
    monkeypatch.setattr(locks, "LEDGER_PATIENCE_S", 0.0)
    with locks.ledger(layout, files), pytest.raises(ArchiveInUse, match="deleting"), locks.ledger(layout, files):
        pass
