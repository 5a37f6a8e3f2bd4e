"""Proposals: which orders a study may fulfil that names none, each with a score and its reasons. A person decides.

    points                               same     alike
    accession number                     40       20     one character is another one, is missing, or two are swapped
    identifier of the patient            30       15     the same
    name                                 20       10     sounds alike
    birth date                           15
    modality of a step                   10      -20     another one
    day of a step                        15        8     within DAYS

The sum is cut at 100; below LEAST a proposal is not made. Candidates are the orders of patients with such an
identifier, those with the accession number, and those with a step within DAYS of the study.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Final

from engine.dicom import phonetic
from engine.dicom.values import fold
from engine.orders import ordering, patients
from engine.orders.entry import Entry, entry_of
from engine.orders.names import day_key, id_key, name_key
from engine.orders.transactions import Reading
from engine.orders.values import StepState

DAYS: Final = 3
LEAST: Final = 30
PROPOSALS_MAX: Final = 5
CANDIDATES_MAX: Final = 2000
"""Orders that are looked at for one study."""


@dataclass(frozen=True, slots=True)
class StudyTraits:
    """What a study says that an order may say too."""

    accession: str
    patient_id: str
    name: str
    birth_date: str
    date: str
    modalities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """An order that a study may fulfil."""

    order: int
    score: int
    reasons: tuple[str, ...]
    """As "same accession", for people and for tests; a page has words for each."""
    entry: Entry
    """One of its steps."""


def proposals(reading: Reading, study: StudyTraits) -> list[Proposal]:
    """The best proposals, the best first."""
    found: dict[int, Proposal] = {}
    for order in islice(dict.fromkeys(_candidates(reading, study)), CANDIDATES_MAX):
        for number, step in ordering.steps_of(reading, order):
            entry = None if step.state is StepState.CANCELED else entry_of(reading, number)
            if entry is None:
                continue
            score, reasons = _score(entry, study)
            if score >= LEAST and (order not in found or score > found[order].score):
                found[order] = Proposal(order, score, reasons, entry)
    return sorted(found.values(), key=lambda each: (-each.score, each.order))[:PROPOSALS_MAX]


def _candidates(reading: Reading, study: StudyTraits) -> Iterator[int]:
    if study.accession:
        yield from reading.ids(name_key("a", study.accession))
    if study.patient_id:
        for number in reading.ids(name_key("i", study.patient_id)):
            patient = patients.current(reading, number)
            if patient is not None:
                yield from reading.ids(b"o" + id_key(patient[0]))
    day = _day(study.date)
    if day is not None:
        end = day_key(f"{day + timedelta(days=DAYS + 1):%Y%m%d}", "")
        for key, _ in islice(reading.days_from(day_key(f"{day - timedelta(days=DAYS):%Y%m%d}", "")), CANDIDATES_MAX):
            if key >= end:
                return
            step = reading.get(reading.database.steps, key[-8:])
            if step is not None:
                yield step.order


def _score(entry: Entry, study: StudyTraits) -> tuple[int, tuple[str, ...]]:
    points: list[tuple[int, str]] = []

    def add(same: int, alike: int, what: str, is_same: bool, is_alike: bool) -> None:
        if is_same:
            points.append((same, f"same {what}"))
        elif is_alike:
            points.append((alike, f"like {what}"))

    accession = entry.order.accession.value if entry.order.accession is not None else ""
    add(40, 20, "accession", _is(accession, study.accession), is_near(accession, study.accession))
    ids = [each.value for each in entry.patient.identifiers]
    is_near_id = any(is_near(each, study.patient_id) for each in ids)
    add(30, 15, "patient-id", any(_is(each, study.patient_id) for each in ids), is_near_id)
    name = entry.patient.attributes.get("PatientName", "")
    words, others = _words(name if isinstance(name, str) else ""), _words(study.name)
    add(20, 10, "name", bool(words) and words == others, _sound_alike(words, others))
    add(15, 0, "birth-date", _is(entry.patient.attributes.get("PatientBirthDate", ""), study.birth_date), False)
    if entry.step.modality and study.modalities:
        is_same = entry.step.modality in study.modalities
        points.append((10, "same modality") if is_same else (-20, "other modality"))
    one, other = _day(entry.step.start_date), _day(study.date)
    if one is not None and other is not None:
        add(15, 8, "day", one == other, abs((one - other).days) <= DAYS)
    return min(sum(value for value, _ in points), 100), tuple(reason for _, reason in points)


def _is(one: object, other: str) -> bool:
    return bool(other) and one == other


def is_near(one: str, other: str) -> bool:
    """Whether one typing mistake makes one of the other; of short texts none does."""
    if min(len(one), len(other)) < 4 or abs(len(one) - len(other)) > 1 or one == other:
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    left, right = one[start:], other[start:]
    is_swapped = left[:2] == right[:2][::-1] and left[2:] == right[2:]
    return left[1:] == right[1:] or left[1:] == right or left == right[1:] or is_swapped


def _words(name: str) -> frozenset[str]:
    text = fold(name.split("=")[0].replace("^", " "))
    return frozenset(text.split())


def _sound_alike(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether every word of the shorter name sounds like one of the other."""
    few, many = sorted((one, other), key=len)
    heard = frozenset(code for word in many for code in phonetic.codes(word))
    return bool(few) and all(phonetic.codes(word) & heard for word in few)


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text[:8], "%Y%m%d").date()
    except ValueError:
        return None
