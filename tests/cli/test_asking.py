"""Questions at the terminal, and what commands say where there is nothing to do."""

from __future__ import annotations

import io

import pytest

from engine.cli import exit_codes
from tests import samples
from tests.cli.commands import rows, run

ROOT = samples.ROOT


class Typed(io.StringIO):
    """A terminal at which somebody has typed something."""

    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("filled")
def test_delete_says_whose_and_how_much_and_takes_a_no(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = ("delete", "--study", f"{ROOT}.1", "--study", f"{ROOT}.3", "--reason", "x")
    for typed in ("n\n", "\n"):
        monkeypatch.setattr("sys.stdin", Typed(typed))
        code, out, err = run(capsys, *everything)
        assert code == exit_codes.FAILED
        assert "Delete 4 instances in 2 studies (" in err and "KB) of Doe^Jane (P1), Roe^Richard (P2) for good?" in err
        assert err.endswith("nothing was deleted\n")
        assert "interrupted" not in out + err
    assert len(rows(capsys, "find", "-l", "instance")) == 5
    monkeypatch.setattr("sys.stdin", Typed("y\n"))
    assert run(capsys, *everything)[0] == exit_codes.OK
    assert len(rows(capsys, "find", "-l", "instance")) == 1


@pytest.mark.usefixtures("filled")
def test_retention_without_rules_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for more in ((), ("--yes",)):
        code, out, err = run(capsys, "retention", "apply", *more)
        assert (code, out) == (exit_codes.CONFIGURATION, "")
        assert "there are no [[retention]] rules" in err


@pytest.mark.usefixtures("filled")
def test_what_is_not_indexed_is_said_beside_the_matches(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "find", "-r", "PixelData", "-r", "PatientID", "-r", "NumberOfStudyRelatedInstances")
    assert (code, len(out.splitlines())) == (exit_codes.OK, 4)
    assert err == "PixelData is not indexed: no match shows its value\n"


def test_each_path_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "import", "not-here", ".", "nor-here")
    assert (code, "not-here, nor-here: no such file or folder" in err) == (exit_codes.USAGE, True)


def test_lists_of_commands_are_not_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    for group in ("hold", "patient", "study", "retention", "scrub", "quarantine", "commitments", "reindex", "config"):
        assert "..." not in run(capsys, group, "--help")[1].partition("Commands:")[2]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("A@h:99999", "the port '99999' is not a number"),
        ("A@h:0", "the port '0' is not a number"),
        ("A@h:dicom", "the port 'dicom' is not a number"),
        ("A@h", "the port is missing"),
        ("A@:104", "the host is missing"),
        ("A@::1:104", "stands in brackets"),
        ("@h:104", "is not an AE title"),
        ("MUCHTOOLONGFORATITLE@h:104", "is not an AE title"),
    ],
)
def test_an_address_that_is_none_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], address: str, told: str
) -> None:
    code, _, err = run(capsys, "echo", address)
    assert (code, told in err) == (exit_codes.CONFIGURATION, True), err
    assert "Expected" not in err and "regex" not in err
