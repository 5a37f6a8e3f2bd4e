"""kill -9 of workers, supervisor and everything during ingest: what was acknowledged is there afterwards.

The senders and their ledger live in the test's process, outside the server. The moment of each kill is a number of
acknowledged instances, drawn from a seed. FILMROOM_CRASH_ROUNDS sets how often (CI: a few; 200 for the long run),
FILMROOM_CRASH_SEED another history.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from engine.archive import layout as layouts
from engine.archive.feed.cursor import Cursor
from engine.archive.feed.subscription import Feed
from tests import peer, template
from tests.peer import CT, EXPLICIT, IMPLICIT, VERIFICATION, Peer
from tests.system import ingest
from tests.system.server import ROOT, Server, running, wait_for

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("FILMROOM_CRASH_ROUNDS", "4"))
SEED = int(os.environ.get("FILMROOM_CRASH_SEED", "20260102"))
READY_S = float(os.environ.get("FILMROOM_READY_S", "60.0"))
"""From the start of the process to the line that says it is ready, after a kill: a start that hangs is found here. How
long it takes is measured by perf.start; FILMROOM_READY_S=2 makes this test hold it to that bar."""

SENDERS = 4


class Countdown:
    """Fires once so many more instances have been acknowledged."""

    def __init__(self, ledger: ingest.Ledger, more: int) -> None:
        self._ledger = ledger
        self._reached = threading.Event()
        self._limit = 0
        self.begin_again(more)

    def begin_again(self, more: int) -> None:
        """Counts from now on."""
        self._reached.clear()
        self._limit = len(self._ledger.acknowledged) + more

    def __call__(self, count: int) -> None:
        if count >= self._limit:
            self._reached.set()

    def wait(self) -> None:
        """Until then."""
        assert self._reached.wait(60), "the senders do not get on"


def started(data: Path, **options: object) -> tuple[Server, float]:
    """A server and how long it took to be ready."""
    began = time.monotonic()
    server = Server(data, **options)  # type: ignore[arg-type]
    return server, time.monotonic() - began


def check(data: Path) -> None:
    """`filmroom check`, payloads included, finds nothing."""
    done = template.run("engine", "check", "--payloads", "--data", str(data), folder=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


class Subscriber:
    """Follows the feed from where it was, whatever happens to the server."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._cursor: Cursor | None = None
        self.seen: set[str] = set()
        self.repeated = 0

    def follow(self, everything: set[str]) -> None:
        """Reads on until it has seen all of these."""
        feed = Feed(layouts.existing(self._data))
        cursor = self._cursor or feed.oldest()
        while everything - self.seen:
            page = feed.read(cursor)
            uids = [event.sop_instance_uid for event in page.events() if event.action == "stored"]
            self.repeated += len(self.seen.intersection(uids))
            self.seen.update(uids)
            self._cursor = cursor = page.cursor
            assert page.lines or feed.wait(cursor, 20), f"never told: {sorted(everything - self.seen)[:3]}"
        feed.close()


@pytest.mark.parametrize("durability", ["durable", "write-behind"])
def test_every_acknowledged_instance_survives_a_kill_of_everything(tmp_path: Path, durability: str) -> None:
    """And whoever follows the feed is told of each."""
    rng = random.Random(SEED)
    ledger = ingest.Ledger()
    subscriber = Subscriber(tmp_path / "data")
    baseline_s: float | None = None
    for number in range(ROUNDS):
        server, ready_s = started(tmp_path / "data", config=f'durability = "{durability}"\n')
        try:
            baseline_s = ready_s if baseline_s is None else baseline_s
            late = f"round {number}: ready after {ready_s:.2f} s\n" + "".join(server.log)
            assert ready_s <= max(READY_S, baseline_s + 1.0), late
            ledger.verify(server.port, studies={ingest.study_number(number - 1)} & ledger.studies)
            subscriber.follow(set(ledger.acknowledged))
            countdown = Countdown(ledger, rng.randint(5, 120))
            senders = ingest.start_senders(server.port, ledger, ingest.study_number(number), SENDERS, countdown)
            countdown.wait()
            server.kill_all()
            for sender in senders:
                sender.join()
        finally:
            server.close()
    with running(tmp_path / "data") as server:
        ledger.verify(server.port)
        assert not ledger.refused, f"seed {SEED}"
        subscriber.follow(set(ledger.acknowledged))
        assert not subscriber.repeated, "a kill repeats nothing: the page cache has the journal"
    check(tmp_path / "data")


