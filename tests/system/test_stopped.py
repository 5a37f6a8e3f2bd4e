"""Processes that stand still and clocks that jump.

A stopped worker (SIGSTOP: a disk that hangs, a debugger, a swapping machine) may hold the index's write lock. It gets
no new connections, is killed after limits.worker_silence_s_max, and what the others acknowledge is kept.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import peer, samples
from tests.faults import faulty_libc
from tests.peer import CT, EXPLICIT, IMPLICIT, VERIFICATION, Peer
from tests.system import foreign, ingest
from tests.system.server import Server, running, wait_for
from tests.system.test_crash import Countdown, check, workers_ready

pytestmark = [pytest.mark.slow, pytest.mark.rotating(2)]

SEED = int(os.environ.get("FILMROOM_STOPPED_SEED", "20260501"))
ROUNDS = int(os.environ.get("FILMROOM_STOPPED_ROUNDS", "1"))

SILENCE_S = 2.0
CONFIG = f"[limits]\nworker_silence_s_max = {SILENCE_S}\n"


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that stands still for the length of a block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # it was killed meanwhile


def echo(port: int, timeout_s: float = 60.0) -> bool:
    """Whether a fresh C-ECHO is answered in time."""
    try:
        with Peer(port, timeout_s=timeout_s) as script:
            script.associate((1, VERIFICATION, [IMPLICIT]))
            script.echo()
            script.release()
    except (AssertionError, OSError):
        return False
    return True


def test_a_stopped_worker_gets_no_new_connections(tmp_path: Path) -> None:
    with running(tmp_path / "data", config="[limits]\nworker_silence_s_max = 600\n", workers=2) as server:
        with stopped(server.worker_pids()[0]):
            # Some may be handed to it before its silence is noticed; from then on none.
            wait_for(lambda: all(echo(server.port, 2.0) for _ in range(4)), what="four fresh echoes in a row")
            assert all(echo(server.port) for _ in range(20))
        wait_for(lambda: workers_ready(server, 2, without=0), what="both workers")
        assert all(echo(server.port) for _ in range(4))


def test_a_worker_that_stands_still_under_load_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    for number in range(ROUNDS):
        rng = random.Random(SEED + number)
        ledger = ingest.Ledger()
        with running(tmp_path / f"data-{number}", config=CONFIG, workers=2) as server:
            countdown = Countdown(ledger, rng.randint(20, 80))
            senders = ingest.start_senders(server.port, ledger, ingest.study_number(0), 4, countdown)
            countdown.wait()
            victim = rng.choice(server.worker_pids())
            ready = partial(workers_ready, server, 2, without=victim)
            with stopped(victim):
                wait_for(ready, what="a worker in its place")
            countdown.begin_again(30)
            countdown.wait()
            for sender in senders:
                sender.stop()
            for sender in senders:
                sender.join()
            assert sum(sender.lost for sender in senders) == 2, f"seed {SEED + number}"
            ledger.verify(server.port)
        check(tmp_path / f"data-{number}")


def test_a_stopped_supervisor_leaves_running_associations_alone(tmp_path: Path) -> None:
    with running(tmp_path / "data", workers=2) as server, Peer(server.port) as script:
        script.associate((1, CT, [EXPLICIT]))
        with stopped(server.process.pid):
            for number in range(20):
                made = ingest.GeneratedInstance(ingest.study_number(0), number)
                script.send(peer.message(1, peer.c_store_rq(number + 1, CT, made.uid), made.data_set()))
                assert script.expect_message().status() == 0
        script.release()
        assert echo(server.port)
        assert len(ingest.find_instances(server.port, ingest.study_number(0))) == 20


# The clock ---------------------------------------------------------------------------------------


class Clock:
    """The wall clock of a server, seconds off from ours."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("cc") is None:
            pytest.skip("there is no C compiler")
        self._file = folder / "clock"
        self.set(0)
        library = faulty_libc.build(folder)
        self.environment = {"LD_PRELOAD": str(library), "FAULTY_CLOCK": str(self._file)}

    def set(self, offset_s: int) -> None:
        """The next look at the clock sees it."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("<q", offset_s * 10**9))


def version(number: int) -> foreign.Stored:
    """One instance in its n-th version."""
    return foreign.Stored.of(samples.instance(1, 1, 1, pixels=bytes([number]) * 512))


def current(server: Server) -> bytes:
    """What a C-GET brings of it."""
    keys = {"level": "IMAGE", "SOPInstanceUID": f"{samples.ROOT}.1.1.1"}
    ((_, data_set),) = foreign.get(server.port, keys, [(CT, EXPLICIT)]).data_sets.values()
    return data_set


@pytest.mark.parametrize("step_s", [-86400 * 365, 86400 * 365 * 50])
def test_the_last_version_wins_whatever_the_clock_does(tmp_path: Path, step_s: int) -> None:
    clock = Clock(tmp_path)
    with running(
        tmp_path / "data", config='duplicates = "replace"\n', environment=clock.environment, workers=2
    ) as server:
        assert foreign.store(server.port, [version(1)]) == [0]
        clock.set(step_s)
        assert foreign.store(server.port, [version(2)]) == [0]
        assert current(server) == version(2).data_set
        clock.set(0)
        assert foreign.store(server.port, [version(3)]) == [0]
        assert current(server) == version(3).data_set
        server.kill_all()
    shutil.rmtree(tmp_path / "data" / "index")
    with running(tmp_path / "data", config='duplicates = "replace"\n') as server:
        assert current(server) == version(3).data_set, "a rebuild comes to another end"


def test_no_timer_depends_on_the_wall_clock(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    ledger = ingest.Ledger()
    with running(tmp_path / "data", environment=clock.environment, workers=2) as server:
        senders = ingest.start_senders(server.port, ledger, ingest.study_number(0), 2)
        with Peer(server.port) as idle:
            idle.associate((1, VERIFICATION, [IMPLICIT]))
            for step_s in (7200, -7200, 86400 * 30, 0):
                clock.set(step_s)
                reached = len(ledger.acknowledged) + 20
                wait_for(lambda: len(ledger.acknowledged) >= reached, what="ingest after a clock step")  # noqa: B023
            idle.echo()
            idle.release()
        for sender in senders:
            sender.stop()
        for sender in senders:
            sender.join()
            assert not sender.lost
        ledger.verify(server.port)
    check(tmp_path / "data")


GUEST = """
import os, signal, sys
from pathlib import Path
from engine.archive.archive import Archive

archive = Archive.open(Path(sys.argv[1]), role="guest")
archive.parts.index._environment.write(lambda txn: os.kill(os.getpid(), signal.SIGSTOP), lambda: None)
"""


def test_a_command_that_is_stopped_in_its_transaction_is_named_and_continued_and_stores_go_on(tmp_path: Path) -> None:
    with running(tmp_path / "d", workers=1) as server:
        guest = subprocess.Popen([sys.executable, "-c", GUEST, str(tmp_path / "d")])
        try:
            # It may be continued before the server is asked twice.
            holders: list[Any] = []

            def is_named() -> bool:
                holders.append(server.stats()["index_held_by"])
                return holders[-1] is not None

            wait_for(is_named, what="the holder being named")
            assert holders[-1]["pid"] == guest.pid
            wait_for(lambda: server.stats()["index_held_by"] is None, what="its going on")
            assert guest.wait(60) == 0
            assert foreign.store(server.port, [foreign.Stored.of(samples.instance(1, 1, 1))]) == [0]
        finally:
            guest.kill()
            guest.wait()
