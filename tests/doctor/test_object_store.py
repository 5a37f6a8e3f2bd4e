"""filmroom doctor and the object store: is it there, does it keep what counts, and what is not in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import control
from engine.archive.tiering import connection
from engine.config import Config
from engine.doctor import object_store
from engine.doctor.finding import Finding, Verdict
from engine.errors import ControlUnavailable
from engine.storage.files import Files
from tests.archive.tiering.stored import fill, publish_all
from tests.objects.s3 import S3

pytest.importorskip("obstore", reason="obstore is not installed")

STATE = {
    "enabled": True,
    "state": "up to date",
    "error": "",
    "is_alarming": False,
    "away_s": 0.0,
    "tail_lag_bytes": 0,
    "backlog_segments": 0,
    "backlog_bytes": 0,
    "backlog_age_s": 0.0,
    "published_segments": 3,
}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3() as server:
        yield server


@pytest.fixture(scope="module")
def config(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Of an archive with two full segments, which are not in the bucket."""
    folder = tmp_path_factory.mktemp("doctor")
    fill(folder / "data", 1)
    return Config(data=folder / "data", object_store=s3.settings(folder))


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def request(*_: object, **__: object) -> None:
        raise ControlUnavailable("no server is running")

    monkeypatch.setattr(control, "request", request)


def examine(config: Config, *, with_checks: bool = False) -> list[tuple[Verdict, str]]:
    return [(found.verdict, found.what) for found in object_store.examine(config, with_checks=with_checks)]


def with_server(monkeypatch: pytest.MonkeyPatch, **state: Any) -> None:
    answer = {"caretaker": {"object_store": {**STATE, **state}}}
    monkeypatch.setattr(control, "request", lambda *_, **__: answer)


def test_an_archive_without_a_store_has_no_finding(tmp_path: Path) -> None:
    fill(tmp_path / "data", 1)
    assert examine(Config(data=tmp_path / "data")) == []
    assert examine(Config(data=tmp_path / "none")) == []


def test_the_store_answers_and_what_is_not_in_it_is_counted(config: Config, s3: S3) -> None:
    answers, waiting = examine(config)
    assert answers[0] is Verdict.GOOD and answers[1].endswith("answers")
    assert waiting[0] is Verdict.WARNING and "full segments waiting: 2 " in waiting[1] and "not known" in waiting[1]
    s3.go_away()
    try:
        away = examine(config)[0]
    finally:
        s3.go_away(False)
    assert away[0] is Verdict.FAULT and "does not answer" in away[1]


def test_a_check_that_fails_is_a_fault(config: Config, s3: S3) -> None:
    found = examine(config, with_checks=True)
    assert (Verdict.WARNING, True) in [(verdict, what.startswith("lifecycle: ")) for verdict, what in found]
    assert any(what.endswith("keeps what the archive relies on") for _, what in found)
    s3.conditional = False
    try:
        found = examine(config, with_checks=True)
    finally:
        s3.conditional = True
    assert (Verdict.FAULT, True) in [(verdict, what.startswith("create-only: ")) for verdict, what in found]
    assert not any(what.endswith("relies on") for _, what in found)


@pytest.mark.parametrize(
    ("state", "verdict", "text"),
    [
        ({}, Verdict.GOOD, "full segments there: 3; nothing waits"),
        ({"tail_lag_bytes": 5 << 20}, Verdict.GOOD, "new records waiting: 5.2 MB"),
        (
            {"state": "away", "error": "no answer", "tail_lag_bytes": None},
            Verdict.WARNING,
            "no answer; new records waiting: not known",
        ),
        ({"state": "away", "error": "no answer", "is_alarming": True}, Verdict.FAULT, "no answer"),
        ({"state": "fenced", "error": "another", "is_alarming": True}, Verdict.FAULT, "ships no more: another"),
        (
            {"backlog_segments": 2, "backlog_bytes": 9, "backlog_age_s": 90_000.0},
            Verdict.WARNING,
            "the oldest for 25 h",
        ),
        ({"enabled": False}, Verdict.FAULT, "the server brings nothing there"),
    ],
)
def test_what_a_server_says_of_it_is_judged(
    config: Config, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any], verdict: Verdict, text: str
) -> None:
    with_server(monkeypatch, **state)
    found = examine(config)[1:]
    assert [each for each, _ in found] == [verdict] and text in found[0][1]


def test_a_bucket_that_the_configuration_lost_is_a_warning(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "data"
    fill(data, 1)
    settings = s3.settings(tmp_path)
    connection.remember(data, settings, Files())
    publish_all(data, settings)
    found: list[Finding] = list(object_store.examine(Config(data=data), with_checks=False))
    assert [each.verdict for each in found] == [Verdict.WARNING, Verdict.GOOD]
    assert "has no url" in found[0].what and found[0].advice
