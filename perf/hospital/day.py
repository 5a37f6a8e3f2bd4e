"""The plan of a day: which examinations there are, and what becomes of each. It follows from the seed alone.

performed      ordered, reported by MPPS, stored
late           as performed, but half of the images come after the step has ended
silent         stored; the modality reports nothing
numberless     as performed, but the images have no accession number
canceled       the order is canceled before anything is done
discontinued   begun, and ended without an image
unordered      an emergency: stored and reported, without an order
mistaken       the images name the order and another patient
merged         as performed; then the patient turns out to be somebody who is known
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from perf.hospital import invented
from perf.hospital.invented import Person


class Fate(StrEnum):
    """What becomes of an examination."""

    PERFORMED = "performed"
    LATE = "late"
    SILENT = "silent"
    NUMBERLESS = "numberless"
    CANCELED = "canceled"
    DISCONTINUED = "discontinued"
    UNORDERED = "unordered"
    MISTAKEN = "mistaken"
    MERGED = "merged"


_FIRST: Final = tuple(Fate)
"""The first examinations of a day have each fate once."""
_WEIGHTS: Final = {
    Fate.PERFORMED: 50, Fate.LATE: 8, Fate.SILENT: 10, Fate.NUMBERLESS: 8, Fate.CANCELED: 8, Fate.DISCONTINUED: 3,
    Fate.UNORDERED: 5, Fate.MISTAKEN: 3, Fate.MERGED: 5,
}  # fmt: skip
MODALITIES: Final = ("CT", "MR", "US", "CR")
STATIONS: Final = {modality: f"SIM{modality}1" for modality in MODALITIES}
"""The AE title of each."""
_NEITHER: Final = (Fate.CANCELED, Fate.DISCONTINUED)
EXAMINATIONS_AN_HOUR: Final = 20


@dataclass(slots=True)
class Examination:
    """One examination: what is planned, and then what was done."""

    run: int
    number: int
    fate: Fate
    person: Person
    mistaken_for: Person | None
    """Whom the images of a mistaken one name, or who the patient of a merged one turns out to be."""
    modality: str
    step_count: int
    image_count: int
    at_s: float
    """Seconds after the beginning of the day."""
    stored: list[str] = field(default_factory=list)
    """SOP Instance UIDs that the archive has accepted."""
    performed_uid: str = ""
    """The step that was reported."""
    workitem_uid: str = ""
    document_count: int = 0
    """Reports that were sent by HL7, each of which becomes an instance."""
    committed_count: int = 0
    read_count: int = 0

    @property
    def uid(self) -> str:
        """Its Study Instance UID, and the root of all others."""
        return f"{invented.UID_ROOT}.{self.run}.{self.number}"

    @property
    def accession(self) -> str:
        return f"{invented.ACCESSION_PREFIX}{invented.letters(self.run)}N{self.number}"

    @property
    def station(self) -> str:
        return STATIONS[self.modality]

    @property
    def step_ids(self) -> list[str]:
        return [f"{self.accession[3:]}S{step}" for step in range(1, self.step_count + 1)]

    @property
    def is_ordered(self) -> bool:
        return self.fate is not Fate.UNORDERED

    @property
    def has_study(self) -> bool:
        return self.fate not in _NEITHER

    @property
    def is_reported(self) -> bool:
        """Whether the modality reports its steps."""
        return self.fate not in (Fate.CANCELED, Fate.SILENT, Fate.MISTAKEN)

    @property
    def is_linked(self) -> bool:
        """Whether the study belongs to its order."""
        return self.has_study and self.fate not in (Fate.UNORDERED, Fate.MISTAKEN)

    @property
    def states(self) -> frozenset[str]:
        """The states in which its scheduled steps may be at the end."""
        match self.fate:
            case Fate.CANCELED:
                return frozenset(("CANCELED",))
            case Fate.DISCONTINUED:
                return frozenset(("DISCONTINUED",))
            case Fate.MISTAKEN:
                return frozenset(("SCHEDULED",))
            case Fate.SILENT:
                return frozenset(("SCHEDULED", "COMPLETED"))  # by the arrival, when the study is complete
        return frozenset(("COMPLETED",))

    @property
    def has_workitem(self) -> bool:
        """Whether there is work for the assistant."""
        return self.is_linked and self.modality in ("CT", "MR")

    @property
    def has_document(self) -> bool:
        return self.is_linked and self.number % 2 == 0

    @property
    def shown_person(self) -> Person:
        """The patient of the study in answers."""
        return self.mistaken_for if self.mistaken_for is not None else self.person


def examinations(run: int, seed: int) -> Iterator[Examination]:
    """The examinations of a day, without end."""
    chance = random.Random(seed)
    at_s, number = 0.0, 0
    while True:
        number += 1
        fate = _FIRST[number - 1] if number <= len(_FIRST) else chance.choices([*_WEIGHTS], [*_WEIGHTS.values()])[0]
        other = None
        if fate in (Fate.MISTAKEN, Fate.MERGED):
            other = invented.person(run, 500_000 + number, chance)
        yield Examination(
            run=run,
            number=number,
            fate=fate,
            person=invented.person(run, number, chance),
            mistaken_for=other,
            modality=MODALITIES[number % len(MODALITIES)],
            step_count=chance.randint(1, 2),
            image_count=2 * chance.randint(1, 3),
            at_s=at_s,
        )
        at_s += chance.expovariate(EXAMINATIONS_AN_HOUR / 3600)
