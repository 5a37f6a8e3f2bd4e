"""What a requirement asks, who answers for it, and the evidence for it now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from engine.reports.facts import Facts


class State(Enum):
    """How far a requirement is met by this server, as it is configured."""

    MET = "met"
    PARTLY = "partly met"
    NOT_MET = "not met"
    OPERATOR = "operator"
    """No software can meet it; the text says what of ours helps."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The answer to one requirement."""

    state: State
    text: str
    tests: tuple[str, ...] = ()
    """FILE::TEST of those that show it."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One clause."""

    clause: str
    title: str
    is_required: bool
    """False: addressable (45 CFR 164.306(d))."""
    responsible: str
    """E: the engine, O: the operator."""
    judge: Callable[[Facts], Evidence]


def operator(text: str) -> Callable[[Facts], Evidence]:
    """For a requirement that only the operator can meet."""
    return lambda facts: Evidence(State.OPERATOR, text)


def judged(is_met: bool, yes: str, no: str, tests: tuple[str, ...] = ()) -> Evidence:
    """Met with one text, or not met with another; tests count only for what is met."""
    return Evidence(State.MET, yes, tests) if is_met else Evidence(State.NOT_MET, no)
