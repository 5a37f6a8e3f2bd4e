"""Workers that cannot be started are tried again, connections have one owner, configurations reach everybody."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import socket
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from engine import control
from engine.config import Config
from engine.metrics import Metrics
from engine.runtime.worker_memory import PART_BYTES, WorkerMemory
from engine.server import child, pool
from engine.server.channel import Channel
from engine.server.child import Restarts
from tests.peer import Peer, associate_rq
from tests.system.server import running, wait_for

ECHO = (1, "1.2.840.10008.1.1", ["1.2.840.10008.1.2"])


def test_the_pause_doubles_up_to_a_limit_and_is_reset_after_a_long_run() -> None:
    restarts = Restarts(0.2, 5.0)
    assert [restarts.pause_s(0.1) for _ in range(7)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert restarts.pause_s(6.0) == pytest.approx(0.2)
    assert restarts.pause_s() == pytest.approx(0.4)


class FakeProcesses:
    """Processes that say that they are ready, or cannot be started."""

    def __init__(self) -> None:
        self.errors: list[OSError | RuntimeError] = []
        self.times: list[float] = []
        self.theirs: list[Channel] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def spawn(self, module: str) -> tuple[subprocess.Popen[bytes], Channel]:
        self.times.append(asyncio.get_running_loop().time())
        if self.errors:
            raise self.errors.pop(0)
        channel, theirs = Channel.pair()
        self.theirs.append(Channel(theirs))
        process = subprocess.Popen(["sleep", "60"])
        self.processes.append(process)
        self.theirs[-1].send("ready")
        return process, channel

    def kill_last(self) -> None:
        self.processes[-1].kill()
        self.theirs[-1].close()

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_worker_that_cannot_be_started_is_retried_with_growing_pauses_and_shown_as_missing(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "RESTART_PAUSE_S", 0.02)
    fake = FakeProcesses()
    failed: list[str] = []
    metrics = Metrics()

    async def recover() -> None:
        return

    async def run() -> list[dict[str, object]]:
        workers = pool.Pool(
            Config(workers=1),
            metrics,
            "engine.app.worker",
            recover=recover,
            on_change=lambda: None,
            fail=failed.append,
            spawn=fake.spawn,
        )
        workers.start()
        while not workers.ready_count:
            await asyncio.sleep(0.005)
        workers.serve()
        refused = OSError(code, os.strerror(code))
        fake.errors = [refused, refused, RuntimeError("can't start new thread")]
        fake.kill_last()
        while len(fake.times) < 3:
            await asyncio.sleep(0.002)
        missing = workers.missing
        while not workers.ready_count:
            await asyncio.sleep(0.005)
        assert workers.missing == []
        workers.drain(0.0)
        return missing

    try:
        missing = asyncio.run(run())
    finally:
        fake.end()
    assert missing == [{"number": 0, "error": f"[Errno {code}] {os.strerror(code)}"}]
    assert failed == []
    assert metrics.counters["workers_not_started"] == 3
    gaps = [after - before for before, after in pairwise(fake.times[1:])]
    assert len(gaps) == 3 and gaps[0] >= 0.04 and gaps[1] >= 0.08 and gaps[2] >= 0.16


def test_a_caretaker_that_cannot_be_started_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.server import lone_process

    monkeypatch.setattr(lone_process, "RESTART_PAUSE_S", 0.01)
    fake = FakeProcesses()
    fake.errors = [OSError(errno.EAGAIN, "no"), OSError(errno.ENOMEM, "no")]

    async def recover() -> None:
        return

    async def run() -> None:
        process = lone_process.LoneProcess(Config(), fake.spawn, recover)
        process.start_later(0.0)
        while len(fake.times) < 2:
            await asyncio.sleep(0.002)
        assert (await process.stats())["not_started"]
        while process.process is None:
            await asyncio.sleep(0.002)
        process.drain()

    try:
        asyncio.run(run())
    finally:
        fake.end()
    assert len(fake.times) == 3


def test_a_failed_start_leaks_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **more: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "no process")

    monkeypatch.setattr(subprocess, "Popen", fails)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError):
        child.spawn("engine.app.worker")
    assert len(os.listdir("/proc/self/fd")) == before


# Who owns a connection ---------------------------------------------------------------------------


def test_a_connection_is_either_claimed_by_the_worker_or_taken_back() -> None:
    memory = WorkerMemory.create(2)
    supervisor, worker = memory.heartbeat, WorkerMemory(memory.fd, 1).heartbeat
    assert worker.claim(3) and worker.claim(4)
    assert supervisor.revoke(1, 7) == 4
    assert not worker.claim(5) and not worker.claim(7)
    assert supervisor.claimed(1) == 4
    assert worker.claim(8)
    assert supervisor.revoke(1, 9) == 8


def test_no_connection_is_taken_back_while_the_worker_claims_it() -> None:
    memory = WorkerMemory.create(2)
    supervisor, fd = memory.heartbeat, memory.fd
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        # A worker that stands still inside of claim().
        fcntl.lockf(fd, fcntl.LOCK_EX, PART_BYTES, PART_BYTES)
        theirs.send(b"x")
        signal.pause()
    assert ours.recv(1) == b"x"
    try:
        assert supervisor.revoke(1, 9) is None
        assert supervisor.revoke(0, 9) == 0
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert supervisor.revoke(1, 9) == 0


async def _nothing() -> None:
    return


def test_a_report_of_several_connections_closes_the_supervisors_side_of_those_that_were_taken() -> None:
    """And of no later one: that would be lost if the worker died now."""

    async def report() -> None:
        fake = FakeProcesses()
        workers = pool.Pool(
            Config(workers=1),
            Metrics(),
            "engine.app.worker",
            recover=_nothing,
            on_change=lambda: None,
            fail=pytest.fail,
            spawn=fake.spawn,
        )
        workers.start()
        try:
            while not workers.ready_count:
                await asyncio.sleep(0.005)
            pairs = [socket.socketpair() for _ in range(3)]
            for ours, _ in pairs:
                workers.hand_over("dicom", ours, "127.0.0.1")
            serials = []
            while len(serials) < 3:
                delivery = fake.theirs[0].receive()
                if delivery is not None and delivery[0]["kind"] == "accept":
                    serials.append(delivery[0]["serial"])
                    assert delivery[1] is not None
                    os.close(delivery[1])
            fake.theirs[0].send("handled", taken=serials[1], closed={"dicom": 1})
            while workers.connections_count != 2:
                await asyncio.sleep(0.005)
            assert [ours.fileno() < 0 for ours, _ in pairs] == [True, True, False]
            for ours, theirs in pairs:
                ours.close()
                theirs.close()
        finally:
            fake.end()

    asyncio.run(report())


# Configurations ----------------------------------------------------------------------------------


def peers(count: int, last_may: str) -> str:
    tables = [f'[[peer]]\naet = "PEER{number}"\nhost = "10.0.{number >> 8}.{number & 255}"\nport = 104\n'
              for number in range(count)]  # fmt: skip
    last = f'[[peer]]\naet = "LAST"\nmay = [{last_may}]\n'
    # On a busy machine the reloads take longer than a stopped worker may be silent.
    return "accept_unknown_peers = false\n" + "".join(tables) + last + "[limits]\nworker_silence_s_max = 0\n"


def test_every_worker_gets_three_thousand_peers_at_start_and_at_reload_even_after_a_stall(
    tmp_path: Path,
) -> None:
    with running(tmp_path / "d", config=peers(3000, '"store"')) as server:
        with Peer(server.port) as peer:
            peer.associate(ECHO, calling="LAST")
        stopped = server.worker_pids()
        changed: list[str] = []
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            for count in (3001, 3002, 3003):
                server.config_file.write_text(peers(count, '"store"').replace('"LAST"', '"OTHER"'))
                answer = control.request(server.data, {"command": "reload"})
                changed += answer["changed"]
            assert answer["workers_late"] == [0, 1]
            assert answer["file"] == str(server.config_file)
            assert {"peer.LAST", "peer.OTHER", "peer.PEER3000", "peer.PEER3002"} <= set(changed)
            assert "peer.PEER7" not in changed
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        wait_for(
            lambda: all(row["is_configured"] for row in server.stats()["workers"]),  # type: ignore[attr-defined]
            what="the new one everywhere",
        )
        assert server.worker_pids() == stopped
        for _ in range(4):
            with Peer(server.port) as peer:
                peer.send(associate_rq([ECHO], calling="LAST"))
                peer.expect_reject()