def test_a_killed_worker_is_replaced_and_takes_nothing_along(tmp_path: Path) -> None:
    rng = random.Random(SEED + 1)
    ledger = ingest.Ledger()
    with running(tmp_path / "data", workers=2) as server:
        for number in range(max(ROUNDS // 2, 2)):
            kill_one_worker(server, rng, ledger, ingest.study_number(number))
        ledger.verify(server.port)
        assert not ledger.refused, f"seed {SEED}"
    check(tmp_path / "data")


def kill_one_worker(server: Server, rng: random.Random, ledger: ingest.Ledger, study: int) -> None:
    """Kills one of two workers under load; its associations end, the others go on, another worker comes."""
    # The workers share new associations evenly once they have none: those of the last round must be over.
    wait_for(lambda: connection_counts(server) == [0, 0], what="the end of all earlier associations")
    victim = rng.choice(server.worker_pids())
    countdown = Countdown(ledger, rng.randint(20, 80))
    senders = ingest.start_senders(server.port, ledger, study, SENDERS, countdown)
    countdown.wait()
    os.kill(victim, signal.SIGKILL)

    def lost_count() -> int:
        return sum(sender.lost for sender in senders)

    wait_for(lambda: lost_count() == SENDERS // 2, what="the end of the victim's associations")
    countdown.begin_again(30)
    countdown.wait()
    for sender in senders:
        sender.stop()
    for sender in senders:
        sender.join()
    assert lost_count() == SENDERS // 2, f"seed {SEED}"
    wait_for(lambda: workers_ready(server, 2, without=victim), what="a worker in its place")
    ledger.verify(server.port, studies={study})


def connection_counts(server: Server) -> list[int]:
    """How many connections each worker has, as the supervisor counts them."""
    workers: list[dict[str, int]] = server.stats()["workers"]  # type: ignore[assignment]
    return [worker["connections"] for worker in workers]


def workers_ready(server: Server, count: int, *, without: int) -> bool:
    """Whether so many workers answer, and that one is none of them."""
    workers: list[dict[str, int]] = server.stats()["workers"]  # type: ignore[assignment]
    pids = [worker["pid"] for worker in workers if "associations" in worker]
    return len(pids) == count and without not in pids


def test_another_server_takes_over_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    rng = random.Random(SEED + 2)
    ledger = ingest.Ledger()
    server, _ = started(tmp_path / "data")
    try:
        countdown = Countdown(ledger, rng.randint(20, 80))
        senders = ingest.start_senders(server.port, ledger, ingest.study_number(0), SENDERS, countdown)
        countdown.wait()
        orphans = server.worker_pids()
        server.process.kill()
        server.wait()
        for sender in senders:
            sender.join()
        assert all(sender.lost for sender in senders)
        with running(tmp_path / "data") as successor:
            ledger.verify(successor.port)
            wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans), what="the orphans' end")
    finally:
        server.close()
    check(tmp_path / "data")


def test_whoever_is_killed_at_whatever_moment_the_next_start_works(tmp_path: Path) -> None:
    rng = random.Random(SEED + 3)
    ledger = ingest.Ledger()
    for number in range(max(ROUNDS // 2, 3)):
        victim = rng.choice(("everybody in the start", "everybody", "the supervisor", "a worker, then everybody"))
        server = Server(tmp_path / "data", await_ready=False)
        try:
            if victim == "everybody in the start":
                server.is_ready_within(rng.uniform(0.0, 1.5))
                server.kill_all()
                continue
            server.wait_ready()
            countdown = Countdown(ledger, rng.randint(1, 60))
            senders = ingest.start_senders(server.port, ledger, ingest.study_number(number), SENDERS, countdown)
            countdown.wait()
            if victim == "the supervisor":
                server.process.kill()
                server.wait()
            elif victim == "everybody":
                server.kill_all()
            else:
                os.kill(rng.choice(server.worker_pids()), signal.SIGKILL)
                threading.Event().wait(rng.uniform(0.0, 0.3))
                server.kill_all()
            for sender in senders:
                sender.join()
        finally:
            if victim != "the supervisor":  # its workers end by themselves, while the next one starts
                server.kill_all()
    with running(tmp_path / "data") as server:
        ledger.verify(server.port)
        assert not ledger.refused, f"seed {SEED}"
    check(tmp_path / "data")


def test_a_second_server_on_the_same_archive_is_refused(tmp_path: Path) -> None:
    with running(tmp_path / "data", workers=1) as server:
        second = template.run(
            "engine", "serve", "--data", str(server.data), "--host", "127.0.0.1", "--dicom-port", "0", folder=ROOT
        )
        assert second.returncode == 4, second.stderr
        assert "Traceback" not in second.stderr
        with Peer(server.port) as script:
            script.associate((1, VERIFICATION, [IMPLICIT]))
            script.echo()


# The orderly end ---------------------------------------------------------------------------------


def refuses_connections(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_lets_running_associations_finish_and_takes_no_new_ones(tmp_path: Path) -> None:
    made = ingest.GeneratedInstance(ingest.study_number(0), 1)
    with running(tmp_path / "data") as server:
        with Peer(server.port) as script:
            script.associate((1, CT, [EXPLICIT]), (3, VERIFICATION, [IMPLICIT]))
            pdus = peer.message_pdus(1, peer.c_store_rq(1, CT, made.uid), made.data_set(), fragment=200)
            for pdu in pdus[:-1]:
                script.send(pdu)
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: refuses_connections(server.port), what="no new connections")
            assert server.process.poll() is None
            script.send(pdus[-1])
            assert script.expect_message().status() == 0
            script.echo(3)
            script.release()
        assert server.wait(60) == 0
    with running(tmp_path / "data") as server:
        assert ingest.get_study(server.port, made.study) == {made.uid: made.data_set()}


def test_sigterm_waits_no_longer_than_the_limit(tmp_path: Path) -> None:
    with running(tmp_path / "data", config="[limits]\ndrain_timeout_s = 0.5\n") as server, Peer(server.port) as script:
        script.associate((1, VERIFICATION, [IMPLICIT]))
        server.process.send_signal(signal.SIGTERM)
        assert script.wait_closed() == [peer.ABORT]
        assert server.wait(60) == 0


def test_a_stopped_worker_does_not_stop_the_others(tmp_path: Path) -> None:
    with running(tmp_path / "data", workers=2) as server:
        held = [Peer(server.port) for _ in range(4)]
        stopped = server.worker_pids()[0]
        try:
            for script in held:
                script.associate((1, CT, [EXPLICIT]), (3, VERIFICATION, [IMPLICIT]))
            os.kill(stopped, signal.SIGSTOP)
            for script in held:
                script.send(peer.message(3, peer.c_echo_rq()))
            served = [script for script in held if answers_within(script, 2.0)]
            assert len(served) == 2
            for number, script in enumerate(served):
                made = ingest.GeneratedInstance(ingest.study_number(0), number)
                script.send(peer.message(1, peer.c_store_rq(1, CT, made.uid), made.data_set()))
                assert script.expect_message().status() == 0
            os.kill(stopped, signal.SIGCONT)
            for script in held:
                if script not in served:
                    assert script.expect_message().status() == 0
                script.release()
        finally:
            os.kill(stopped, signal.SIGCONT)
            for script in held:
                script.close()


def answers_within(script: Peer, seconds: float) -> bool:
    """Whether an answer comes in time; it is taken then."""
    script.socket.settimeout(seconds)
    try:
        return script.expect_message().status() == 0
    except TimeoutError:
        return False
    finally:
        script.socket.settimeout(60)
