"""What the tests of commands share: a folder of their own, no configuration from outside, a small archive."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import engine
from engine.cli import exit_codes
from tests import samples
from tests.cli.commands import run


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FILMROOM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(Path(engine.__file__).parents[1]))
    monkeypatch.setenv("FILMROOM_LIMITS_DISK_RESERVE_BYTES", "0")


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
