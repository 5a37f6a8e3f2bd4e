"""filmroom encryption and encrypt: the keys of an archive, from the first to the last step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli import exit_codes
from tests import samples
from tests.cli.commands import run


def done(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == exit_codes.OK, (arguments, err)
    return dict(json.loads(out.splitlines()[-1]))


def stored(data: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((data / "segments").iterdir()) if path.is_file())


def test_an_archive_gets_keys_its_records_are_encrypted_and_both_levels_rotate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = ("--data", str(tmp_path / "data"))
    samples.write(tmp_path / "before", samples.instance(1, 1, 1, patient_name="Plain^Paula"))
    samples.write(tmp_path / "after", samples.instance(2, 1, 1, patient_name="Secret^Sam"))
    done(capsys, "import", str(tmp_path / "before"), *archive)
    for name in ("one", "two"):
        done(capsys, "encryption", "new-key", str(tmp_path / name))
    done(capsys, "encryption", "init", f"path={tmp_path / 'one'}", "--name", "one", *archive)
    done(capsys, "import", str(tmp_path / "after"), *archive)
    assert b"Plain^Paula" in stored(tmp_path / "data")
    assert b"Secret^Sam" not in stored(tmp_path / "data")

    done(capsys, "encrypt", *archive)
    assert b"Plain^Paula" not in stored(tmp_path / "data")
    done(capsys, "encryption", "add-wrapping", f"path={tmp_path / 'two'}", "--name", "two", *archive)
    done(capsys, "encryption", "rotate-master", *archive)
    done(capsys, "encryption", "rotate-data-key", *archive)
    done(capsys, "encrypt", "--old-keys", *archive)
    done(capsys, "encryption", "remove-wrapping", "one", *archive)
    (tmp_path / "one").unlink()
    found = run(capsys, "find", "PatientName=*", "--json", *archive)[1]
    assert "Plain^Paula" in found and "Secret^Sam" in found
    done(capsys, "export", str(tmp_path / "out"), "PatientID=*", *archive)

    (tmp_path / "two").rename(tmp_path / "away")
    code, _, err = run(capsys, "find", "PatientName=*", *archive)
    assert code != exit_codes.OK and "two" in err
