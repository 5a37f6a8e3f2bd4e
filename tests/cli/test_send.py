"""`filmroom send` of what is stored: chosen as on find, sent as a C-MOVE would, counted, retried, resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.cli import exit_codes
from engine.net.connection import Connection
from engine.services import steady, storage_scu, stored_scu
from engine.services.steady import SteadySender
from engine.services.storage_scu import InstanceSender
from tests import samples
from tests.cli.commands import run
from tests.sinks import NATIVE, sink

ROOT = samples.ROOT
BOTH = {samples.CT: NATIVE, samples.MR: NATIVE}

pytestmark = pytest.mark.usefixtures("filled")


def named(peer: Any) -> str:
    return f"{peer.aet}@{peer.host}:{peer.port}"


def sent(capsys: pytest.CaptureFixture[str], peer: Any, *arguments: str) -> tuple[int, dict[str, Any], str]:
    code, out, err = run(capsys, "send", named(peer), *arguments, "--json")
    return code, json.loads(out), err


def test_what_is_named_or_matches_is_sent_as_it_is_stored(capsys: pytest.CaptureFixture[str]) -> None:
    with sink(BOTH) as (peer, received):
        code, report, err = sent(capsys, peer, "--study", f"{ROOT}.1", "PatientName=ROE*")
    assert (code, err, report["sent"], report["failed"]) == (exit_codes.OK, "", 4, [])
    expected = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (3, 1, 1)]
    assert set(received) == {str(samples.instance(*which).SOPInstanceUID) for which in expected}
    assert samples.encoded(samples.instance(1, 1, 2)) in {data for _, data in received.values()}


@pytest.mark.parametrize(
    ("arguments", "count"),
    [(("--series", f"{ROOT}.1.1"), 2), (("--instance", str(samples.instance(2, 1, 1).SOPInstanceUID)), 1)],
    ids=["series", "instance"],
)
def test_a_series_or_an_instance_is_sent_alone(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], count: int
) -> None:
    with sink(BOTH) as (peer, received):
        code, report, _ = sent(capsys, peer, *arguments)
    assert (code, report["sent"], len(received)) == (exit_codes.OK, count, count)


def test_each_uid_that_is_not_stored_is_named_and_the_rest_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    with sink(BOTH) as (peer, received):
        code, report, err = sent(capsys, peer, "--study", f"{ROOT}.2", "--study", "1.2.3", "--instance", "1.2.4")
    assert (code, report["sent"], len(received)) == (exit_codes.FAILED, 1, 1)
    said = [json.loads(line)["warning"] for line in err.splitlines()]
    assert said == ["no study 1.2.3 is stored", "no instance 1.2.4 is stored"]


def test_what_the_peer_refuses_is_named_and_sent_again(capsys: pytest.CaptureFixture[str]) -> None:
    bad = str(samples.instance(1, 1, 2).SOPInstanceUID)
    asked: list[str] = []

    def answer(event: Any) -> int:
        asked.append(event.request.AffectedSOPInstanceUID)
        return 0xA700 if asked[-1] == bad else 0xB000

    with sink(BOTH, answer=answer) as (peer, _):
        code, report, _ = sent(capsys, peer, "--study", f"{ROOT}.1", "--retry", "2")
    assert (code, report["sent"], report["warnings"]) == (exit_codes.FAILED, 2, 2)
    assert report["failed"] == [{"sop_instance_uid": bad, "reason": "refused with status A700"}]
    assert asked.count(bad) == 3
    assert len(asked) == 5


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set by a peer that will not answer: then the time for an answer is over. Cleared when the peer is given up.

    Without it the command waits for any answer as long as it takes."""
    event, give_up = threading.Event(), Connection.give_up
    time_limit = property(lambda sender: 0.0 if event.is_set() else 600.0, lambda sender, seconds: None)

    def note(connection: Connection, reason: str) -> None:
        event.clear()
        give_up(connection, reason)

    for sender in (InstanceSender, SteadySender):
        monkeypatch.setattr(sender, "_timeout_s", time_limit, raising=False)
    monkeypatch.setattr(Connection, "give_up", note)
    monkeypatch.setattr(storage_scu, "PROGRESS_S", 0.05)
    monkeypatch.setattr(steady, "TICK_S", 0.05)
    return event


