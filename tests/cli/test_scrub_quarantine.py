"""`filmroom scrub` and `filmroom quarantine` against a real archive that is stopped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from engine import cli
from engine.cli import exit_codes
from tests.archive import kept


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run([*arguments, "--data", "data"])
    out, err = capsys.readouterr()
    return code, out, err


def facts(out: str) -> dict[str, str]:
    return dict(line.split("\t") for line in out.splitlines())


def test_a_scrub_that_finds_nothing_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    kept.filled(tmp_path / "data", 5)
    code, out, err = run(capsys, "scrub", "run")
    size = sum(path.stat().st_size for path in (tmp_path / "data" / "segments").iterdir())
    assert (code, err, facts(out)) == (exit_codes.OK, "", {"bytes": str(size), "damaged": "0", "new": "0"})
    assert run(capsys, "scrub", "findings")[0] == exit_codes.OK
    code, out, _ = run(capsys, "scrub", "status")
    assert code == exit_codes.OK
    assert facts(out)["last pass found damaged"] == "0"
    code, out, _ = run(capsys, "scrub", "status", "--json")
    assert json.loads(out)["last_pass"]["read_bytes"] == size


def test_a_scrub_that_finds_damage_names_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    payloads = kept.filled(data, 5)
    with kept.opened(data) as archive:
        place = kept.current(archive, kept.uid_of(3)).position
    capsys.readouterr()
    kept.turn_byte(data, place.segment_id, place.payload_offset)
    code, out, err = run(capsys, "scrub", "run", "--rate", "100000000")
    assert code == exit_codes.FAILED
    assert kept.uid_of(3) in err
    assert facts(out)["new"] == "1"
    code, out, _ = run(capsys, "scrub", "findings", "--json")
    row = json.loads(out)
    assert code == exit_codes.FAILED
    assert (row["sop_instance_uid"], row["offset"]) == (kept.uid_of(3), place.offset)
    code, _, err = run(capsys, "check")
    assert (code, kept.uid_of(3) in err) == (exit_codes.FAILED, True)
    with kept.opened(data) as archive:
        kept.store(archive, payloads.values())
    capsys.readouterr()
    assert run(capsys, "scrub", "run")[0] == exit_codes.OK
    assert run(capsys, "scrub", "findings")[0] == exit_codes.OK
    assert run(capsys, "check", "--payloads")[0] == exit_codes.OK


def test_quarantine_is_listed_exported_readmitted_and_dropped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = kept.data_set(1), kept.data_set(1, pixels=600)
    with kept.opened(tmp_path / "data") as archive:
        kept.store(archive, [first, second])
    capsys.readouterr()
    code, out, _ = run(capsys, "quarantine", "list")
    head, line = out.splitlines()
    row = dict(zip(head.split("\t"), line.split("\t"), strict=True))
    assert code == exit_codes.OK
    assert (row["kind"], row["sop_instance_uid"], row["bytes"]) == ("version", kept.uid_of(1), str(len(second)))
    assert not re.search("Doe|Jane", out)
    code, out, _ = run(capsys, "quarantine", "export", row["id"], "out", "--json")
    assert code == exit_codes.OK
    assert Path(json.loads(out)["path"]).read_bytes().endswith(second)
    assert run(capsys, "quarantine", "readmit", row["id"])[:2] == (exit_codes.OK, "outcome\treplaced\n")
    code, _, err = run(capsys, "quarantine", "readmit", row["id"])
    assert (code, "nothing in quarantine has this id" in err) == (exit_codes.USAGE, True)
    row = json.loads(run(capsys, "quarantine", "list", "--json")[1])
    assert row["bytes"] == len(first)
    assert run(capsys, "quarantine", "drop", row["id"], "--reason", "seen")[0] == exit_codes.OK
    assert run(capsys, "quarantine", "list", "--json")[1] == ""
    assert run(capsys, "check", "--payloads")[0] == exit_codes.OK


def test_what_is_on_hold_cannot_be_dropped(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with kept.opened(tmp_path / "data") as archive:
        kept.store(archive, [kept.data_set(1), kept.data_set(1, pixels=600)])
        study = kept.current(archive, kept.uid_of(1)).study_instance_uid
        archive.set_holds([study], by="test", reason="case")
    capsys.readouterr()
    row = json.loads(run(capsys, "quarantine", "list", "--json")[1])
    code, _, err = run(capsys, "quarantine", "drop", row["id"])
    assert code == exit_codes.FAILED
    assert "legal hold" in err


def test_a_loss_is_a_finding_until_it_is_acknowledged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    kept.filled(data, 5)
    segment = data / "segments" / f"{0:016x}.seg"
    segment.write_bytes(segment.read_bytes()[:6000])
    assert run(capsys, "rebuild-index")[0] == exit_codes.FAILED
    for command in (("scrub", "findings"), ("check",)):
        code, out, err = run(capsys, *command)
        assert code == exit_codes.FAILED
        assert kept.uid_of(4) in out + err
    assert run(capsys, "scrub", "acknowledge")[0] == exit_codes.USAGE
    assert run(capsys, "scrub", "acknowledge", "no segment")[0] == exit_codes.USAGE
    assert run(capsys, "scrub", "acknowledge", f"{7:016x}")[0] == exit_codes.FAILED
    code, out, _ = run(capsys, "scrub", "acknowledge", f"{0:016x}", "--json")
    assert code == exit_codes.OK
    assert {json.loads(line)["lost"] for line in out.splitlines()} == {True}
    assert run(capsys, "scrub", "findings")[0] == exit_codes.OK
    assert run(capsys, "scrub", "acknowledge", "--all")[0] == exit_codes.FAILED
