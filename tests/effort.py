"""Which part of the long tests a run does, and from which seed.

    tools/check          every n-th case of each long list, different ones with each commit
    tools/check --all    all cases (FILMROOM_ALL=1): at night, before a release

About every n-th commit runs a test marked `rotating(n)`: a long test of a promise that others check in other ways, or
one of many of which each keeps its own. With `rotating(n, turn=k)` whole files share a turn, and the turns cost about
the same. A
long list contains every case that follows from the code alone: each call of a life, each length of a torn tail. A
number from the commit selects the start of its part, so that one commit always runs the same cases, and the commits of
a week together run far more, by chance: only --all is sure to run each. `FILMROOM_<NAME>` and `FILMROOM_<NAME>_SEED`
override both; `tests/README.md` lists them."""

from __future__ import annotations

import os
import subprocess
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
ALL = os.environ.get("FILMROOM_ALL", "0") not in ("", "0")
ROTATES = os.environ.get("FILMROOM_ROTATES", "0") not in ("", "0")

Case = TypeVar("Case")


@cache
def commit() -> str:
    """The commit that is checked out; "" if it is unknown."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def seed(name: str) -> int:
    """FILMROOM_<name>_SEED, or a number from the commit; 1 if there is none."""
    setting = os.environ.get(f"FILMROOM_{name}_SEED")
    return int(setting) if setting else int(commit()[:8] or "1", 16)


def amount(name: str, usual: int, everything: int) -> int:
    """FILMROOM_<name>, or `everything` with --all, or `usual`."""
    setting = os.environ.get(f"FILMROOM_{name}")
    return int(setting) if setting else everything if ALL else usual


def part(cases: Sequence[Case], stride: int, number: int) -> Sequence[Case]:
    """Every `stride`-th of the cases, from one that `number` selects; at least one if there are any."""
    return cases[number % min(stride, max(1, len(cases))) :: stride]


def is_its_turn(name: str, every: int, turn: int | None = None) -> bool:
    """Whether this run includes a test of every `every`-th commit; those with the same `turn` go together. Only
    tools/check without names rotates tests."""
    if ALL or not ROTATES:
        return True
    return ((zlib.crc32(name.encode()) if turn is None else turn) + seed("EFFORT")) % every == 0


def some(cases: Sequence[Case], stride: int) -> Sequence[Case]:
    """Every `stride`-th of the cases, others with each commit; all of them with --all."""
    return cases if ALL else part(cases, stride, seed("EFFORT"))


def one_half(cases: Sequence[Case]) -> Sequence[Case]:
    """The first or the second half, so that neighbours which differ stay together; all of the cases with --all."""
    return cases if ALL else one_of(cases[: len(cases) // 2], cases[len(cases) // 2 :])[0]


def one_of(*cases: Case) -> Sequence[Case]:
    """One of the cases, another with each commit; all of them with --all."""
    return cases if ALL else part(cases, len(cases), seed("EFFORT"))


def describe() -> str:
    """A line for the head of a test report."""
    if ALL:
        return "long tests: all of each"
    return f"long tests: the part that commit {commit()[:8] or '(unknown)'} chooses, seed {seed('EFFORT')}"
