"""Backups and replicas of a whole server under load: complete, bit-exact, whatever is killed on the way.

The senders and their ledger live in the test's process. What was acknowledged before a backup began must be in the
archive that is restored from it; what a replica says it has must be there when it is promoted.
FILMROOM_BACKUP_ROUNDS sets how often things are killed, FILMROOM_BACKUP_SEED another history.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests import peer, template
from tests.peer import CT, EXPLICIT, Peer
from tests.system import ingest
from tests.system.server import ROOT, running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.rotating(2)]

ROUNDS = int(os.environ.get("FILMROOM_BACKUP_ROUNDS", "1"))
SEED = int(os.environ.get("FILMROOM_BACKUP_SEED", "20260102"))

SENDERS = 3

PAUSE_S = 0.1
"""Of a sender after each answer: load enough to be interrupted; more would only be compared for longer."""

SMALL_SEGMENTS = "[storage]\nsegment_bytes = 4194304\n[limits]\nstream_threshold_bytes = 1048576\n"


def filmroom(*arguments: object, expect: int = 0) -> str:
    """Runs a command to its end; its standard output."""
    done = template.run("engine", *map(str, arguments), folder=ROOT)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def replication_status(data: Path) -> dict[str, Any]:
    """What `replicate --status` says; it exits with 1 while nobody ships."""
    done = template.run("engine", "replicate", "--status", "--data", str(data), "--json", folder=ROOT)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    status: dict[str, Any] = json.loads(done.stdout)
    is_waiting = status["state"] in ("behind, not running", "waiting") or bool(status["findings"])
    assert done.returncode == is_waiting, status
    return status


def started(*arguments: object) -> subprocess.Popen[str]:
    """A command that goes on."""
    return subprocess.Popen(
        [sys.executable, "-m", "engine", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(command: subprocess.Popen[str]) -> None:
    """Asks a command to end, which it does in good order; what it wrote is read, so that it never waits for us."""
    command.send_signal(signal.SIGTERM)
    output = command.communicate(timeout=60)
    assert command.returncode == 0, output


def senders_of(port: int, ledger: ingest.Ledger, study: int = 0, count: int = SENDERS) -> list[ingest.Sender]:
    """Senders that go on until they are stopped."""

    def pause(count: int) -> None:
        threading.Event().wait(PAUSE_S)

    return ingest.start_senders(port, ledger, ingest.study_number(study), count, pause)


def stop(senders: list[ingest.Sender]) -> None:
    for sender in senders:
        sender.stop()
    for sender in senders:
        sender.join()
        assert not sender.lost


def acknowledged(ledger: ingest.Ledger) -> ingest.Ledger:
    """What has been acknowledged by now, as a ledger of its own; whatever was sent may be there too."""
    return ingest.Ledger(ledger.sent, dict(ledger.acknowledged), set(ledger.studies))


def wait_for_more(ledger: ingest.Ledger, count: int) -> None:
    goal = len(ledger.acknowledged) + count
    wait_for(lambda: len(ledger.acknowledged) >= goal, 60, "more instances")


def verify(data: Path, ledger: ingest.Ledger) -> None:
    """By a server of its own, and by `check`."""
    with running(data, workers=1) as server:
        ledger.verify(server.port)
    filmroom("check", "--payloads", "--data", data)


@pytest.mark.parametrize("durability", ["durable", "write-behind"][-ROUNDS:])
def test_everything_acknowledged_before_a_backup_is_in_the_restored_archive(tmp_path: Path, durability: str) -> None:
    rng = random.Random(SEED)
    ledger = ingest.Ledger()
    data, folder = tmp_path / "data", tmp_path / "backup"
    config = f'durability = "{durability}"\n{SMALL_SEGMENTS}'
    with running(data, config=config) as server:
        senders = senders_of(server.port, ledger)
        wait_for_more(ledger, 40)
        first = acknowledged(ledger)
        report = json.loads(filmroom("backup", folder, "--data", data, "--json"))
        assert report["findings"] == []
        moment = report["manifest"]
        for _ in range(ROUNDS):
            wait_for_more(ledger, 20)
            killed = started("backup", folder, "--data", data, "--rate", 2_000_000)
            threading.Event().wait(rng.uniform(0.2, 1.2))
            killed.send_signal(signal.SIGKILL)
            killed.communicate()
        second = acknowledged(ledger)
        filmroom("backup", folder, "--data", data)
        wait_for_more(ledger, 10)
        stop(senders)
    filmroom("verify-backup", folder)
    filmroom("restore", folder, "--data", tmp_path / "newest")
    verify(tmp_path / "newest", second)
    stamp = f"{moment[:4]}-{moment[4:6]}-{moment[6:11]}:{moment[11:13]}:{moment[13:22]}Z"
    filmroom("restore", folder, "--at", stamp, "--data", tmp_path / "first")
    verify(tmp_path / "first", first)
    filmroom("restore", folder, "--data", tmp_path / "first", expect=1)


def test_a_replica_catches_up_is_read_meanwhile_and_takes_over(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    ledger = ingest.Ledger()
    data, target = tmp_path / "data", tmp_path / "replica"
    with running(data, config=SMALL_SEGMENTS) as server:
        senders = senders_of(server.port, ledger)
        wait_for_more(ledger, 20)
        filmroom("replicate", target, "--data", data, "--once")
        with running(target, workers=1) as reader:
            for _ in range(ROUNDS):
                replication = started("replicate", target, "--data", data, "--interval", 0.05, "--json")
                wait_for_more(ledger, 20)
                threading.Event().wait(rng.uniform(0.1, 0.5))
                replication.send_signal(signal.SIGKILL)
                replication.communicate()
            replication = started("replicate", target, "--data", data, "--interval", 0.05)
            wait_for_more(ledger, 20)
            before = acknowledged(ledger)
            refuse_a_store(reader.port)
            uids = set(before.acknowledged)
            wait_for(lambda: uids <= ingest.find_instances(reader.port, ingest.study_number(0)), what="the replica")
            before.verify(reader.port)

            def keeps_up() -> bool:
                status = replication_status(data)
                return bool(status["running"] and status["lag_s"] < 30)

            wait_for(keeps_up, what="the replication")
            filmroom("promote", "--data", target, expect=4)
        stop(senders)
        filmroom("promote", "--data", target, expect=4)
        end(replication)
        filmroom("replicate", target, "--data", data, "--once")
    filmroom("promote", "--data", target)
    with running(target, workers=1) as server:
        ledger.verify(server.port)
        ingest_more(server.port, ledger)
        ledger.verify(server.port)
    filmroom("check", "--payloads", "--data", target)
    filmroom("replicate", target, "--data", data, "--once", expect=4)


def refuse_a_store(port: int) -> None:
    """C-STORE to a replica: not authorized, and nothing is there afterwards."""
    made = ingest.GeneratedInstance(ingest.study_number(7), 1)
    with Peer(port) as script:
        script.associate((1, CT, [EXPLICIT]))
        script.send(peer.message(1, peer.c_store_rq(1, CT, made.uid), made.data_set()))
        assert script.expect_message().status() == 0x0124
        script.release()
    assert ingest.find_instances(port, ingest.study_number(7)) == set()


def ingest_more(port: int, ledger: ingest.Ledger) -> None:
    senders = senders_of(port, ledger, study=1, count=1)
    wait_for_more(ledger, 5)
    stop(senders)


def test_a_second_filmroom_takes_the_log_over_a_connection_and_survives_its_loss(tmp_path: Path) -> None:
    ledger = ingest.Ledger()
    data, target = tmp_path / "data", tmp_path / "replica"
    source, receiver = _certificates(tmp_path / "tls")
    with running(data) as server:
        senders = senders_of(server.port, ledger)
        listener, port = _listening(target, receiver, 0)
        where = f"tls://127.0.0.1:{port}"
        replication = started("replicate", where, "--config", source, "--data", data, "--interval", 0.05)
        wait_for_more(ledger, 30)
        for _ in range(ROUNDS):
            listener.send_signal(signal.SIGKILL)
            listener.communicate()
            wait_for_more(ledger, 20)
            listener, _ = _listening(target, receiver, port)
        stop(senders)

        def caught_up() -> bool:
            status = replication_status(data)
            return bool(status["state"] == "caught up" and status["lag_s"] < 2)

        wait_for(caught_up, 60, "catching up")
        end(replication)
        filmroom("replicate", where, "--config", source, "--data", data, "--once")
        end(listener)
    verify(target, ledger)


def _certificates(folder: Path) -> tuple[Path, Path]:
    """The configuration of a source and that of a replica."""
    filmroom("cert", "authority", folder)
    filmroom("cert", "issue", folder, "source", "source.hosp")
    filmroom("cert", "issue", folder, "replica", "127.0.0.1")
    files = [folder / "source.toml", folder / "replica.toml"]
    for file in files:
        file.write_text(
            f"[tls]\ncertificates = ['{file.stem}.pem']\nkeys = ['{file.stem}.key']\n"
            "trust = ['ca.pem']\ncrls = ['ca.crl']\n"
        )
    return files[0], files[1]


def _listening(target: Path, config: Path, port: int) -> tuple[subprocess.Popen[str], int]:
    where, name = f"127.0.0.1:{port}", "san:source.hosp"
    listener = started("replicate", "--listen", where, "--peer-certificate", name, "--config", config, "--data", target)
    assert listener.stderr is not None
    line = listener.stderr.readline()
    assert "listening on" in line, line + listener.stderr.read()
    threading.Thread(target=listener.stderr.read, daemon=True).start()
    return listener, int(line.split("127.0.0.1:")[1].split(",")[0])
