"""`filmroom reindex`: takes the configuration over and looks through everything; `find` says when that is not done."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from engine import cli
from engine.archive.archive import Archive
from engine.config import Attribute
from engine.dicom import extra
from tests import samples
from tests.archive import kept

CONFIG = '[[attribute]]\ntag = "StudyStatusID"\nlevel = "study"\nindexed = true\n'


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with kept.opened(tmp_path / "data") as archive:
        kept.store(archive, [samples.encoded(samples.instance(1, 1, 1, StudyStatusID="READ"))])
    return tmp_path / "data"


def written(folder: Path, text: str) -> str:
    path = folder / "site.toml"
    path.write_text(text)
    return str(path)


def test_reindex_takes_the_attributes_over_and_finds_what_was_stored(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path, CONFIG)
    assert cli.run(["find", "--data", str(data), "StudyStatusID=READ"]) != 0
    assert cli.run(["reindex", "--data", str(data), "--config", config, "--json"]) == 0
    done = orjson.loads(capsys.readouterr().out.splitlines()[-1])
    assert (done["extracted"], done["changed"]) == (1, 1)
    assert cli.run(["reindex", "status", "--data", str(data), "--json"]) == 0
    status = orjson.loads(capsys.readouterr().out)
    assert (status["attributes"], status["running"], status["progress"]) == (1, False, 1.0)
    assert cli.run(["find", "--data", str(data), "StudyStatusID=READ", "--json"]) == 0
    shown = capsys.readouterr()
    assert orjson.loads(shown.out)["StudyStatusID"] == "READ"
    assert "re-indexing" not in shown.err


def test_find_says_when_a_key_has_not_been_looked_for_everywhere(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Archive.open(data, extra_attributes=extra.of([Attribute(tag="StudyStatusID", level="study", indexed=True)])):
        pass
    assert cli.run(["find", "--data", str(data), "StudyStatusID=READ", "--json"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, "re-indexing is under way" in shown.err) == ("", True)
    assert cli.run(["find", "--data", str(data), "StudyID=S1", "--json"]) == 0
    assert "re-indexing" not in capsys.readouterr().err


def test_a_new_archive_gets_the_attributes_of_the_configuration_that_imports_into_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, target = written(tmp_path, CONFIG), tmp_path / "new"
    samples.write(tmp_path / "files", samples.instance(1, 1, 1, StudyStatusID="READ"))
    assert cli.run(["import", "--data", str(target), "--config", config, str(tmp_path / "files")]) == 0
    capsys.readouterr()
    assert cli.run(["find", "--data", str(target), "StudyStatusID=READ", "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out)["StudyStatusID"] == "READ"


def test_a_wrong_attribute_is_said_with_its_file_before_anything_happens(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path, CONFIG.replace("StudyStatusID", "StudyStatus"))
    assert cli.run(["reindex", "--data", str(data), "--config", config]) != 0
    assert f"{config}: [[attribute]] 'StudyStatus': " in capsys.readouterr().err
    assert not (data / "attributes.json").exists()


def test_a_private_key_may_name_its_creator_in_any_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(
        tmp_path, '[[attribute]]\ntag = "0019,xxA3"\ncreator = "ACME 1.0"\nvr = "LO"\nlevel = "study"\nindexed = true\n'
    )
    ds = samples.instance(1, 1, 1)
    ds.private_block(0x0019, "ACME 1.0", create=True).add_new(0xA3, "LO", "one")
    samples.write(tmp_path / "files", ds)
    data = str(tmp_path / "new")
    assert cli.run(["import", "--data", data, "--config", config, str(tmp_path / "files")]) == 0
    for keys in (["0019,10A3=one"], ["0019,00F0=ACME 1.0", "0019,F0A3=o*"]):
        capsys.readouterr()
        assert cli.run(["find", "--data", data, "-r", "StudyID", "--json", *keys]) == 0
        assert orjson.loads(capsys.readouterr().out)["StudyID"] == "S1"
    assert cli.run(["find", "--data", data, "0019,00F0=OTHER", "0019,F0A3=o*"]) != 0
    assert "is not indexed" in capsys.readouterr().err
