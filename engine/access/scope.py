"""Scope: which studies of the archive somebody may see, for one action.

    scope  =  any of its alternatives          FULL: one alternative without requirements    NOTHING: no alternative
    alternative  =  all of its requirements    institution, department, referrer, modality, sender: one value matches
                                               age, de-identification; one of some studies; of one of some patients

Scopes are values: `a | b` is what one of two lets through, `a & b` what both do. `FULL` and `NOTHING` are the only
scopes of their kind, so that `scope is FULL` is the whole test for those who may see everything.

The unit is the study: one that is out of scope does not exist for the one who asks, with all that it contains. Only
shares are of less: a scope that names series is confined to them (`archive.part_view`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

ALTERNATIVES_MAX = 4096
"""Limit of what `&` may multiply out: beyond, it refuses rather than use memory without bound."""


class Patient(NamedTuple):
    """A Patient ID with its issuer: the same ID of another issuer is another patient."""

    patient_id: str
    issuer: str = ""


class Attribute(Enum):
    """What a rule may ask of a study in texts."""

    INSTITUTION = "institution"
    DEPARTMENT = "department"
    REFERRER = "referrer"
    MODALITY = "modality"
    SENDER = "sender"

    __hash__ = object.__hash__  # members are single objects; the hash of Enum costs more than the test of a study


@dataclass(frozen=True, slots=True)
class AccessFacts:
    """What a scope asks of a study. The texts are as `normalized` makes them."""

    study_instance_uid: str
    patient: Patient
    texts: dict[Attribute, frozenset[str]] = field(default_factory=dict, hash=False)
    study_date: date | None = None
    is_deidentified: bool = False


@dataclass(frozen=True, slots=True)
class Matching:
    """One value of an attribute equals one of these values or matches one of these patterns."""

    attribute: Attribute
    values: frozenset[str] = frozenset()
    """Texts without wildcards, as `normalized` makes them."""
    patterns: frozenset[str] = frozenset()
    """Normalized texts with the wildcards * and ?."""

    @classmethod
    def of(cls, attribute: Attribute, texts: Iterable[str], exact: Iterable[str] = ()) -> Matching:
        """`texts` may have wildcards. In `exact`, which users may have chosen, * is a character like any other."""
        known = {normalized(text) for text in texts}
        patterns = frozenset(text for text in known if "*" in text or "?" in text)
        return cls(attribute, frozenset(known - patterns) | {normalized(text) for text in exact} - {""}, patterns)

    def admits(self, facts: AccessFacts, today: date) -> bool:
        texts = facts.texts.get(self.attribute, frozenset())
        if not self.values.isdisjoint(texts):
            return True
        return any(_expression(pattern).fullmatch(text) for pattern in self.patterns for text in texts)

    def __str__(self) -> str:
        return f"{self.attribute.value} is {' or '.join(sorted(self.values | self.patterns)) or 'nothing'}"


@dataclass(frozen=True, slots=True)
class Recent:
    """Its Study Date is at most so many days ago."""

    days: float

    def admits(self, facts: AccessFacts, today: date) -> bool:
        return facts.study_date is not None and (today - facts.study_date).days <= self.days

    def __str__(self) -> str:
        return f"Study Date at most {self.days:g} days ago"


@dataclass(frozen=True, slots=True)
class Deidentified:
    """Its patient's identity was removed, or not."""

    is_deidentified: bool

    def admits(self, facts: AccessFacts, today: date) -> bool:
        return facts.is_deidentified == self.is_deidentified

    def __str__(self) -> str:
        return "Patient Identity Removed is YES" if self.is_deidentified else "Patient Identity Removed is not YES"


@dataclass(frozen=True, slots=True)
class OneOfStudies:
    """It is one of these studies."""

    study_instance_uids: frozenset[str]
    series: frozenset[tuple[str, str]] = frozenset()
    """Of them only these, as Study and Series Instance UID; empty: all of each."""

    def admits(self, facts: AccessFacts, today: date) -> bool:
        return facts.study_instance_uid in self.study_instance_uids

    def __str__(self) -> str:
        return f"one of {len(self.study_instance_uids)} granted studies"


@dataclass(frozen=True, slots=True)
class OfPatients:
    """It is of one of these patients."""

    patients: frozenset[Patient]

    def admits(self, facts: AccessFacts, today: date) -> bool:
        return facts.patient in self.patients

    def __str__(self) -> str:
        return f"of one of {len(self.patients)} granted patients"


Requirement: TypeAlias = Matching | Recent | Deidentified | OneOfStudies | OfPatients
Alternative: TypeAlias = frozenset[Requirement]


@dataclass(frozen=True, slots=True)
class Scope:
    """The studies that somebody may see. Make one with `scope_of`, `|` and `&`."""

    alternatives: frozenset[Alternative]

    def admits(self, facts: AccessFacts, today: date) -> bool:
        """Whether a study is in scope."""
        return any(
            all(requirement.admits(facts, today) for requirement in alternative) for alternative in self.alternatives
        )

    @property
    def series(self) -> frozenset[tuple[str, str]] | None:
        """The series to which it is confined, as Study and Series Instance UIDs; None: it is of whole studies."""
        parts = [
            requirement.series
            for alternative in self.alternatives
            for requirement in alternative
            if isinstance(requirement, OneOfStudies) and requirement.series
        ]
        return frozenset().union(*parts) if parts else None

    def __or__(self, other: Scope) -> Scope:
        return scope_of(self.alternatives | other.alternatives)

    def __and__(self, other: Scope) -> Scope:
        if self is other or other is FULL or self is NOTHING:
            return self
        if self is FULL or other is NOTHING:
            return other
        if len(self.alternatives) * len(other.alternatives) > ALTERNATIVES_MAX:
            raise ValueError(f"two scopes of more than {ALTERNATIVES_MAX} combinations")
        return scope_of(mine | others for mine in self.alternatives for others in other.alternatives)

    def __str__(self) -> str:
        if self is FULL:
            return "every study"
        if self is NOTHING:
            return "no study"
        return "; or ".join(sorted(", and ".join(sorted(map(str, each))) for each in self.alternatives))


FULL: Final = Scope(frozenset({frozenset()}))
"""Everything."""

NOTHING: Final = Scope(frozenset())


def scope_of(alternatives: Iterable[Alternative]) -> Scope:
    """The scope of these alternatives: `FULL` or `NOTHING` itself if it is one of them."""
    chosen = frozenset(alternatives)
    if frozenset() in chosen:
        return FULL
    return Scope(chosen) if chosen else NOTHING


@lru_cache(maxsize=65536)
def normalized(text: str) -> str:
    """A text as it is compared: without regard to case, padding and empty parts at the end of a name."""
    return " ".join(text.casefold().split()).rstrip("^ ")


@lru_cache(maxsize=4096)
def _expression(pattern: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(letter) or re.escape(letter) for letter in pattern), re.DOTALL)
