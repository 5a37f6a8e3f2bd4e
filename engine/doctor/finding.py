"""What an examination says: one finding a thing looked at, whether it is well or not.

Judges nothing: each examining module decides what is a warning and what a fault. A fault keeps the server from working
or its promises from being kept; a warning costs speed or safety; good is said too, so that silence is never health.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Verdict(Enum):
    """How it stands with one thing."""

    GOOD = "good"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    """What: "disk", "clock", "peer WORKSTATION"."""
    verdict: Verdict
    what: str
    """What was found, in a sentence, with figures."""
    advice: str = ""
    """What to do; empty when it is good."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was measured, unit last in each name."""


def good(subject: str, what: str, **figures: float) -> Finding:
    """Nothing to do."""
    return Finding(subject, Verdict.GOOD, what, figures=figures)


def warning(subject: str, what: str, advice: str, **figures: float) -> Finding:
    """It works, worse or less safely than it should."""
    return Finding(subject, Verdict.WARNING, what, advice, figures)


def fault(subject: str, what: str, advice: str, **figures: float) -> Finding:
    """It does not work, or a promise cannot be kept."""
    return Finding(subject, Verdict.FAULT, what, advice, figures)
