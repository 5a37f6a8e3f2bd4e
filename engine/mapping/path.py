"""Paths to values of a message: PID-5, PID-3.4, PID-3.4.2, ORC-7.4; a number in brackets chooses a repetition.

A path is checked against the standard's segments when it is read: a name that does not exist, or a field beyond the
last one, is an error at the start and not an empty value in a year. Segments that begin with Z are a site's own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import ProfileError
from engine.hl7.message import Value

if TYPE_CHECKING:
    from engine.mapping.scope import Scope

FIELDS = {
    "MSH": 25, "EVN": 7, "PID": 40, "PD1": 23, "NK1": 41, "PV1": 54, "PV2": 50, "MRG": 7, "AL1": 8, "IAM": 30,
    "DG1": 26, "GT1": 57, "IN1": 55, "ORC": 38, "OBR": 55, "OBX": 30, "NTE": 9, "TQ1": 14, "TQ2": 10, "IPC": 9,
    "SPM": 35, "SAC": 50, "SCH": 27, "RGS": 3, "AIS": 12, "AIG": 14, "AIL": 12, "AIP": 12, "APR": 5, "TXA": 28,
    "DB1": 8, "ACC": 13, "ROL": 14, "CTI": 3, "PRT": 20,
}  # fmt: skip
"""Segment → the number of its last field in any version up to 2.9."""

FIELDS_MAX_OF_Z = 200

_PATH = re.compile(r"([A-Z][A-Z0-9]{2})-(\d{1,3})(?:\[(\d{1,2})\])?(?:\.(\d{1,2})(?:\.(\d{1,2}))?)?")


class Path(NamedTuple):
    """Where a value lies."""

    segment: str
    field: int
    repetition: int
    """From 1 on; 0: the first one, or all of them where several values are possible."""
    component: int
    """0: the whole field."""
    subcomponent: int
    """0: the whole component."""

    def __str__(self) -> str:
        repetition = f"[{self.repetition}]" if self.repetition else ""
        component = f".{self.component}" if self.component else ""
        return f"{self.segment}-{self.field}{repetition}{component}" + (
            f".{self.subcomponent}" if self.subcomponent else ""
        )

    def values(self, scope: Scope) -> list[Value]:
        """The repetitions that are there; of a component, values that consist of it."""
        name, field, repetition, component, subcomponent = self
        fields = scope.fields.get(name)
        if fields is None or field >= len(fields) or not fields[field]:
            return []
        found = scope.firsts[name].repetitions(field)
        if repetition:
            found = found[repetition - 1 : repetition]
        if component:
            found = [value.part(component, subcomponent) for value in found]
        if len(found) == 1:
            return found if found[0].raw else []
        return [value for value in found if value.raw]


def parse(text: str) -> Path:
    """Raises ProfileError."""
    match = _PATH.fullmatch(text.strip())
    if match is None:
        raise ProfileError(f"{text.strip()!r} is no path: write PID-5 or PID-3.4 or PID-3[2].4.1")
    segment, field = match[1], int(match[2])
    last = FIELDS_MAX_OF_Z if segment.startswith("Z") else FIELDS.get(segment)
    if last is None:
        raise ProfileError(f"there is no segment {segment}")
    if not 1 <= field <= last:
        raise ProfileError(f"{segment} has the fields 1 to {last}, not {field}")
    numbers = [int(match[group] or 0) for group in (3, 4, 5)]
    if any(match[group] is not None and int(match[group]) == 0 for group in (3, 4, 5)):
        raise ProfileError(f"{text.strip()!r}: repetitions, components and subcomponents are counted from 1")
    return Path(segment, field, *numbers)
