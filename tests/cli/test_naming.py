"""UIDs and patients that are named on a command line and are not stored: each is said, by a rule for each command."""

from __future__ import annotations

import zipfile

import pytest

from engine.cli import exit_codes
from tests import samples
from tests.cli.commands import rows, run

ROOT = samples.ROOT
GONE = "1.2.3.4"
ALSO_GONE = "1.2.3.5"

pytestmark = pytest.mark.usefixtures("filled")


def count(capsys: pytest.CaptureFixture[str]) -> int:
    return len(rows(capsys, "find", "-l", "instance"))


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (("--study", f"{ROOT}.1", "--study", GONE, "--study", ALSO_GONE), (f"study {GONE}", f"study {ALSO_GONE}")),
        (("--series", GONE, "PatientName=DOE*"), (f"series {GONE}",)),
        (("--instance", GONE, "--instance", f"{ROOT}.1.1.1"), (f"instance {GONE}",)),
        ((f"StudyInstanceUID={ROOT}.1\\{GONE}",), (f"study {GONE}",)),
    ],
)
@pytest.mark.parametrize("ending", [("--reason", "x", "--yes"), ("--dry-run",)])
def test_nothing_is_deleted_when_something_named_is_not_stored(
    capsys: pytest.CaptureFixture[str], named: tuple[str, ...], told: tuple[str, ...], ending: tuple[str, ...]
) -> None:
    code, out, err = run(capsys, "delete", *named, *ending)
    assert (code, out) == (exit_codes.FAILED, "")
    assert all(name in err for name in told)
    assert "nothing was deleted" in err
    assert ROOT not in err
    assert count(capsys) == 5


def test_export_writes_what_is_stored_and_names_what_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "export", "out.zip", "--study", f"{ROOT}.1", "--study", GONE, "--series", ALSO_GONE)
    assert (code, "written\t3\n" in out) == (exit_codes.FAILED, True)
    assert err == f"no study {GONE} is stored\nno series {ALSO_GONE} is stored\n"
    with zipfile.ZipFile("out.zip") as archive:
        assert len(archive.namelist()) == 3
    nothing = run(capsys, "export", "other.zip", "--study", GONE)
    assert nothing == (exit_codes.FAILED, "", f"no study {GONE} is stored\n")


def test_a_hold_on_what_is_not_stored_needs_in_advance(capsys: pytest.CaptureFixture[str]) -> None:
    both = ("--study", f"{ROOT}.1", "--study", GONE)
    code, out, err = run(capsys, "hold", "set", *both, "--reason", "court")
    assert (code, out) == (exit_codes.FAILED, "")
    assert f"no study {GONE} is stored" in err and "--in-advance" in err
    assert rows(capsys, "hold", "list") == []
    assert rows(capsys, "hold", "set", *both, "--in-advance", "--reason", "court")[0]["changed"] == 2
    assert {row["study_instance_uid"] for row in rows(capsys, "hold", "list")} == {f"{ROOT}.1", GONE}
    # What is held can be released, stored or not; what is neither is a mistake.
    code, _, err = run(capsys, "hold", "release", *both, "--study", ALSO_GONE, "--reason", "done")
    assert (code, f"no study {ALSO_GONE} is stored" in err) == (exit_codes.FAILED, True)
    assert len(rows(capsys, "hold", "list")) == 2
    assert rows(capsys, "hold", "release", *both, "--reason", "done")[0]["changed"] == 2
    assert rows(capsys, "hold", "list") == []


def test_a_patient_that_is_not_known_is_named_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "patient", "merge", "P1", "P404", "--reason", "x")
    assert (code, "no study of patient 'P404' is stored" in err) == (exit_codes.FAILED, True)
    assert "--in-advance" in err
    code, _, err = run(capsys, "patient", "merge", "P404^^^WEST", "P1", "--reason", "x")
    assert (code, "'P404^^^WEST'" in err) == (exit_codes.FAILED, True)
    code, _, err = run(capsys, "study", "move", f"{ROOT}.1", "P404", "--reason", "x")
    assert (code, "no study of patient 'P404' is stored" in err) == (exit_codes.FAILED, True)
    assert "filmroom patient split" in err
    code, _, err = run(capsys, "study", "move", GONE, ALSO_GONE, f"{ROOT}.1", "P2", "--reason", "x")
    assert (code, f"no study {GONE}, {ALSO_GONE} is stored" in err) == (exit_codes.FAILED, True)
    code, _, err = run(capsys, "correct", "--patient", "P404", "PatientSex=M", "--reason", "x")
    assert (code, "'P404'" in err) == (exit_codes.FAILED, True)
