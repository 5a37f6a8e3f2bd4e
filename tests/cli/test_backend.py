"""engine.cli against a real archive: what the commands do there, by the rules of the configuration."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from engine import cli
from engine.cli import exit_codes
from tests import samples


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FILMROOM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FILMROOM_LIMITS_DISK_RESERVE_BYTES", "0")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(arguments)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def filled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two studies of Doe (3 instances in 2 series, 1 instance), one of Roe."""
    samples.write(
        tmp_path / "files",
        samples.instance(1, 1, 1),
        samples.instance(1, 1, 2),
        samples.instance(1, 2, 1, modality="MR", sop_class_uid=samples.MR),
        samples.instance(2, 1, 1),
        samples.instance(3, 1, 1, patient_name="Roe^Richard", patient_id="P2"),
    )
    assert run(capsys, "import", "files")[0] == exit_codes.OK


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["PatientName=DOE*"], 4),
        (["StudyInstanceUID=*"], 5),
        (["QueryRetrieveLevel=PATIENT", "PatientID=P2"], 1),
        (["QueryRetrieveLevel=SERIES", "Modality=MR"], 1),
        (["Modality=MR"], 3),
        (["--study", f"{samples.ROOT}.1", "--series", f"{samples.ROOT}.1.2"], 3),
        (["QueryRetrieveLevel=IMAGE", "InstanceNumber=2"], 1),
    ],
)
def test_export_writes_what_a_query_matches_each_instance_once(
    capsys: pytest.CaptureFixture[str], arguments: list[str], count: int
) -> None:
    code, out, err = run(capsys, "export", "out.zip", *arguments, "--json")
    assert (code, err) == (exit_codes.OK, "")
    assert json.loads(out)["written"] == count
    with zipfile.ZipFile("out.zip") as archive:
        assert len(archive.namelist()) == count


@pytest.mark.usefixtures("filled")
def test_a_key_that_is_not_indexed_is_a_mistake_rather_than_everything(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "export", "out.zip", "KVP=120")
    assert (code, out) == (exit_codes.USAGE, "")
    assert "KVP is not indexed at the study level" in err
    assert not Path("out.zip").exists()
    assert run(capsys, "find", "-l", "patient", "ModalitiesInStudy=MR")[0] == exit_codes.USAGE
    assert run(capsys, "find", "-r", "KVP")[0] == exit_codes.OK


@pytest.mark.usefixtures("filled")
def test_import_follows_the_duplicates_policy_of_the_configuration(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for policy, key in (("keep-first", "kept_aside"), ("replace", "replaced")):
        samples.write(tmp_path / policy, samples.instance(2, 1, 1, pixels=policy.encode().ljust(512)))
        monkeypatch.setenv("FILMROOM_DUPLICATES", policy)
        code, out, _ = run(capsys, "import", policy, "--json")
        assert code == exit_codes.OK
        assert json.loads(out)[key] == 1


def test_import_leaves_the_reserve_of_the_disk_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples.write(tmp_path / "files", samples.instance())
    monkeypatch.setenv("FILMROOM_LIMITS_DISK_RESERVE_BYTES", str(1 << 60))
    code, out, err = run(capsys, "import", "files")
    assert (code, out) == (exit_codes.UNAVAILABLE, "")
    assert "reserve" in err


@pytest.mark.usefixtures("filled")
def test_an_archive_that_may_not_be_opened_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "filmroom-data" / "keeper.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    code, out, err = run(capsys, "find")
    assert (code, out) == (exit_codes.UNAVAILABLE, "")
    assert "keeper.lock" in err
    assert err.count("\n") == 1
