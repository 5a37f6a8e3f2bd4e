"""A walk over the names of patients, from a pattern to the steps of those who have such a name.

    pattern ──► names that begin as it does, in some thousands at once ──► patients ──► orders ──► steps

The names are folded as queries fold them (`names`), so a name costs a look for the longest piece of the pattern. What
is found is a candidate: whoever asked still compares, since a pattern may have several groups, and a long name is cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from engine.dicom import values
from engine.orders.keys import pattern_of
from engine.orders.names import KEY_BYTES_MAX, id_key
from engine.orders.transactions import Reading

NAMES_AT_ONCE: Final = 4000
"""Names of one call: some milliseconds."""
PATIENTS_AT_ONCE: Final = 100
"""Patients whose steps are looked up in one call."""

_LETTER = b"n"


class _Pattern:
    """The first group of a person name as a query has it."""

    def __init__(self, group: str) -> None:
        pieces = re.split(r"[*?]", group)
        self.start = pieces[0].encode()[:KEY_BYTES_MAX]
        self.piece = max(pieces, key=len).encode()
        self.matches = pattern_of(group)

    def meets(self, name: bytes) -> bool:
        if len(name) >= KEY_BYTES_MAX:
            return True
        return self.piece in name and self.matches(name.decode("utf-8", "replace")) is not None


class NameWalk:
    """A walk in progress."""

    def __init__(self, patterns: Sequence[_Pattern]) -> None:
        self._patterns = patterns
        self._prefix = _LETTER + (patterns[0].start if len(patterns) == 1 else b"")
        self._position: bytes | None = self._prefix
        self._patients: list[int] = []

    @classmethod
    def of(cls, texts: Sequence[str]) -> NameWalk | None:
        """The walk for the values of a key, which are alternatives; None if one of them is met by every name."""
        groups = [next(filter(None, values.fold_person_name(text).split("=")), "") for text in texts]
        return cls([_Pattern(group) for group in groups]) if groups and all(groups) else None

    def next(self, reading: Reading) -> list[int] | None:
        """The steps of the next patients, some of them twice; none if there was none so far. None: that was all."""
        if not self._patients and self._position is not None:
            self._patients = self._scan(reading, self._position)
        if not self._patients:
            return None if self._position is None else []
        patients, self._patients = self._patients[:PATIENTS_AT_ONCE], self._patients[PATIENTS_AT_ONCE:]
        orders = [order for patient in patients for order in reading.ids(b"o" + id_key(patient))]
        return [step for order in orders for step in reading.ids(b"s" + id_key(order))]

    def _scan(self, reading: Reading, start: bytes) -> list[int]:
        """The patients of some names; sets the next position."""
        patterns = self._patterns
        patients: list[int] = []
        self._position = None
        for count, key in enumerate(reading.name_keys(start)):
            if not key.startswith(self._prefix):
                break
            if count >= NAMES_AT_ONCE:
                self._position = bytes(key)
                break
            name = key[1:-9]
            if any(pattern.meets(name) for pattern in patterns):
                patients.append(int.from_bytes(key[-8:], "big"))
        return patients
