"""The names of what a simulation makes: everything shows that it is invented, and is found again.

    Patient ID    SIM-<run>-<number>    assigning authority FILMROOM SIMULATION    name Invented^...
    accession     SIM<run>N<number>     at most 15 characters
    UIDs          1.2.826.0.1.3680043.10.1599.10.<run in seconds since 2026>.<number>...

The run is the second in which it began, in base 36 where letters are possible.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Final

UID_ROOT: Final = "1.2.826.0.1.3680043.10.1599.10"
AUTHORITY: Final = "FILMROOM SIMULATION"
PATIENT_ID_PREFIX: Final = "SIM-"
ACCESSION_PREFIX: Final = "SIM"
FAMILY_NAME: Final = "Invented"
APPLICATION, FACILITY = "SIMRIS", "SIMULATION"
INSTITUTION: Final = "Invented Hospital"

EPOCH_S: Final = 1_767_225_600
"""2026-01-01, from which runs are numbered."""
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_GIVEN_NAMES: Final = (
    "Ada", "Björn", "Chloë", "Dmitri", "Élodie", "Fatma", "Grace", "Håkon", "İpek", "Jürgen", "Łucja", "Małgorzata",
    "Nuño", "Ørsted", "Petr", "Quentin", "Rosa", "Şule", "Tomáš", "Ursula", "Václav", "Wanda", "Ximena", "Zoë",
)  # fmt: skip


def run_now() -> int:
    """The number of a run that begins now."""
    return max(1, int(time.time()) - EPOCH_S)


def letters(run: int) -> str:
    """A run in base 36."""
    text = ""
    while run:
        run, digit = divmod(run, 36)
        text = _DIGITS[digit] + text
    return text or "0"


def is_ours(uid: str) -> bool:
    """Whether a UID is of a simulation."""
    return uid.startswith(f"{UID_ROOT}.")


@dataclass(frozen=True, slots=True)
class Person:
    """A patient."""

    patient_id: str
    given_name: str
    number: int
    birth_date: str
    sex: str

    @property
    def name(self) -> str:
        """As in DICOM; HL7 has the same first two components."""
        return f"{FAMILY_NAME}^{self.given_name} {self.number}"


def person(run: int, number: int, chance: random.Random) -> Person:
    """Person `number` of a run."""
    birth_date = f"{chance.randint(1935, 2019)}{chance.randint(1, 12):02}{chance.randint(1, 28):02}"
    given_name, sex = chance.choice(_GIVEN_NAMES), chance.choice("MF")
    return Person(f"{PATIENT_ID_PREFIX}{letters(run)}-{number}", given_name, number, birth_date, sex)
