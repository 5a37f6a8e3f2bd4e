"""engine.cli: patient, study, correct, corrections, undo and conflicts against a real archive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli import exit_codes
from tests import samples
from tests.cli.commands import rows, run

ROOT = samples.ROOT
WHY = ("--reason", "a reason")


@pytest.fixture(autouse=True)
def _filled(_own_folder: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Doe (P1) with two studies, of which the instances of the first disagree; Roe (P2); P1 of another issuer."""
    samples.write(
        tmp_path / "files",
        samples.instance(1, 1, 1),
        samples.instance(1, 1, 2, patient_name="Doe^Janet"),
        samples.instance(1, 1, 3, modality="MR"),
        samples.instance(2, 1, 1),
        samples.instance(3, 1, 1, patient_name="Roe^Richard", patient_id="P2"),
        samples.instance(4, 1, 1, patient_name="Else^Someone", IssuerOfPatientID="WEST"),
    )
    assert run(capsys, "import", "files")[0] == exit_codes.OK


def studies(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Study → whose it is: ID, name."""
    found = rows(capsys, "find", "-r", "StudyInstanceUID", "-r", "PatientID", "-r", "PatientName")
    return {
        str(row["StudyInstanceUID"]).removeprefix(f"{ROOT}."): f"{row['PatientID']} {row['PatientName']}"
        for row in found
    }


BEFORE = {"1": "P1 Doe^Jane", "2": "P1 Doe^Jane", "3": "P2 Roe^Richard", "4": "P1 Else^Someone"}


def test_merge_move_and_split_are_seen_listed_and_undone(capsys: pytest.CaptureFixture[str]) -> None:
    assert studies(capsys) == BEFORE
    (merged,) = rows(capsys, "patient", "merge", "P1^^^", "P2", *WHY)
    assert merged["studies"] == 2
    assert studies(capsys) == {**BEFORE, "1": "P2 Roe^Richard", "2": "P2 Roe^Richard"}
    (moved,) = rows(capsys, "study", "move", f"{ROOT}.1", f"{ROOT}.3", "P1^^^WEST", *WHY)
    (split,) = rows(capsys, "patient", "split", "P7^^^EAST", "PatientSex=M", "--study", f"{ROOT}.2", *WHY)
    assert studies(capsys) == {**BEFORE, "1": "P1 Else^Someone", "2": "P7 Doe^Jane", "3": "P1 Else^Someone"}
    (undone,) = rows(capsys, "undo", str(moved["number"]), *WHY)
    listed = rows(capsys, "corrections")
    assert [row["number"] for row in listed] == [one["number"] for one in (merged, moved, split, undone)]
    assert listed[1]["undone_by"] == undone["number"]
    assert "PatientName" in listed[0]["sets"]  # type: ignore[operator]
    assert listed[0]["by"] == rows(capsys, "corrections", "--values")[0]["by"] != ""
    assert rows(capsys, "corrections", "--values")[2]["sets"]["PatientSex"] == "M"  # type: ignore[index, call-overload]
    for number in (merged["number"], split["number"]):
        rows(capsys, "undo", str(number), *WHY)
    assert studies(capsys) == BEFORE
    code, out, err = run(capsys, "corrections", "--values")
    assert (code, err) == (exit_codes.OK, "")
    assert "PatientName=Roe^Richard" in out


def test_patients_studies_and_series_are_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    (of_patient,) = rows(capsys, "correct", "--patient", "P1^^^", "PatientName=Düe^Jane", "PatientSex=", *WHY)
    rows(capsys, "correct", "--study", f"{ROOT}.2", "AccessionNumber=A77", *WHY)
    rows(capsys, "correct", "--series", f"{ROOT}.2.1", "Modality=US", *WHY)
    found = rows(capsys, "find", "PatientName=due*", "-r", "AccessionNumber", "-r", "ModalitiesInStudy", "PatientSex")
    assert [(row["AccessionNumber"], row["ModalitiesInStudy"], row["PatientSex"]) for row in found] == [
        ("A1", ["CT"], ""),
        ("A77", ["US"], ""),
    ]
    rows(capsys, "undo", str(of_patient["number"]), *WHY)
    assert rows(capsys, "find", "PatientName=due*") == []
    assert rows(capsys, "stats")[0]["archive"]["corrections"] == 2  # type: ignore[index]


def test_conflicts_are_listed_and_settled(capsys: pytest.CaptureFixture[str]) -> None:
    of_study, of_series = rows(capsys, "conflicts")
    assert of_study == {
        "study_instance_uid": f"{ROOT}.1",
        "series_instance_uid": "",
        "attributes": ["PatientName"],
    }
    assert (of_series["series_instance_uid"], of_series["attributes"]) == (f"{ROOT}.1.1", ["Modality"])
    assert rows(capsys, "conflicts", "--values")[0]["attributes"] == {"PatientName": ["Doe^Jane", "Doe^Janet"]}
    assert "Doe" not in run(capsys, "conflicts")[1]
    assert "PatientName: Doe^Jane | Doe^Janet" in run(capsys, "conflicts", "--values")[1]
    rows(capsys, "correct", "--study", f"{ROOT}.1", "PatientName=Doe^Jane", *WHY)
    rows(capsys, "correct", "--series", f"{ROOT}.1.1", "--study", f"{ROOT}.1", "Modality=CT", *WHY)
    assert rows(capsys, "conflicts") == []


def _with_reason(arguments: list[str]) -> list[str]:
    """The arguments of a command and why, which stands before what is no option."""
    rest = arguments[1:]
    at = rest.index("--") if "--" in rest else len(rest)
    return [*rest[:at], *WHY, *rest[at:]]


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["patient", "merge", "P1", "P2"], exit_codes.FAILED, "2 patients have this ID"),
        (["patient", "merge", "P8", "P2"], exit_codes.FAILED, "no study of patient 'P8' is stored"),
        (["study", "move", "1.2.3", "P2"], exit_codes.FAILED, "no study 1.2.3 is stored"),
        (["undo", "0123"], exit_codes.FAILED, "there is no correction 0123"),
        (["undo", "--", "-000000000000001"], exit_codes.FAILED, "there is no correction"),
        (["study", "move", "\udcff", "P2"], exit_codes.USAGE, "not UTF-8"),
        (["patient", "merge", "\udcff", "P2"], exit_codes.USAGE, "not UTF-8"),
        (["correct", "--study", f"{ROOT}.1", "StudyID=\udcff"], exit_codes.USAGE, "not UTF-8"),
        (["correct", "--study", f"{ROOT}.1", "StudyDate"], exit_codes.USAGE, "StudyDate=VALUE"),
        (["correct", "--study", f"{ROOT}.1", "StudyDat=1"], exit_codes.USAGE, "did you mean StudyDate"),
        (["correct", "--study", f"{ROOT}.1", "StudyDate=2026"], exit_codes.FAILED, "it is not a date"),
        (["correct", "StudyDate=20260101"], exit_codes.USAGE, "say what to correct"),
        (["correct", "--patient", "P2", "--study", "1.2", "PatientSex=M"], exit_codes.USAGE, "say what to correct"),
    ],
)
def test_mistakes_are_told_and_change_nothing(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, why: str
) -> None:
    found, _, err = run(capsys, arguments[0], *_with_reason(arguments))
    assert found == code
    assert why in err
    assert rows(capsys, "corrections") == []


@pytest.mark.parametrize(
    "arguments", [["patient", "merge", "P2", "P1^^^"], ["undo", "1"], ["study", "move", "1", "P2"]]
)
def test_a_reason_must_be_given(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, _, err = run(capsys, *arguments)
    assert (code, "--reason" in err) == (exit_codes.USAGE, True)


def test_a_merge_in_advance_waits_for_its_studies(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows(capsys, "patient", "merge", "P8", "P2", "--in-advance", *WHY)
    samples.write(tmp_path / "more", samples.instance(8, 1, 1, patient_id="P8", patient_name="Old^Name"))
    assert run(capsys, "import", "more")[0] == exit_codes.OK
    assert studies(capsys)["8"] == "P2 Roe^Richard"


def test_the_state_of_a_study_that_is_not_stored_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "study", "state", f"{ROOT}.1", "1.2.3", "--json")
    assert (code, err) == (exit_codes.FAILED, "")
    assert [json.loads(line)["state"] for line in out.splitlines()] == ["unknown", "not stored"]
    assert run(capsys, "study", "state", f"{ROOT}.1")[0] == exit_codes.OK
    code, out, err = run(capsys, "study", "state", "1.2.?")
    assert (code, out) == (exit_codes.USAGE, "")
    assert "1.2.?" in err
