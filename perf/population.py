"""The patients and studies of a filled archive: deterministic, each computed from its number alone.

A filler stores study n, and a query program queries study n later, without stored state. In the `short` shape ten
consecutive studies have 100 instances in 28 series, so 100 000 studies are 1 000 000 instances; in `long` each series
has ten times as many; in `single` a study is one instance. A patient has three studies on average.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from perf import corpus

MODALITIES = ("CT", "MR", "US", "CR", "DX", "MG", "PT", "NM")
MODALITY_WEIGHTS = (34, 22, 12, 10, 14, 4, 2, 2)

# Instances of each series of ten studies in a row: 100 instances in 28 series.
_SHORT = (
    (1,),
    (1, 1),
    (2,),
    (2, 2),
    (3, 2, 1),
    (4, 4),
    (5, 4, 3),
    (5, 5, 5),
    (6, 6, 4, 3, 1),
    (10, 10, 5, 3, 1, 1),
)
SHAPES = {
    "short": _SHORT,
    "long": tuple(tuple(10 * count for count in series) for series in _SHORT),
    "single": ((1,),),
}

_SYLLABLES = (
    "an", "ber", "da", "el", "fa", "gar", "ho", "is", "ju", "ka", "lo", "mar", "ne", "ol", "pe", "ri", "so", "tu",
)  # fmt: skip
INSTITUTIONS = 400
DEPARTMENTS = ("Radiology", "Cardiology", "Oncology", "Surgery", "Emergency", "Neurology", "Paediatrics", "Dentistry")
SENDERS = 60

_REGIONS = ("Head", "Chest", "Abdomen", "Knee", "Spine")
_GIVEN = (
    "Anna", "Bernd", "Clara", "David", "Elena", "Felix", "Greta", "Henri", "Ines", "Jonas", "Karla",
    "Lukas", "Maria", "Noah", "Olga", "Paul", "Rosa", "Simon", "Tina", "Uwe", "Vera", "Walter",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """The values of one study that a query can use; patching pads each to its fixed length."""

    number: int
    patient_name: bytes
    patient_id: bytes
    birth_date: bytes
    sex: bytes
    accession_number: bytes
    study_id: bytes
    study_date: bytes
    study_time: bytes
    description: bytes
    referring_physician: bytes
    modality: str
    series_instance_counts: tuple[int, ...]
    """Number of instances of each series."""
    institution: bytes = b"Example University Hosp."
    department: bytes = b"Radiology"
    sender: str = "PERF"
    """The AE title that stores it, where nothing is sent over a network."""

    @property
    def study_uid(self) -> bytes:
        return corpus.study_uid(self.number)

    @property
    def instance_count(self) -> int:
        return sum(self.series_instance_counts)


def study(number: int, shape: str = "short") -> StudyFacts:
    """Study `number` of the realistic population, in one of SHAPES."""
    rng = random.Random(number * 2_654_435_761)
    patient = _patient_of(number)
    person = random.Random(patient * 40_503 + 7)
    family = "".join(person.choices(_SYLLABLES, k=3)).capitalize()
    given = person.choice(_GIVEN)
    birth_date = b"%04d%02d%02d" % (person.randint(1930, 2015), person.randint(1, 12), person.randint(1, 28))
    sex = person.choice((b"M", b"F"))
    modality = rng.choices(MODALITIES, MODALITY_WEIGHTS)[0]
    return StudyFacts(
        number=number,
        patient_name=f"{family}^{given}".encode(),
        patient_id=b"P%08d" % patient,
        birth_date=birth_date,
        sex=sex,
        accession_number=b"A%010d" % number,
        study_id=b"S%07d" % (number % 10_000_000),
        study_date=b"%04d%02d%02d" % (rng.randint(2015, 2024), rng.randint(1, 12), rng.randint(1, 28)),
        study_time=b"%02d%02d%02d" % (min(23, max(0, int(rng.gauss(12, 3)))), rng.randint(0, 59), rng.randint(0, 59)),
        description=f"{modality} {rng.choice(_REGIONS)} {rng.choice('ABC')}".encode(),
        referring_physician=f"{rng.choice(_SYLLABLES).capitalize()}{rng.choice(_SYLLABLES)}^Dr".encode(),
        modality=modality,
        series_instance_counts=SHAPES[shape][number % len(SHAPES[shape])],
        institution=b"Hospital %03d" % rng.randrange(INSTITUTIONS),
        department=rng.choice(DEPARTMENTS).encode(),
        sender=f"DEVICE{rng.randrange(SENDERS):02d}",
    )


def _patient_of(number: int) -> int:
    """The patient of a study: three studies each, which arrive far apart within blocks of 300."""
    block, place = divmod(number, 300)
    return block * 100 + place % 100


def studies(first: int, count: int, shape: str = "short") -> Iterator[StudyFacts]:
    return (study(number, shape) for number in range(first, first + count))


PATIENT_ID_PREFIX = b"BENCH-"
"""Of the patients of loads, one a study."""

LONG_STUDY = 900_000_000
"""The number of the study that is one long series."""


def long_study(instance_count: int) -> StudyFacts:
    """A study of one series."""
    return plain_study(LONG_STUDY, "CT", (instance_count,))


def plain_study(number: int, modality: str, series_instance_counts: tuple[int, ...]) -> StudyFacts:
    """One study of a load, with this shape and its own patient."""
    return StudyFacts(
        number=number,
        patient_name=b"Bench^%011d" % number,
        patient_id=PATIENT_ID_PREFIX + b"%011d" % number,
        birth_date=b"19600101",
        sex=b"O",
        accession_number=b"B%011d" % number,
        study_id=b"S%07d" % (number % 10_000_000),
        study_date=b"20240229",
        study_time=b"101112",
        description=b"Load test",
        referring_physician=b"Bench^Dr",
        modality=modality,
        series_instance_counts=series_instance_counts,
    )
