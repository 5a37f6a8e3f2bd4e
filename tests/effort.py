"""How much of the long tests a run does, and from which seed.

    tools/check          of each long list of cases every n-th, others with each commit
    tools/check --all    all of them (FILMROOM_ALL=1): at night, before a release

A test marked `rotating(n)` is done by about every n-th commit: a long one, whose promise others check from other sides.
A long list is what follows from nothing but the code: each call of a life, each length of a torn tail. Its part
begins where a number from the commit says, so that the same commit always does the same, and the commits of a week do
far more together than one, by chance: only --all is sure to do each. `FILMROOM_<NAME>` and `FILMROOM_<NAME>_SEED` go
before both; `tests/README.md` lists them."""

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
    """The commit that is checked out; "" where that cannot be told."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def seed(name: str) -> int:
    """FILMROOM_<name>_SEED, or a number from the commit; 1 where there is none."""
    named = os.environ.get(f"FILMROOM_{name}_SEED")
    return int(named) if named else int(commit()[:8] or "1", 16)


def amount(name: str, usual: int, everything: int) -> int:
    """FILMROOM_<name>, or `everything` when all is asked for, or `usual`."""
    named = os.environ.get(f"FILMROOM_{name}")
    return int(named) if named else everything if ALL else usual


def part(cases: Sequence[Case], stride: int, number: int) -> Sequence[Case]:
    """Every `stride`-th of the cases, from one that `number` chooses; never none of some."""
    return cases[number % min(stride, max(1, len(cases))) :: stride]


def is_its_turn(name: str, every: int) -> bool:
    """Whether this run does a test that every `every`-th commit does. Only tools/check without names asks for turns."""
    if ALL or not ROTATES:
        return True
    return (zlib.crc32(name.encode()) + seed("EFFORT")) % every == 0


def one_of(*cases: Case) -> Sequence[Case]:
    """One of them, another with each commit; all of them when all is asked for."""
    return cases if ALL else part(cases, len(cases), seed("EFFORT"))


def describe() -> str:
    """For the head of a test report."""
    if ALL:
        return "long tests: all of each"
    return f"long tests: the part that commit {commit()[:8] or '(unknown)'} chooses, seed {seed('EFFORT')}"
