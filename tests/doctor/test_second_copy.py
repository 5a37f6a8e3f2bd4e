"""doctor.second_copy: whether answers get the second copy for which they wait, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine import control
from engine.config import Config
from engine.config.composition import SecondCopySettings
from engine.doctor import second_copy
from engine.doctor.finding import Verdict

READY = {"state": "ready", "away_s": 0.0, "when_away": "refuse", "waiting": 2}


def examined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **state: Any) -> list[tuple[Verdict, str]]:
    config = Config(data=tmp_path, durable="peer", second_copy=SecondCopySettings(replica="/mnt/second"))
    workers = [{"second_copies": {"peer": READY}}, {"second_copies": {"peer": {**READY, **state}}}, {"number": 3}]
    monkeypatch.setattr(control, "request", lambda *_, **__: {"workers": workers})
    return [(found.verdict, found.what) for found in second_copy.examine(config)]


@pytest.mark.parametrize(
    ("state", "verdict", "text"),
    [
        ({}, Verdict.GOOD, "4 instances wait"),
        ({"state": "away", "away_s": 60.0}, Verdict.FAULT, "instances are refused"),
        ({"state": "away", "away_s": 60.0, "when_away": "local"}, Verdict.FAULT, "acknowledged without a second copy"),
        ({"state": "fenced", "away_s": 60.0}, Verdict.FAULT, "another machine continues"),
    ],
)
def test_the_worst_worker_is_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: dict[str, Any], verdict: Verdict, text: str
) -> None:
    ((found, what),) = examined(monkeypatch, tmp_path, **state)
    assert found is verdict and text in what


def test_who_waits_for_none_has_no_finding(tmp_path: Path) -> None:
    assert list(second_copy.examine(Config(data=tmp_path))) == []
