"""engine.cli: delete, hold, retention and compact against a real archive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli import exit_codes
from tests import samples
from tests.cli.commands import rows, run

ROOT = samples.ROOT


def left(capsys: pytest.CaptureFixture[str]) -> set[str]:
    found = rows(capsys, "find", "-l", "instance", "SOPInstanceUID")
    return {str(row["SOPInstanceUID"]).removeprefix(f"{ROOT}.") for row in found}


ALL = {"1.1.1", "1.1.2", "1.2.1", "2.1.1", "3.1.1"}


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("arguments", "gone", "studies"),
    [
        (["--study", f"{ROOT}.1"], {"1.1.1", "1.1.2", "1.2.1"}, 1),
        (["--series", f"{ROOT}.1.2"], {"1.2.1"}, 1),
        (["--instance", f"{ROOT}.1.1.2", "--instance", f"{ROOT}.3.1.1"], {"1.1.2", "3.1.1"}, 2),
        (["--study", f"{ROOT}.1", "--series", f"{ROOT}.1.2"], {"1.1.1", "1.1.2", "1.2.1"}, 1),
        (["PatientName=DOE*"], ALL - {"3.1.1"}, 2),
        (["QueryRetrieveLevel=SERIES", "Modality=MR"], {"1.2.1"}, 1),
        (["QueryRetrieveLevel=PATIENT", "PatientID=P2"], {"3.1.1"}, 1),
    ],
)
def test_delete_takes_away_what_is_named_and_says_how_much(
    capsys: pytest.CaptureFixture[str], arguments: list[str], gone: set[str], studies: int
) -> None:
    (would,) = rows(capsys, "delete", *arguments, "--dry-run")
    assert (would["dry_run"], would["instances"], would["studies"]) == (True, len(gone), studies)
    assert left(capsys) == ALL
    (did,) = rows(capsys, "delete", *arguments, "--reason", "test", "--yes")
    assert did.pop("took_ms") > 0
    assert did == {**would, "dry_run": False}
    assert left(capsys) == ALL - gone
    assert run(capsys, "check")[0] == exit_codes.OK
    assert run(capsys, "rebuild-index")[0] == exit_codes.OK
    assert left(capsys) == ALL - gone
    code, _, err = run(capsys, "delete", *arguments, "--reason", "again", "--yes")
    named = [text for text in arguments if text.startswith(ROOT)]
    assert code == exit_codes.FAILED
    assert all(uid in err for uid in named) and "nothing was deleted" in err if named else err == "nothing matches\n"


@pytest.mark.usefixtures("filled")
def test_what_is_deleted_into_the_trash_is_listed_restored_and_deleted_for_good(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trashed = ("delete", "--study", f"{ROOT}.1", "--trash", "--reason", "mistake", "--yes")
    (did,) = rows(capsys, *trashed)
    (number,) = did["trash"]
    assert left(capsys) == {"2.1.1", "3.1.1"}
    (entry,) = rows(capsys, "trash", "list")
    assert (entry["number"], entry["instances"], entry["level"]) == (number, 3, "study")
    assert entry["patient"].startswith("Doe^Jane (") and entry["reason"] == "mistake"
    assert run(capsys, "check")[0] == exit_codes.OK
    (series,) = rows(capsys, "trash", "restore", number, "--series", f"{ROOT}.1.2", "--reason", "needed")
    assert series["instances"] == 1 and left(capsys) == {"1.2.1", "2.1.1", "3.1.1"}
    (rest,) = rows(capsys, "trash", "restore", number, "--reason", "needed")
    assert rest["instances"] == 2 and left(capsys) == ALL
    code, _, err = run(capsys, "trash", "restore", number, "--reason", "again")
    assert code == exit_codes.FAILED and "no such entry" in err
    assert rows(capsys, *trashed)[0]["instances"] == 3
    for arguments, told in (
        (["--reason", "x", "--yes"], "NUMBER of `filmroom trash list`, or --all"),
        (["--all", "--reason", "x"], "confirm it with --yes"),
    ):
        code, _, err = run(capsys, "trash", "empty", *arguments)
        assert code == exit_codes.USAGE and told in err
    assert rows(capsys, "trash", "expire", "--yes")[0]["entries"] == 0
    assert rows(capsys, "trash", "empty", "--all", "--reason", "x", "--yes")[0]["instances"] == 3
    assert rows(capsys, "trash", "list") == [] and left(capsys) == {"2.1.1", "3.1.1"}


@pytest.mark.usefixtures("filled")
def test_delete_asks_for_what_for_a_reason_and_for_a_yes(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, told in (
        (["--reason", "x", "--yes"], "say what to delete"),
        (["--study", f"{ROOT}.1", "--yes"], "say why"),
        (["--study", f"{ROOT}.1", "--reason", "x"], "confirm it with --yes"),
        (["KVP=120", "--reason", "x", "--yes"], "KVP is not indexed"),
    ):
        code, out, err = run(capsys, "delete", *arguments)
        assert (code, out) == (exit_codes.USAGE, "")
        assert told in err
    assert left(capsys) == ALL


@pytest.mark.usefixtures("filled")
def test_what_is_held_is_not_deleted_and_nothing_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(capsys, "hold", "set", "PatientName=ROE*", "--reason", "court") == [
        {"studies": 1, "changed": 1, "study_instance_uids": [f"{ROOT}.3"]}
    ]
    to_come = ("hold", "set", "--study", "1.2.3", "--in-advance", "--reason", "to come")
    assert rows(capsys, *to_come)[0]["changed"] == 1
    assert rows(capsys, *to_come)[0]["changed"] == 0
    holds = rows(capsys, "hold", "list")
    assert [(hold["study_instance_uid"], hold["reason"], hold["instances"]) for hold in holds] == [
        ("1.2.3", "to come", 0),
        (f"{ROOT}.3", "court", 1),
    ]
    everything = ["--study", f"{ROOT}.1", "PatientName=*"]
    code, out, err = run(capsys, "delete", *everything, "--reason", "x", "--yes")
    assert (code, out) == (exit_codes.FAILED, "")
    assert err == f"filmroom: 1 of 3 studies are on legal hold: {ROOT}.3; nothing was deleted\n"
    code, out, _ = run(capsys, "delete", *everything, "--dry-run", "--json")
    assert (code, json.loads(out)["held"]) == (exit_codes.FAILED, [f"{ROOT}.3"])
    assert left(capsys) == ALL
    assert rows(capsys, "hold", "release", "--study", f"{ROOT}.3", "--reason", "closed")[0]["changed"] == 1
    assert rows(capsys, "delete", *everything, "--reason", "x", "--yes")[0]["instances"] == 5
    assert left(capsys) == set()
    code, _, err = run(capsys, "hold", "set", "PatientName=NOBODY", "--reason", "x")
    assert (code, err) == (exit_codes.FAILED, "nothing matches\n")
    assert run(capsys, "hold", "set", "--reason", "x")[0] == exit_codes.USAGE


RULES = """
[[retention]]
name = "old mr"
older_than_days = 0
modalities = ["MR", "CT"]
[[retention]]
name = "old"
older_than_days = 1
age_by = "study-date"
"""


@pytest.mark.usefixtures("filled")
def test_retention_lists_tries_and_applies_its_rules(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "filmroom.toml").write_text(RULES)
    rules = rows(capsys, "retention", "list")
    assert [(rule["name"], rule["enabled"], rule["action"]) for rule in rules] == [
        ("old mr", False, "delete"),
        ("old", False, "delete"),
    ]
    assert rows(capsys, "hold", "set", "--study", f"{ROOT}.2", "--reason", "x")
    studies = rows(capsys, "retention", "dry-run")
    assert sorted((study["study_instance_uid"], study["held"]) for study in studies) == [
        (f"{ROOT}.1", False),
        (f"{ROOT}.2", True),
        (f"{ROOT}.3", False),
    ]
    assert {study["rule"] for study in studies} == {"old mr"}
    first, second = run(capsys, "retention", "dry-run")[2].splitlines()
    assert first.startswith("old mr: 2 studies, 4 instances, ") and first.endswith("1 studies on legal hold stay")
    assert second.startswith("old: 0 studies")
    assert left(capsys) == ALL
    assert run(capsys, "retention", "apply")[0] == exit_codes.USAGE
    (applied,) = rows(capsys, "retention", "apply", "--rule", "old", "--yes")
    assert applied["studies"] == 2
    assert left(capsys) == {"2.1.1"}
    code, _, err = run(capsys, "retention", "dry-run", "--rule", "nwe")
    assert code == exit_codes.CONFIGURATION
    assert "there is no [[retention]] rule 'nwe'; there are: old mr, old" in err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[retention]]\nname = "a"\n', "missing required field `older_than_days`"),
        ('[[retention]]\nname = "a"\nolder_then_days = 1\n', "did you mean 'older_than_days'"),
        ('[[retention]]\nname = "a"\nolder_than_days = 1\nage_by = "recieved"\n', "did you mean 'received'"),
        ('[[retention]]\nname = "a"\nolder_than_days = -1\n', "[[retention]] 'a': older_than_days"),
        ('[[retention]]\nname = "a"\nolder_than_days = 1\n' * 2, "there are 2 [[retention]] with name 'a'"),
        ("[retention]\nolder_than_days = 1\n", "each written [[retention]]"),
        ("[compaction]\ndead_share_min = 2.0\n", "compaction.dead_share_min"),
    ],
)
def test_a_rule_that_is_wrong_is_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "filmroom.toml").write_text(text)
    code, out, err = run(capsys, "retention", "list")
    assert (code, out) == (exit_codes.CONFIGURATION, "")
    assert told in err


@pytest.mark.usefixtures("filled")
def test_compact_gives_the_space_of_deletions_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in (tmp_path / "filmroom-data" / "segments").iterdir())
    assert rows(capsys, "delete", "PatientName=DOE*", "--reason", "x", "--yes")
    assert rows(capsys, "compact", "--all")[0]["segments_removed"] >= 1
    assert left(capsys) == {"3.1.1"}
    assert sum(path.stat().st_size for path in (tmp_path / "filmroom-data" / "segments").iterdir()) < size
    assert run(capsys, "check", "--payloads")[0] == exit_codes.OK
    assert rows(capsys, "compact") == [
        {
            "segments_removed": 0,
            "segments_written": 0,
            "records_copied": 0,
            "bytes_copied": 0,
            "bytes_reclaimed": 0,
            "left_alone": 0,
        }
    ]
