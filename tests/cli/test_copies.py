"""The commands about backups and replicas: what they answer, and with which exit code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.archive.copies import lag
from engine.cli import exit_codes
from tests import samples
from tests.cli.commands import run


@pytest.fixture(autouse=True)
def _archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with an archive of two instances in `filmroom-data`."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FILMROOM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FILMROOM_LIMITS_DISK_RESERVE_BYTES", "0")
    samples.write(tmp_path / "files", samples.instance(1, 1, 1), samples.instance(1, 1, 2))
    assert run(capsys, "import", "files")[0] == exit_codes.OK


def test_a_backup_goes_out_comes_back_and_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "backup", "safe", "--json")
    assert code == exit_codes.OK
    first = json.loads(out)
    assert first["segments"] == 1 and first["copied_bytes"] == first["total_bytes"]
    assert json.loads(run(capsys, "backup", "safe", "--keep", "1", "--json")[1])["removed_manifests"] == 1
    code, out, _ = run(capsys, "verify-backup", "safe", "--json")
    assert code == exit_codes.OK
    assert json.loads(out)["counts"]["records"] == 2
    code, out, _ = run(capsys, "restore", "safe", "--data", "new", "--json")
    assert code == exit_codes.OK
    assert json.loads(out)["instances"] == 2
    assert run(capsys, "check", "--payloads", "--data", "new")[0] == exit_codes.OK


def test_the_states_of_a_backup_are_listed_and_a_date_means_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert run(capsys, "backup", "safe")[0] == exit_codes.OK
    code, out, _ = run(capsys, "backup", "safe", "--list", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, [row["lineage"] for row in rows]) == (exit_codes.OK, ["original"] * 2)
    today = rows[-1]["created"][:10]
    code, out, _ = run(capsys, "restore", "safe", "--at", today, "--data", "new", "--json")
    assert (code, json.loads(out)["created"]) == (exit_codes.OK, rows[-1]["created"])
    code, _, err = run(capsys, "restore", "safe", "--at", "2001-01-01", "--data", "old")
    assert code == exit_codes.FAILED and rows[0]["created"][:19] in err
    assert run(capsys, "backup", "files", "--list")[0] == exit_codes.FAILED


def test_a_restored_copy_is_refused_in_the_folder_of_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "backup", "safe")
    run(capsys, "restore", "safe", "--data", "test")
    code, _, err = run(capsys, "backup", "safe", "--data", "test", "--keep", "1")
    assert code == exit_codes.FAILED and "another history" in err and "--join" in err
    assert run(capsys, "backup", "safe", "--data", "test", "--join")[0] == exit_codes.OK
    code, _, err = run(capsys, "restore", "safe", "--data", "new")
    assert code == exit_codes.FAILED and "--lineage" in err
    assert run(capsys, "restore", "safe", "--data", "new", "--lineage", "original")[0] == exit_codes.OK
    code, _, err = run(capsys, "verify-backup", "safe", "--lineage", "nonsense")
    assert code == exit_codes.FAILED and "0 histories that begin with 'nonsense'" in err


def test_a_pipe_in_the_place_of_a_backup_s_file_holds_nobody_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pipes" / "segments").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipes" / "backup.json")
    for arguments in (["backup", "pipes"], ["restore", "pipes", "--data", "new"], ["verify-backup", "pipes"]):
        code, _, err = run(capsys, *arguments)
        assert code == exit_codes.FAILED and "backup.json cannot be used" in err
    run(capsys, "backup", "safe")
    (copy,) = (tmp_path / "safe" / "segments").iterdir()
    copy.unlink()
    os.mkfifo(copy)
    assert run(capsys, "verify-backup", "safe")[0] == exit_codes.FAILED
    assert run(capsys, "restore", "safe", "--data", "other")[0] == exit_codes.FAILED


def test_damage_in_a_backup_is_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "backup", "safe")
    (copy,) = (tmp_path / "safe" / "segments").iterdir()
    content = bytearray(copy.read_bytes())
    content[5000] ^= 1
    copy.write_bytes(content)
    code, _, err = run(capsys, "verify-backup", "safe")
    assert code == exit_codes.FAILED and copy.name in err
    code, _, err = run(capsys, "restore", "safe", "--data", "new")
    assert code == exit_codes.FAILED and "--salvage" in err
    code, out, _ = run(capsys, "find", "StudyInstanceUID=*", "--data", "new")
    assert (code, out) == (exit_codes.UNAVAILABLE, "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["backup", "filmroom-data/x"], exit_codes.FAILED, "data directory"),
        (["backup", "safe", "--keep", "0"], exit_codes.USAGE, "keep"),
        (["restore", "safe", "--at", "yesterday"], exit_codes.USAGE, "is no time"),
        (["restore", "nowhere", "--data", "new"], exit_codes.FAILED, "holds no backup"),
        (["verify-backup", "nowhere"], exit_codes.FAILED, "holds no backup"),
        (["replicate"], exit_codes.USAGE, "give DEST"),
        (["replicate", "--listen", "1234", "--peer-certificate", "san:s"], exit_codes.USAGE, "HOST:PORT"),
        (["replicate", "--listen", "127.0.0.1:0"], exit_codes.USAGE, "--peer-certificate NAME"),
        (["replicate", "--listen", "127.0.0.1:0", "--peer-certificate", "x"], exit_codes.USAGE, "san:HOST"),
        (
            ["replicate", "--listen", "127.0.0.1:0", "--peer-certificate", "san:s"],
            exit_codes.UNAVAILABLE,
            "filmroom cert",
        ),
        (["replicate", "--listen", "127.0.0.1:0", "--secret", "s"], exit_codes.USAGE, "was not encrypted"),
        (["replicate", "tcp://127.0.0.1:1", "--secret", "s"], exit_codes.USAGE, "replicate tls://"),
        (["replicate", "tls://127.0.0.1:1", "--once"], exit_codes.UNAVAILABLE, "filmroom cert"),
        (["replicate", "ftp://127.0.0.1", "--once"], exit_codes.UNAVAILABLE, "neither a folder"),
        (["replicate", "filmroom-data/x", "--once"], exit_codes.UNAVAILABLE, "data directory"),
        (["replicate", "--status"], exit_codes.UNAVAILABLE, "there is no replication"),
        (["promote"], exit_codes.UNAVAILABLE, "no replica"),
        (["backup", "safe", "--data", "nothing"], exit_codes.UNAVAILABLE, "no archive"),
    ],
)
def test_mistakes_are_named(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str) -> None:
    found, _, err = run(capsys, *arguments)
    assert (found, words in err) == (code, True), err


def test_a_replica_is_made_shown_read_and_promoted(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "replicate", "copy", "--once", "--json")
    assert code == exit_codes.OK
    assert json.loads(out.splitlines()[-1])["state"] == "caught up"
    for data in ("filmroom-data", "copy"):
        row = json.loads(run(capsys, "replicate", "--status", "--data", data, "--json")[1])
        assert (row["destination"], row["lag_bytes"], row["segments"]) == ("copy", 0, 1)
    assert json.loads(run(capsys, "stats", "--data", "copy", "--json")[1])["archive"]["instances"] == 2
    code, out, _ = run(capsys, "export", "out.zip", "StudyInstanceUID=*", "--data", "copy", "--json")
    assert (code, json.loads(out)["written"]) == (exit_codes.OK, 2)
    code, _, err = run(capsys, "delete", "StudyInstanceUID=*", "--data", "copy", "--reason", "no", "--yes")
    assert code == exit_codes.UNAVAILABLE and "is a replica" in err
    code, _, err = run(capsys, "import", "files", "--data", "copy")
    assert code == exit_codes.UNAVAILABLE and "filmroom promote" in err
    assert run(capsys, "promote", "--data", "copy")[0] == exit_codes.OK
    samples.write(Path("more"), samples.instance(2, 1, 1))
    assert run(capsys, "import", "more", "--data", "copy")[0] == exit_codes.OK
    assert run(capsys, "check", "--payloads", "--data", "copy")[0] == exit_codes.OK


def test_without_a_destination_it_goes_where_the_configuration_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FILMROOM_SECOND_COPY_REPLICA", "copy")
    code, out, _ = run(capsys, "replicate", "--once", "--json")
    assert (code, json.loads(out.splitlines()[-1])["destination"]) == (exit_codes.OK, "copy")


def test_the_lag_is_that_of_now_whether_anybody_replicates_or_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag, "is_alive", lambda status: False)  # it was in this process
    run(capsys, "replicate", "copy", "--once")
    code, out, _ = run(capsys, "replicate", "--status", "--json")
    row = json.loads(out)
    assert (code, row["state"], row["running"], row["lag_bytes"]) == (0, "caught up, not running", False, 0)
    samples.write(Path("more"), *(samples.instance(2, 1, number) for number in range(3)))
    run(capsys, "import", "more")
    code, out, _ = run(capsys, "replicate", "--status", "--json")
    row = json.loads(out)
    assert (code, row["state"]) == (exit_codes.FAILED, "behind, not running")
    _, out, _ = run(capsys, "replicate", "copy", "--once", "--json")
    assert row["lag_bytes"] == json.loads(out.splitlines()[-1])["shipped_bytes"] > 0
    assert run(capsys, "replicate", "--status")[0] == exit_codes.OK
    (path,) = Path("filmroom-data").glob("replication-*.json")
    kept = json.loads(path.read_bytes())
    path.write_text(json.dumps({key: value for key, value in kept.items() if key not in ("seen", "process")}))
    code, out, _ = run(capsys, "replicate", "--status", "--json")  # as older versions wrote it
    assert (code, json.loads(out)["lag_bytes"], json.loads(out)["state"]) == (1, None, "behind, not running")


def test_a_process_is_told_from_another_one_of_its_number() -> None:
    pid, started = lag.process()
    assert lag.is_alive({"process": [pid, started]}) and lag.is_alive({"pid": pid})
    assert not lag.is_alive({"process": [pid, started - 1], "pid": pid})
    assert not lag.is_alive({"process": [2**22 + 1, 1]}) and not lag.is_alive({})


def test_a_replica_that_was_there_is_not_begun_anew_at_an_empty_mount_point(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "disk").mkdir()
    assert run(capsys, "replicate", "disk", "--once")[0] == exit_codes.OK
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    (tmp_path / "disk").mkdir()
    code, _, err = run(capsys, "replicate", "disk", "--once")
    assert code == exit_codes.UNAVAILABLE and "is the disk mounted" in err
    assert list((tmp_path / "disk").iterdir()) == []
    assert run(capsys, "replicate", "disk", "--once", "--new")[0] == exit_codes.OK
