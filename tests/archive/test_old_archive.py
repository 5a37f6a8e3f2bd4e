"""An archive of commit 40d30ac means the same here: what it said of itself is what is found, before and after upkeep.

`old_archive` has made it and says what is in it. Never make it again because a test fails here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from engine.cli import exit_codes
from engine.dicom import part10
from tests import samples
from tests.archive.old_archive import LISTS, SETTINGS, TARGET
from tests.cli.commands import run

ROOT = samples.ROOT
CUT = f"{ROOT}.6.1.1"
WHY = ("--reason", "a reason")
STATES = ["stopped", "killed"]
NEW_WORDS = {"kept-aside": "version", "unparseable": "incomplete"}
"""What has another name since."""


class Opened:
    """One of the archives, in a folder of its own, with the commands of today."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], data: str) -> None:
        self.capsys = capsys
        self.folder = folder
        self.data = folder / data
        self.settings = folder / "filmroom.toml"

    def _words(self, words: tuple[str, ...]) -> tuple[str, ...]:
        return (*words, "--data", str(self.data), "--config", str(self.settings))

    def run(self, *words: str) -> str:
        code, out, err = run(self.capsys, *self._words(words))
        assert code == exit_codes.OK, (words, out, err)
        return out

    def rows(self, *words: str) -> list[dict[str, Any]]:
        code, out, err = run(self.capsys, *self._words((*words, "--json")))
        assert code == exit_codes.OK, (words, out, err)
        return [json.loads(line) for line in out.splitlines()]

    def check(self) -> list[str]:
        """Findings but for the data set that was cut when it came."""
        code, out, _ = run(self.capsys, *self._words(("check", "--json")))
        findings: list[str] = json.loads(out)["findings"]
        cut = [
            finding for finding in findings if "ends within (7FE0,0010), 200 bytes early" in finding and CUT in finding
        ]
        assert len(cut) == 1
        assert code == exit_codes.FAILED
        return [finding for finding in findings if finding not in cut]

    def restore(self) -> None:
        """Makes it from the backup, where the cut data set is found, too."""
        code, _, err = run(self.capsys, *self._words(("restore", str(self.folder / "safe"))))
        assert code == exit_codes.FAILED
        assert CUT in err
        self.run("reindex")

    def data_sets(self) -> dict[str, list[str]]:
        """UID → transfer syntax and sha256 of each data set, as an export has them."""
        out = self.folder / "out"
        self.run("export", str(out), "PatientID=*")
        sums = {}
        for path in out.rglob("*.dcm"):
            body = path.read_bytes()
            meta = part10.read_file_meta(body)
            data_set = hashlib.sha256(body[meta.data_set_offset :]).hexdigest()
            sums[meta.media_storage_sop_instance_uid] = [meta.transfer_syntax_uid, data_set]
        shutil.rmtree(out)
        return sums


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(TARGET) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def folder(unpacked: Path, tmp_path: Path) -> Path:
    """All that is in the file, to change."""
    copied = tmp_path / "old"
    shutil.copytree(unpacked, copied)
    (copied / "filmroom.toml").write_text(SETTINGS)
    return copied


def said(folder: Path, state: str) -> dict[str, Any]:
    everything: dict[str, dict[str, Any]] = json.loads((folder / "said.json").read_text())
    return everything[state]


def plain(row: dict[str, Any]) -> list[tuple[str, str]]:
    """A row whatever its form of JSON is; the time of receipt had another one."""
    values = {key: value for key, value in row.items() if key not in ("received", "received_ns")}
    return sorted((key, NEW_WORDS.get(str(value), str(value))) for key, value in values.items())


def expect_the_same(archive: Opened, expected: dict[str, Any]) -> None:
    for name, words in LISTS.items():
        assert sorted(map(plain, archive.rows(*words))) == sorted(map(plain, expected[name])), name
    assert archive.data_sets() == expected["data_sets"]


@pytest.mark.parametrize("state", STATES)
def test_what_it_holds_means_the_same(folder: Path, capsys: pytest.CaptureFixture[str], state: str) -> None:
    archive = Opened(folder, capsys, state)
    expected = said(folder, state)
    assert expected["studies"]
    assert expected["private"]
    assert archive.check() == []
    expect_the_same(archive, expected)
    assert archive.check() == []


@pytest.mark.parametrize("state", STATES)
def test_its_index_made_anew_says_the_same(folder: Path, capsys: pytest.CaptureFixture[str], state: str) -> None:
    archive = Opened(folder, capsys, state)
    archive.run("rebuild-index")
    assert archive.check() == []
    expect_the_same(archive, said(folder, state))


@pytest.mark.parametrize("state", STATES)
def test_its_log_without_an_index_says_the_same(folder: Path, capsys: pytest.CaptureFixture[str], state: str) -> None:
    archive = Opened(folder, capsys, state)
    shutil.rmtree(archive.data / "index")
    expect_the_same(archive, said(folder, state))
    assert archive.check() == []


@pytest.mark.parametrize("state", STATES)
def test_it_is_scrubbed_and_compacted_and_says_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    archive = Opened(folder, capsys, state)
    archive.run("compact", "--all")
    code, out, err = run(capsys, *archive._words(("scrub", "run", "--json")))
    assert code == exit_codes.OK, (out, err)
    assert archive.check() == []
    expect_the_same(archive, said(folder, state))
    archive.run("rebuild-index")
    expect_the_same(archive, said(folder, state))


def test_it_goes_on_as_an_archive_of_today(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = Opened(folder, capsys, "killed")
    before = said(folder, "killed")
    files = samples.write(folder / "more", samples.instance(6, patient_id="P6"), samples.instance(11, patient_id="P11"))
    report = archive.rows("import", *map(str, files))[0]
    assert report["stored"] + report["replaced"] == 2, "the whole version of what was cut is the current one"
    code, _, err = run(capsys, *archive._words(("delete", "--study", f"{ROOT}.3", "--yes", *WHY)))
    assert code == exit_codes.FAILED, "what it held is held"
    assert "hold" in err
    archive.run("hold", "release", "--study", f"{ROOT}.3", *WHY)
    number = archive.rows("delete", "--study", f"{ROOT}.3", "--trash", "--yes", *WHY)[0]["trash"][0]
    archive.run("trash", "restore", number, *WHY)
    archive.run("delete", "--study", f"{ROOT}.3", "--yes", *WHY)
    merge = next(row["number"] for row in before["corrections"] if row["operation"] == "merge")
    archive.run("undo", merge, *WHY)
    expected = sorted({f"P{number}" for number in (1, 2, 3, 4, 6, 7, 10, 11)})
    assert sorted(row["PatientID"] for row in archive.rows("find", "-l", "patient", "-r", "PatientID")) == expected
    archive.run("rebuild-index")
    assert sorted(row["PatientID"] for row in archive.rows("find", "-l", "patient", "-r", "PatientID")) == expected
    code, out, _ = run(capsys, *archive._words(("check", "--json")))
    assert (code, json.loads(out)["findings"]) == (exit_codes.OK, [])


def test_its_backup_is_restored_and_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "verify-backup", str(folder / "safe"))
    assert code == exit_codes.OK, (out, err)
    archive = Opened(folder, capsys, "restored")
    archive.restore()
    expect_the_same(archive, said(folder, "stopped"))
    source = Opened(folder, capsys, "killed")
    source.run("backup", str(folder / "safe"))
    again = Opened(folder, capsys, "again")
    again.restore()
    expect_the_same(again, said(folder, "killed"))
