"""`filmroom object-store` against the tests' own S3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli import exit_codes
from tests.cli.commands import run
from tests.objects.s3 import ACCESS_KEY, BUCKET, S3, SECRET

pytest.importorskip("obstore", reason="obstore is not installed")


def configured(folder: Path, s3: S3) -> None:
    """A filmroom.toml whose store is that server."""
    file = folder / "store"
    file.touch(mode=0o600)
    file.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET}\n")
    (folder / "filmroom.toml").write_text(
        f'[object_store]\nurl = "s3://{BUCKET}/site"\nendpoint = "{s3.endpoint}"\ncredentials_file = "store"\n'
        "timeout_s = 60.0\nconnect_timeout_s = 60.0\n"
    )


def test_check_lists_its_results_and_fails_with_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with S3() as s3:
        configured(tmp_path, s3)
        code, out, _ = run(capsys, "object-store", "check", "--json")
        rows = {row["check"]: row["result"] for row in map(json.loads, out.splitlines())}
        assert (code, rows["create-only"], rows["lifecycle"]) == (exit_codes.OK, "passed", "warning")
        s3.conditional = False
        assert run(capsys, "object-store", "check")[0] == exit_codes.FAILED


def test_check_without_a_store_says_what_to_set(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "object-store", "check")
    assert code != exit_codes.OK
    assert "[object_store]" in err
