"""`filmroom scrub` and `filmroom quarantine` against a real archive that is stopped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from engine import cli
from engine.archive.ingest.request import ReceivedInstance
from engine.cli import exit_codes
from engine.dicom import convert, transfer_syntax
from engine.storage.record import crc32c
from tests import samples
from tests.actors import actor
from tests.archive import kept

EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"


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
        archive.set_holds([study], actor=actor(), reason="case")
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


def made(tmp_path: Path) -> None:
    """Three versions: other pixels, another patient, and the first instance in another syntax."""
    deflated = convert.convert(kept.data_set(3), *map(transfer_syntax.of, (EXPLICIT, DEFLATED)))
    with kept.opened(tmp_path / "data") as archive:
        kept.store(archive, [kept.data_set(number) for number in (1, 2, 3)])
        kept.store(archive, [kept.data_set(1, pixels=600), kept.data_set(2, patient_name="Roe^Richard")])
        archive.ingest_batch([ReceivedInstance([deflated], len(deflated), crc32c(deflated), DEFLATED, "ROUTER")])


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in run(capsys, *arguments, "--json")[1].splitlines()]


def test_a_diff_names_each_element_and_both_values(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made(tmp_path)
    capsys.readouterr()
    ids = {row["sop_instance_uid"]: str(row["id"]) for row in rows(capsys, "quarantine", "list")}
    code, out, _ = run(capsys, "quarantine", "diff", ids[kept.uid_of(2)], "--json")
    assert code == exit_codes.FAILED
    assert json.loads(out) == {
        "element": "PatientName",
        "vr": "PN",
        "what": "another value",
        "current": "Doe^Jane",
        "version": "Roe^Richard",
    }
    found = rows(capsys, "quarantine", "diff", ids[kept.uid_of(1)])
    assert [row["element"] for row in found] == ["Columns", "PixelData"]
    assert (found[0]["current"], found[0]["version"]) == ("16", "18")
    assert run(capsys, "quarantine", "diff", ids[kept.uid_of(3)], "--json")[:2] == (exit_codes.OK, "")
    assert run(capsys, "quarantine", "diff", "0123")[0] == exit_codes.USAGE


def test_pixels_that_differ_are_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pixels = bytearray(range(256)) * 2
    with kept.opened(tmp_path / "data") as archive:
        kept.store(archive, [samples.encoded(samples.instance(1, 1, 2, pixels=bytes(pixels)))])
        pixels[100:102], pixels[200:202] = b"\0\0", b"\xc9\xca"
        kept.store(archive, [samples.encoded(samples.instance(1, 1, 2, pixels=bytes(pixels)))])
    capsys.readouterr()
    [version] = rows(capsys, "quarantine", "list")
    [row] = rows(capsys, "quarantine", "diff", str(version["id"]))
    assert (row["what"], row["current"]) == ("pixels", "256 samples")
    assert row["version"] == f"2 samples differ, by {0x6564} at most"


def test_the_quarantine_is_listed_and_dropped_by_query(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made(tmp_path)
    capsys.readouterr()
    uids = [kept.uid_of(number) for number in (1, 2, 3)]
    assert len(rows(capsys, "quarantine", "list", "PatientID=P1")) == 3
    assert rows(capsys, "quarantine", "list", "PatientID=P9") == []
    [row] = rows(capsys, "quarantine", "list", "--instance", uids[1])
    assert row["sop_instance_uid"] == uids[1]
    [row] = rows(capsys, "quarantine", "list", "--same")
    assert row["sop_instance_uid"] == uids[2]
    assert [row["sop_instance_uid"] for row in rows(capsys, "quarantine", "drop", "--same", "--dry-run")] == uids[2:]
    assert len(rows(capsys, "quarantine", "list")) == 3
    assert run(capsys, "quarantine", "drop", "--same")[0] == exit_codes.USAGE, "nobody is there to ask"
    assert [row["sop_instance_uid"] for row in rows(capsys, "quarantine", "drop", "--same", "--yes")] == uids[2:]
    assert run(capsys, "quarantine", "drop")[0] == exit_codes.USAGE
    assert run(capsys, "quarantine", "drop", str(row["id"]), "--same")[0] == exit_codes.USAGE
    found = rows(capsys, "quarantine", "readmit", "--study", samples.ROOT + ".1", "--yes")
    assert [row["outcome"] for row in found] == ["replaced", "replaced"]
    assert len(rows(capsys, "quarantine", "list")) == 2, "those that were current"
    assert run(capsys, "quarantine", "drop", "PatientID=P1", "--yes")[0] == exit_codes.OK
    assert rows(capsys, "quarantine", "list") == []
    assert run(capsys, "check", "--payloads")[0] == exit_codes.OK


def test_a_drop_by_query_is_all_or_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made(tmp_path)
    with kept.opened(tmp_path / "data") as archive:
        archive.set_holds([kept.current(archive, kept.uid_of(1)).study_instance_uid], actor=actor(), reason="case")
    capsys.readouterr()
    code, _, err = run(capsys, "quarantine", "drop", "PatientID=P1", "--yes")
    assert code == exit_codes.FAILED
    assert "legal hold" in err
    assert len(rows(capsys, "quarantine", "list")) == 3
