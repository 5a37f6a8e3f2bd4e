"""The findings of examinations: one for each subject, good or bad.

Each examining module decides on its verdicts. A fault keeps the server from working or from keeping its promises; a
warning costs speed or safety; a good subject has a finding too, so that a missing finding never means good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Verdict(Enum):
    """The state of one subject."""

    GOOD = "good"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result for one subject."""

    subject: str
    """E.g. "disk", "clock", "peer WORKSTATION"."""
    verdict: Verdict
    what: str
    """The result in a sentence, with figures."""
    advice: str = ""
    """Empty when the verdict is good."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Measurements, unit last in each name."""


def good(subject: str, what: str, **figures: float) -> Finding:
    """A finding that needs no action."""
    return Finding(subject, Verdict.GOOD, what, figures=figures)


def warning(subject: str, what: str, advice: str, **figures: float) -> Finding:
    """A finding about a subject that works, but worse or less safely than it should."""
    return Finding(subject, Verdict.WARNING, what, advice, figures)


def fault(subject: str, what: str, advice: str, **figures: float) -> Finding:
    """A finding about a subject that does not work, or that breaks a promise."""
    return Finding(subject, Verdict.FAULT, what, advice, figures)
