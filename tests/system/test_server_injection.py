"""Faults in the system calls of the whole server, put in from outside with strace: kill, EIO, ENOSPC.

The server is not changed and not preloaded. strace counts calls for each thread, so the n-th call of the first thread
that comes so far is hit: where that is follows from n and from how the threads happen to run. What must hold afterwards
does not depend on it. FILMROOM_STRACE_ROUNDS sets how many points are tried (CI: a few; 200 for the long run).
"""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.system import ingest
from tests.system.server import Server, running, wait_for
from tests.system.test_crash import check
from tests.system.test_durability import strace_works

pytestmark = [
    pytest.mark.rotating(2),
    pytest.mark.slow,
    pytest.mark.skipif(not strace_works(), reason="strace is not installed, or may not trace"),
]

ROUNDS = int(os.environ.get("FILMROOM_STRACE_ROUNDS", "4"))
SEED = int(os.environ.get("FILMROOM_STRACE_SEED", "20260401"))

POINTS = {
    "pwritev": 80,
    "pwrite64": 120,
    "fdatasync": 40,
    "fsync": 8,
    "rename": 4,
    "ftruncate": 4,
    "unlink": 6,
    "fallocate": 3,
}
"""System call → how far its number is drawn."""

CONFIG = """
write_behind_sync_s = 0.05
[limits]
disk_reserve_bytes = 0
stream_threshold_bytes = 131072
[storage]
segment_bytes = 1048576
"""


@pytest.mark.parametrize("number", range(ROUNDS))
def test_nothing_is_lost_by_a_fault_in_a_running_server(tmp_path: Path, number: int) -> None:
    rng = random.Random(SEED + number)
    call = rng.choice(list(POINTS))
    what = rng.choice(("signal=KILL", "error=EIO", "error=ENOSPC"))
    injection = f"{call}:{what}:when={rng.randint(1, POINTS[call])}{rng.choice(('', '+'))}"
    prefix = ("strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={injection}")
    ledger = ingest.Ledger()
    try:
        live_with(tmp_path / "data", prefix, ledger, rng.randint(20, 150))
        with running(tmp_path / "data", config=CONFIG) as server:
            ledger.verify(server.port)
            store_one(server, ledger)
        check(tmp_path / "data")
    except BaseException as error:
        error.add_note(f"{injection}, FILMROOM_STRACE_SEED={SEED + number}")
        raise


def live_with(data: Path, prefix: tuple[str, ...], ledger: ingest.Ledger, acknowledged: int) -> None:
    """A server with a fault, under load until so many are acknowledged or every sender has lost it."""
    server = Server(data, config=CONFIG, prefix=prefix, await_ready=False)
    try:
        if not server.is_ready_within(30):
            return  # the fault was in its start
        senders = ingest.start_senders(server.port, ledger, ingest.study_number(1), 3)
        wait_for(
            lambda: len(ledger.acknowledged) >= acknowledged or not any(sender.is_alive() for sender in senders),
            timeout_s=60,
            what="acknowledgements, or the senders' end",
        )
        server.kill_all()
        for sender in senders:
            sender.join()
    finally:
        server.kill_all()


def store_one(server: Server, ledger: ingest.Ledger) -> None:
    """A new instance, and it is there."""
    study = ingest.study_number(2)
    sender = ingest.Sender(server.port, ledger, study, range(1))
    sender.start()
    sender.join()
    assert not sender.lost
    ledger.verify(server.port, studies={study})


def test_from_the_first_failed_sync_on_nothing_is_acknowledged_and_the_server_stops(tmp_path: Path) -> None:
    ledger = ingest.Ledger()
    with running(tmp_path / "data", config=CONFIG) as server:
        senders = ingest.start_senders(server.port, ledger, ingest.study_number(1), 2)
        wait_for(lambda: len(ledger.acknowledged) > 20, what="twenty acknowledged")
        for sender in senders:
            sender.stop()
        for sender in senders:
            sender.join()
        acknowledged = len(ledger.acknowledged)
        targets = [word for pid in (server.process.pid, *server.worker_pids()) for word in ("-p", str(pid))]
        inject = ("-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO")
        strace = subprocess.Popen(["strace", "-f", "-o", "/dev/null", *inject, *targets], stderr=subprocess.PIPE)
        try:
            assert strace.stderr is not None
            for _ in range(len(targets) // 2):
                assert b"attached" in strace.stderr.readline()
            senders = ingest.start_senders(server.port, ledger, ingest.study_number(2), 2)
            for sender in senders:
                sender.join(60)
                assert sender.lost
            assert server.wait(60) in (1, 4), "it goes on as if nothing had happened"
        finally:
            server.kill_all()
            strace.wait(60)
    assert len(ledger.acknowledged) == acknowledged
    with running(tmp_path / "data", config=CONFIG) as server:
        ledger.verify(server.port)
        store_one(server, ledger)
    check(tmp_path / "data")
