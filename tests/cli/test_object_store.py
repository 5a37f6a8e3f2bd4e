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


def test_an_archive_goes_to_its_bucket_and_comes_back_on_another_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], filled: None
) -> None:
    with S3() as s3:
        configured(tmp_path, s3)
        assert json.loads(run(capsys, "object-store", "status", "--json")[1])["waiting_segments"] == 1
        code, out, _ = run(capsys, "object-store", "publish", "--json")
        assert (code, json.loads(out)["segments"]) == (exit_codes.OK, 1)
        assert json.loads(run(capsys, "object-store", "status", "--json")[1])["waiting_segments"] == 0
        found = run(capsys, "find", "--level", "IMAGE", "--json")[1]
        url = f"s3://{BUCKET}/site"
        code, out, err = run(capsys, "restore", "--from-bucket", url, "--data", "new", "--json")
        assert (code, json.loads(out)["instances"], json.loads(out)["segments"]) == (exit_codes.OK, 5, 1), err
        assert run(capsys, "find", "--level", "IMAGE", "--data", "new", "--json")[1] == found
        assert run(capsys, "check", "--payloads", "--data", "new")[0] == exit_codes.OK
        state = json.loads(run(capsys, "object-store", "status", "--data", "new", "--json")[1])
        assert state["segments_in_the_bucket_only"] == 1
        code, out, _ = run(capsys, "object-store", "fetch", "--data", "new", "--json")
        assert (code, json.loads(out)["segments"]) == (exit_codes.OK, 1)
    assert run(capsys, "check", "--payloads", "--data", "new")[0] == exit_codes.OK


def test_the_tiers_are_planned_and_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str], filled: None) -> None:
    with S3() as s3:
        configured(tmp_path, s3)
        assert run(capsys, "tier", "plan")[0] == exit_codes.CONFIGURATION
        with (tmp_path / "filmroom.toml").open("a") as file:
            file.write('[[tier]]\nname = "all"\nolder_than_days = 0\n')
        assert run(capsys, "import", "files", "--data", "filmroom-data")[0] == exit_codes.OK
        assert run(capsys, "object-store", "publish")[0] == exit_codes.OK
        code, out, _ = run(capsys, "tier", "plan", "--json")
        # The newest segment, which is the only one with instances, stays.
        assert (code, json.loads(out)["studies"], json.loads(out)["segments"]) == (exit_codes.FAILED, {"all": 3}, 0)
        assert json.loads(run(capsys, "tier", "apply", "--json")[1])["segments"] == 0


def test_a_restore_wants_a_backup_or_a_bucket(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "restore", "--data", "new")[0] == exit_codes.USAGE
    assert run(capsys, "restore", "safe", "--from-bucket", "s3://a/b", "--data", "new")[0] == exit_codes.USAGE
    assert run(capsys, "restore", "--from-bucket", "ftp://a/b", "--data", "new")[0] != exit_codes.OK
