"""Who keeps the index to himself is named, continued, and in the end killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.archive import writer_watch
from engine.archive.writer_watch import WriterWatch
from engine.index.database.turn import Holder
from tests.index.database.test_turn import state_of
from tests.system.server import wait_for

HOLDS_OPEN = "import sys\nlock = open(sys.argv[1], 'a')\nprint('ready', flush=True)\nsys.stdin.readline()"


class Watched:
    """A watch, and who is said to write."""

    def __init__(self, lock: Path, pid: int) -> None:
        self.holder: Holder | None = None
        self.pid = pid
        self.counters: Counter[str] = Counter()
        self.watch = WriterWatch(lambda: self.holder, str(lock), self.counters)

    def look(self, held_s: float, *, pid: int | None = None, limit_s: float = 30.0) -> None:
        self.holder = Holder(self.pid if pid is None else pid, self.pid, held_s, "filmroom import")
        self.watch.look(limit_s)


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Watched]:
    """A process that has the lock's file open, and is stopped."""
    lock = tmp_path / "writer"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS_OPEN, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: state_of(process.pid) == "T", what="the stop")
    yield Watched(lock, process.pid)
    process.kill()
    process.communicate()


def test_one_that_writes_for_a_moment_is_left_alone(stopped: Watched) -> None:
    stopped.look(writer_watch.NAMED_S / 2)
    assert stopped.watch.snapshot() is None and not stopped.counters
    stopped.holder = None
    stopped.watch.look(30.0)
    assert stopped.watch.snapshot() is None


def test_it_is_named_once_then_continued_then_killed(stopped: Watched) -> None:
    stopped.look(writer_watch.NAMED_S)
    for held_s in (writer_watch.NAMED_S + 0.5, writer_watch.NAMED_S + 1):
        stopped.look(held_s)
        assert stopped.counters == {"index_held_up": 1}
        assert stopped.watch.snapshot() == {"pid": stopped.pid, "command": "filmroom import", "held_s": held_s}
        assert state_of(stopped.pid) == "T"
    stopped.look(writer_watch.CONTINUE_S + 1)
    wait_for(lambda: state_of(stopped.pid) == "S", what="its going on")
    stopped.look(31.0, limit_s=0.0)
    assert state_of(stopped.pid) == "S"
    stopped.look(31.0)
    wait_for(lambda: state_of(stopped.pid) == "Z", what="its end")
    assert stopped.counters == {"index_held_up": 1, "index_holders_killed": 1}
    stopped.holder = None
    stopped.watch.look(30.0)
    assert stopped.watch.snapshot() is None


def test_nobody_else_is_touched(stopped: Watched, tmp_path: Path) -> None:
    elsewhere = Watched(tmp_path / "another", stopped.pid)
    for held_s in (59.0, 60.0):
        elsewhere.look(held_s)  # this process has not that file open: its id belongs to somebody else by now
        stopped.look(held_s, pid=0)
    assert stopped.watch.snapshot() == {"pid_elsewhere": stopped.pid, "command": "filmroom import", "held_s": 60.0}
    for held_s in (59.0, 60.0):
        stopped.look(held_s, pid=os.getpid())
    assert state_of(stopped.pid) == "T"
    assert "index_holders_killed" not in stopped.counters + elsewhere.counters


def test_one_that_has_taken_its_turn_and_not_noted_it_yet_is_left_alone(stopped: Watched) -> None:
    """What it noted is an earlier turn: at the next look it has noted this one, or a later one."""
    for held_s in (3600.0, 0.2, 3600.0, 4.0, 3600.0):
        stopped.look(held_s)
        assert state_of(stopped.pid) == "T"
        assert stopped.watch.snapshot() is None and not stopped.counters
        stopped.holder = None
        stopped.watch.look(30.0)
    stopped.look(3600.0)
    stopped.look(4.0)
    assert state_of(stopped.pid) == "T"
    assert stopped.watch.snapshot() is None and not stopped.counters
