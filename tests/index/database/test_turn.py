"""The turn to write the index: it names its holder, can be tried, and ends with its process or before that is stopped.

Other processes are Python children that run the program of a test with an index of their own.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.errors import IndexError_, ProcessIdTaken, StorageFailed
from engine.index.catalog import Catalog
from engine.index.database import environment
from engine.index.database import turn as turns
from engine.index.database.turn import Turn, holder_of
from engine.index.format.types import Outcome
from tests.index.entries import Tail, entry
from tests.system.server import wait_for

CHILD = """
import os, sys
from engine.index.catalog import Catalog
from engine.stops import delay_stops

index = Catalog.open(sys.argv[1])
environment = index._environment

def say(word):
    print(word, flush=True)

def wait(txn=None):
    say("ready")
    sys.stdin.readline()

"""


@contextmanager
def child(directory: Path, script: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has reported that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD + script, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def goes_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


WRITES = "environment.write(wait, lambda: None)\nsay('done')\nsys.stdin.readline()"


def test_the_writing_process_is_named_and_a_caller_that_must_not_wait_returns_at_once(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path))
    tail = Tail()
    assert index.try_apply([entry(tail, instance=1)]) == [Outcome.STORED]
    assert index.describe_writer() == "" and holder_of(str(tmp_path)) is None
    with child(tmp_path, WRITES) as process:
        assert index.try_apply([entry(tail, instance=2)]) is None
        holder = holder_of(str(tmp_path))
        assert holder is not None and holder.pid == process.pid
        assert f"pid {process.pid}" in index.describe_writer()
        goes_on(process)
        assert process.stdout is not None and process.stdout.readline() == "done\n"
        assert index.try_apply([entry(tail, instance=2)]) == [Outcome.STORED]
        assert index.describe_writer() == ""
    index.close()


def test_each_of_several_writers_is_named(tmp_path: Path) -> None:
    """The note of a process is valid for a while, and never taken for that of another process."""
    first, second, third = (Turn(str(tmp_path)) for _ in range(3))
    first._who, second._who = (11, *first._who[1:]), (22, *second._who[1:])
    for _ in range(20):
        for turn, pid in ((first, 11), (second, 22), (first, 11)):
            turn.take()
            holder = third.holder()
            assert holder is not None and holder.pid == pid and holder.held_s < 2
            assert not third.try_take()
            turn.leave()
            assert third.holder() is None
    second.close()
    fourth = Turn(str(tmp_path))  # in the slot of the second
    fourth.take()
    holder = third.holder()
    assert holder is not None and holder.pid == os.getpid()
    for turn in (first, third, fourth):
        turn.close()


def test_a_note_is_rewritten_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = Turn(str(tmp_path)), Turn(str(tmp_path))
    now_ns = [1_000_000_000_000]
    monkeypatch.setattr(turns, "_now_ns", lambda: now_ns[0])
    ours.take()
    ours.leave()
    now_ns[0] += 60_000_000_000
    ours.take()
    now_ns[0] += 4_000_000_000
    holder = other.holder()
    assert holder is not None and holder.held_s == 4
    ours.close()
    other.close()


def test_a_handle_without_a_slot_takes_turns_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLOTS", 1)
    named, nameless, also = (Turn(str(tmp_path)) for _ in range(3))
    assert nameless.try_take()
    assert not also.try_take() and not named.try_take()
    assert str(named.holder()).startswith("pid 0 of another") and holder_of(str(tmp_path)) is not None
    nameless.leave()
    assert also.try_take()
    for turn in (named, nameless, also):
        turn.close()


def test_a_process_that_dies_in_a_transaction_releases_its_turn(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path))
    with child(tmp_path, WRITES) as process:
        assert index.try_apply([entry(Tail(), instance=1)]) is None
        process.kill()
        process.wait()
        assert index.apply([entry(Tail(), instance=1)]) == [Outcome.STORED]
    index.close()


def test_a_thread_that_waits_for_its_turn_does_not_delay_others(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path))
    tail = Tail()
    with child(tmp_path, WRITES) as process:
        waiting = threading.Thread(target=index.apply, args=([entry(tail, instance=1)],))
        waiting.start()
        assert index.try_apply([entry(tail, instance=2)]) is None
        goes_on(process)
        waiting.join(60)
        assert not waiting.is_alive()
    assert index.try_apply([entry(tail, instance=2)]) == [Outcome.STORED]
    assert index.stats()["instances"] == 2
    index.close()


def test_a_process_that_is_stopped_in_a_transaction_ends_it_first(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path))
    with child(tmp_path, "delay_stops()\n" + WRITES) as process:
        process.send_signal(signal.SIGTSTP)
        for _ in range(5):
            assert index.try_apply([entry(Tail(), instance=1)]) is None
        assert state_of(process.pid) != "T"
        goes_on(process)
        wait_for(lambda: state_of(process.pid) == "T", what="the stop")
        assert index.apply([entry(Tail(), instance=1)]) == [Outcome.STORED]
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None and process.stdout.readline() == "done\n"
        # Between transactions it stops at once.
        process.send_signal(signal.SIGTSTP)
        goes_on(process)
        wait_for(lambda: state_of(process.pid) in "TZ", what="the stop, or its end")
    index.close()


READS = "txns = [environment.begin_read() for _ in range({})]\nwait()"


def test_the_slots_of_dead_readers_are_freed_when_the_table_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "READERS_MAX", 8)
    index = Catalog.open(str(tmp_path))
    index.apply([entry(Tail())])
    with child(tmp_path, READS.format(6)) as process:
        ours = [index._environment.begin_read(), index._environment.begin_read()]
        with pytest.raises(IndexError_, match="read transactions are open at once"):
            index._environment.begin_read()
        with pytest.raises(IndexError_, match="read transactions are open at once"):
            index._environment.begin_pin()
        process.kill()
        process.wait()
        ours.append(index._environment.begin_read())
        for txn in ours:
            index._environment.end_read(txn)
    assert index.stats()["instances"] == 1
    index.close()


def test_a_process_id_in_use_in_another_namespace_is_named(tmp_path: Path) -> None:
    Catalog.open(str(tmp_path)).close()
    # As the process of this id in the other namespace would: LMDB locks the byte of its number.
    script = f"""
import fcntl
fd = os.open(sys.argv[1] + "/lock.mdb", os.O_RDWR)
fcntl.lockf(fd, fcntl.LOCK_EX, 1, {os.getpid()})
wait()
"""
    with child(tmp_path, script) as process:
        with pytest.raises(ProcessIdTaken, match="PID namespace"):
            Catalog.open(str(tmp_path))
        process.kill()
        process.wait()
    Catalog.open(str(tmp_path)).close()


@pytest.mark.parametrize("take", [Turn.take, Turn.try_take, lambda turn: turn.take_within(1.0)])
def test_a_failing_disk_gives_no_turn_and_delays_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, take: Callable[[Turn], object]
) -> None:
    first, second = Turn(str(tmp_path)), Turn(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.EIO))
        with pytest.raises(StorageFailed, match="cannot be written"):
            take(first)
    assert second.try_take(), "who could not write keeps nobody from it"
    first.close()
    second.close()


def test_on_a_full_disk_every_process_takes_turns_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Turn(str(tmp_path)), Turn(str(tmp_path))
    monkeypatch.setattr(os, "pwrite", failing(errno.ENOSPC))
    assert first.try_take()
    assert not second.try_take()
    first.leave()
    assert second.try_take()
    first.close()
    second.close()


def failing(number: int) -> Callable[..., int]:
    def pwrite(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return pwrite
