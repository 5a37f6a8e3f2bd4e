"""`filmroom pull`: what it lists, brings, says and with which exit code; the rest is in tests/services/test_pull."""

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
from pydicom.dataset import Dataset

from engine.audit.search import Condition, search
from engine.cli import exit_codes
from engine.runtime.audit_trail import AuditTrail
from tests import foreign_archive, samples
from tests.cli.commands import run
from tests.foreign_archive import Archive
from tests.system.server import wait_for

ROOT = samples.ROOT


def named(peer: Any) -> str:
    return f"{peer.aet}@{peer.host}:{peer.port}"


def some(count: int = 3) -> list[Dataset]:
    return [samples.instance(1, 1, number) for number in range(1, count + 1)]


def test_a_dry_run_lists_what_would_come(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    samples.write(tmp_path / "files", samples.instance(1, 1, 1))
    assert run(capsys, "import", "files")[0] == exit_codes.OK
    archive = Archive([*some(), samples.instance(2, 1, 1)])
    with foreign_archive.serving(archive) as peer:
        code, out, err = run(capsys, "pull", named(peer), "PatientID=*", "--dry-run", "--json")
        wait_for(lambda: archive.released_count == 1, what="the association released, not cut")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (exit_codes.OK, "")
    assert [(row["instances"], row["here"], row["missing"]) for row in rows] == [(3, 1, 2), (1, 0, 1)]
    assert archive.levels_of_gets() == []


def test_a_pull_is_found_in_a_new_archive(capsys: pytest.CaptureFixture[str]) -> None:
    with foreign_archive.serving(Archive(some())) as peer:
        code, out, err = run(capsys, "pull", named(peer), "--study", f"{ROOT}.1", "--json")
    assert (code, err, json.loads(out)["stored"]) == (exit_codes.OK, "", 3)
    code, out, _ = run(capsys, "find", "-l", "instance", "--json")
    assert len(out.splitlines()) == 3


def test_a_pull_ends_when_its_audit_is_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_now = AuditTrail._write_received

    def run_late(trail: AuditTrail, *arguments: Any) -> None:
        threading.Event().wait(0.3)
        run_now(trail, *arguments)

    monkeypatch.setattr(AuditTrail, "_write_received", run_late)
    with foreign_archive.serving(Archive(some())) as peer:
        code, _, err = run(capsys, "pull", named(peer), "--study", f"{ROOT}.1", "--json")
    assert (code, err) == (exit_codes.OK, "")
    assert search(Path("filmroom-data"), Condition(kind="received"), 10).events


def test_whoever_pulls_may_pull_from_a_peer_that_may_not_store(capsys: pytest.CaptureFixture[str]) -> None:
    """The person at the command line has asked for what comes."""
    Path("filmroom.toml").write_text("accept_unknown_peers = false\n")
    with foreign_archive.serving(Archive(some())) as peer:
        code, out, err = run(capsys, "pull", named(peer), "--study", f"{ROOT}.1", "--json")
    assert (code, err, json.loads(out)["stored"]) == (exit_codes.OK, "", 3)


def test_what_is_missing_there_or_does_not_come_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    lost = str(some()[1].SOPInstanceUID)

    def sent(event: Any, chosen: list[Dataset]) -> list[Dataset]:
        return [ds for ds in chosen if str(ds.SOPInstanceUID) != lost]

    with foreign_archive.serving(Archive(some(), sent=sent)) as peer:
        code, out, _ = run(capsys, "pull", named(peer), "PatientID=*", "--json")
        assert code == exit_codes.FAILED
        assert [failed["sop_instance_uid"] for failed in json.loads(out)["failed"]] == [lost]
        code, _, err = run(capsys, "pull", named(peer), "--study", "1.2.3", "--json")
        assert code == exit_codes.FAILED
        assert "OTHER has no study 1.2.3" in err


def test_mistakes_of_the_command_line_are_said_before_anything_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("--study", "abc"), ("PatinetID=1",), ("--since", "yesterday")):
        assert run(capsys, "pull", "P@127.0.0.1:1", *arguments)[0] == exit_codes.USAGE
    code, _, err = run(capsys, "pull", "P@127.0.0.1:1", "PatientID=1")
    assert code == exit_codes.PEER
    assert "cannot be reached" in err
    code, _, err = run(capsys, "pull", "P@127.0.0.1:1", "PatientID=1", "--move")
    assert code == exit_codes.UNAVAILABLE
    assert "no server is running" in err


def test_an_interrupted_pull_says_how_far_it_was_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    command: list[subprocess.Popen[str]] = []

    def sent(event: Any, chosen: list[Dataset]) -> list[Dataset]:
        if str(chosen[0].SeriesInstanceUID).endswith(".2"):
            command[0].send_signal(signal.SIGINT)
            command[0].wait()
        return chosen

    archive = Archive([*some(), samples.instance(1, 2, 1)], sent=sent)
    with foreign_archive.serving(archive) as peer:
        line = [sys.executable, "-m", "engine", "pull", named(peer), "PatientID=*"]
        command.append(subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=dict(os.environ)))
        _, err = command[0].communicate(timeout=60)
        assert command[0].returncode == exit_codes.INTERRUPTED
        assert "3 instances arrived" in err
        archive.sent = lambda event, chosen: chosen
        code, out, _ = run(capsys, "pull", named(peer), "PatientID=*", "--json")
        assert (code, json.loads(out)["stored"], json.loads(out)["already_here"]) == (exit_codes.OK, 1, 3)