@pytest.mark.parametrize("silent_from", [1, 2], ids=["the first", "one in the middle"])
def test_an_instance_that_the_peer_never_answers_costs_that_one(
    capsys: pytest.CaptureFixture[str], silent: threading.Event, silent_from: int
) -> None:
    ended, asked = threading.Event(), list[str]()

    def answer(event: Any) -> int:
        asked.append(event.request.AffectedSOPInstanceUID)
        if len(asked) == silent_from:
            silent.set()
            ended.wait(60)
        return 0

    with sink(BOTH, answer=answer) as (peer, _):
        code, report, _ = sent(capsys, peer, "PatientID=*", "--retry", "0")
        ended.set()
    silent = asked[silent_from - 1]
    assert (code, report["sent"], [each["sop_instance_uid"] for each in report["failed"]]) == (1, 4, [silent])
    assert "did not answer" in report["failed"][0]["reason"]
    assert len(asked) == 5


def test_a_peer_that_answers_nothing_is_given_up_after_some_instances(
    capsys: pytest.CaptureFixture[str], silent: threading.Event
) -> None:
    ended, asked = threading.Event(), list[str]()

    def answer(event: Any) -> int:
        asked.append(event.request.AffectedSOPInstanceUID)
        silent.set()
        ended.wait(60)
        return 0

    with sink(BOTH, answer=answer) as (peer, _):
        code, out, err = run(capsys, "send", named(peer), "PatientID=*", "--retry", "0")
        ended.set()
    assert (code, out) == (exit_codes.PEER, "")
    assert "given up" in err
    assert len(asked) == stored_scu.TIMEOUTS_MAX


def test_a_peer_that_takes_another_class_only_fails_that_one(capsys: pytest.CaptureFixture[str]) -> None:
    with sink({samples.CT: NATIVE}) as (peer, received):
        code, report, _ = sent(capsys, peer, "--study", f"{ROOT}.1", "--retry", "0")
    assert (code, report["sent"], len(received)) == (exit_codes.FAILED, 2, 2)
    assert "no presentation context" in report["failed"][0]["reason"]


def test_files_are_not_sent_to_a_peer_that_has_a_url_only(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "peers.toml").write_text('[[peer]]\naet = "WEB"\nurl = "http://127.0.0.1:9"\n')
    file = tmp_path / "ct.dcm"
    file.write_bytes(samples.part10(samples.instance(1, 1, 1)))
    code, _, err = run(capsys, "send", "WEB", str(file), "--config", str(tmp_path / "peers.toml"))
    assert code == exit_codes.PEER and "WEB has a url only" in err


def test_a_peer_that_is_not_there_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with sink(BOTH) as (peer, _):
        pass
    code, out, err = run(capsys, "send", named(peer), "PatientID=P2")
    assert (code, out) == (exit_codes.PEER, "")
    assert "cannot be reached" in err


def test_files_and_keys_are_told_apart_by_whether_a_file_is_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "PatientID=P2").write_bytes(min((tmp_path / "files").rglob("*.dcm")).read_bytes())
    with sink(BOTH) as (peer, received):
        assert sent(capsys, peer, "PatientID=P2")[1]["sent"] == 1
        (tmp_path / "PatientID=P2").unlink()
        assert sent(capsys, peer, "PatientID=P2")[1]["bytes"] > 0
        assert len(received) == 2
        code, _, err = run(capsys, "send", named(peer), "files", "PatientID=P2")
        assert code == exit_codes.USAGE
        assert "not both" in err
        assert run(capsys, "send", named(peer))[0] == exit_codes.USAGE
        assert run(capsys, "send", named(peer), "PatinetID=P2")[0] == exit_codes.USAGE


def test_an_interrupted_send_says_how_far_it_was_and_goes_on_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    began: list[str] = []
    command: list[subprocess.Popen[str]] = []
    has_started = threading.Event()

    def answer(event: Any) -> int:
        began.append(event.request.AffectedSOPInstanceUID)
        if len(began) == 2:
            assert has_started.wait(60)
            command[0].send_signal(signal.SIGINT)
            command[0].wait()
        return 0

    with sink(BOTH, answer=answer) as (peer, received):
        line = [sys.executable, "-m", "engine", "send", named(peer), "PatientID=*", "--resume", "left"]
        command.append(subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=dict(os.environ)))
        has_started.set()
        _, err = command[0].communicate(timeout=60)
        assert command[0].returncode == exit_codes.INTERRUPTED
        assert "sent 1 of 5 instances to SINK" in err
        left = (tmp_path / "left").read_text().split()
        assert len(left) == 4
        assert began[0] not in left
        received.clear()
        code, report, _ = sent(capsys, peer, "PatientID=*", "--resume", "left")
        assert (code, report["sent"], set(received)) == (exit_codes.OK, 4, set(left))
    assert not (tmp_path / "left").exists()
