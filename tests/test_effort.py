"""Tests that take turns: each has one, however many commits there are, and those of one turn have it together."""

from __future__ import annotations

import pytest

from tests import effort

NAMES = [f"tests/room/test_{number}.py::test_it" for number in range(60)]


@pytest.fixture(autouse=True)
def rotates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "ALL", False)
    monkeypatch.setattr(effort, "ROTATES", True)


def whose_turn(monkeypatch: pytest.MonkeyPatch, seed: int, turn: int | None = None) -> set[str]:
    monkeypatch.setenv("FILMROOM_EFFORT_SEED", str(seed))
    return {name for name in NAMES if effort.is_its_turn(name, 3, turn)}


def test_as_many_commits_as_there_are_turns_run_every_test_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [whose_turn(monkeypatch, seed) for seed in (7, 8, 9)]
    assert set.union(*parts) == set(NAMES)
    assert sum(map(len, parts)) == len(NAMES) and all(parts)


def test_tests_of_one_turn_have_it_together_and_no_two_turns_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(6):
        parts = [whose_turn(monkeypatch, seed, turn) for turn in range(3)]
        assert sorted(map(len, parts)) == [0, 0, len(NAMES)]


def test_the_whole_run_and_a_run_of_named_tests_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "ROTATES", False)
    assert all(whose_turn(monkeypatch, seed, 1) == set(NAMES) for seed in range(3))
    monkeypatch.setattr(effort, "ROTATES", True)
    monkeypatch.setattr(effort, "ALL", True)
    assert all(whose_turn(monkeypatch, seed, 1) == set(NAMES) for seed in range(3))


def test_the_halves_of_two_commits_are_all_cases_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = []
    for seed in (4, 5):
        monkeypatch.setenv("FILMROOM_EFFORT_SEED", str(seed))
        halves.append(list(effort.one_half(range(7))))
    assert halves == [[0, 1, 2], [3, 4, 5, 6]]
    monkeypatch.setattr(effort, "ALL", True)
    assert list(effort.one_half(range(7))) == [*range(7)]
