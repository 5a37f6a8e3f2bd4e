"""`filmroom hl7 explain` says what a message says, without a server and without an archive."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli.hl7 import messages_of
from engine.hl7 import framed
from tests.cli.commands import rows, run
from tests.hl7.samples import ADT_A08, OMI_O23


def test_a_message_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "order.hl7"
    file.write_bytes(OMI_O23)
    (facts,) = rows(capsys, "hl7", "explain", str(file))
    assert (facts["kind"], facts["answer"], facts["faults"]) == ("OMI^O23", "AA", [])
    (order,) = facts["values"]
    assert order["accession"] == "ACC1@RIS" and len(order["procedures"][0]["steps"]) == 2
    code, out, _ = run(capsys, "hl7", "explain", str(file))
    assert code == 0 and "IPC-4\tSPS1" in out and "SPS2" in out


def test_what_would_be_refused_is_explained_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.hl7"
    file.write_bytes(ADT_A08.replace(b"4711^^^HOSP&1.2.3&ISO^MR~X99^^^OTHER^PI", b""))
    code, out, _ = run(capsys, "hl7", "explain", str(file), "--json")
    assert code == 1 and '"location":"PID-3"' in out and '"answer":"AE"' in out
    file.write_bytes(b"no message")
    code, _, err = run(capsys, "hl7", "explain", str(file))
    assert code == 1 and "does not begin with MSH" in err
    file.write_bytes(ADT_A08.replace(b"|P|", b"|T|"))
    code, out, _ = run(capsys, "hl7", "explain", str(file))
    assert code == 1 and "answer\tAR\nfaults\t202 MSH-11 only production messages are taken\n" in out
    file.write_bytes(b"\r\n")
    for command in ("explain", "send"):
        code, _, err = run(capsys, "hl7", command, str(file))
        assert code == 2 and "an empty file" in err


def test_a_profile_with_a_mistake_names_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, profile = tmp_path / "m.hl7", tmp_path / "site.toml"
    file.write_bytes(ADT_A08)
    profile.write_text('[patient]\nPatientName = "PID-500"\n')
    code, _, err = run(capsys, "hl7", "explain", str(file), "--profile", str(profile))
    assert code != 0 and "line 2" in err and "PID has the fields" in err


def test_a_message_is_explained_as_from_the_source_that_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, config = tmp_path / "m.hl7", tmp_path / "filmroom.toml"
    file.write_bytes(ADT_A08)
    config.write_text(
        '[[hl7_source]]\nname = "ris"\napplication = "RIS"\n'
        '[[hl7_source]]\nname = "kis"\napplication = "KIS"\nprofile = "ihe-2.3.1"\n'
    )
    (facts,) = rows(capsys, "hl7", "explain", str(file), "--config", str(config))
    assert (facts["source"], facts["profile"]) == ("kis", "ihe-2.3.1")
    (facts,) = rows(capsys, "hl7", "explain", str(file), "--config", str(config), "--source", "ris")
    assert (facts["source"], facts["profile"]) == ("ris", "ihe-2.5.1")


def test_files_may_have_several_messages_in_any_form() -> None:
    text = ADT_A08.replace(b"\r", b"\n") + b"\n" + OMI_O23.replace(b"\r", b"\r\n")
    assert [len(message.split(b"|")) for message in messages_of(text)] == [
        len(message.split(b"|")) for message in (ADT_A08, OMI_O23)
    ]
    assert messages_of(framed(ADT_A08) + framed(OMI_O23)) == [ADT_A08, OMI_O23]
