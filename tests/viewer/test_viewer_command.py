"""`filmroom viewer`, in JSON: install from a file, status, remove."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli import exit_codes
from engine.viewer import package
from tests.cli.commands import run
from tests.viewer import packages


def test_the_viewer_is_installed_shown_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = packages.stand_in(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FILMROOM_HTTP_VIEWER_DIRECTORY", str(tmp_path / "ohif"))
    code, out, _ = run(capsys, "viewer", "status", "--json")
    assert (code, json.loads(out)["is_installed"]) == (exit_codes.FAILED, False)
    code, out, err = run(capsys, "viewer", "install", "--from", str(source), "--json")
    assert (code, json.loads(out)["is_new"]) == (exit_codes.OK, True)
    assert "not minified" in json.loads(err)["warning"]
    code, out, _ = run(capsys, "viewer", "status", "--json")
    assert (code, json.loads(out)["version"]) == (exit_codes.OK, package.VERSION)
    code, out, _ = run(capsys, "viewer", "remove", "--json")
    assert (code, json.loads(out)["removed"]) == (exit_codes.OK, True)


def test_a_wrong_file_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = packages.stand_in(monkeypatch, tmp_path)
    source.write_bytes(b"something else")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FILMROOM_HTTP_VIEWER_DIRECTORY", str(tmp_path / "ohif"))
    code, out, err = run(capsys, "viewer", "install", "--from", str(source), "--json")
    failure = json.loads(err.splitlines()[-1])
    assert (code, out, failure["exit_code"]) == (exit_codes.UNAVAILABLE, "", exit_codes.UNAVAILABLE)
    assert "not the expected package" in failure["error"]
