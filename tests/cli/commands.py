"""Commands run in this process, and in another one on a terminal of a given width."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine import cli
from engine.cli import exit_codes


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = cli.run(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """What a command that must succeed says in JSON, line by line."""
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, err) == (exit_codes.OK, "")
    return [json.loads(line) for line in out.splitlines()]
