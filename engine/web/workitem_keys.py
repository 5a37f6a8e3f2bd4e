"""The query of a search for workitems (PS3.18 11.9), and the keys of a filter: parameters as an identifier.

    PatientID=4711&00741000=SCHEDULED&ScheduledWorkitemCodeSequence.CodeValue=W1&includefield=all&limit=50&offset=0

Of each match come the keys, the attributes that PS3.4 Table CC.2.5-3 gives with every match, and those of includefield.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from engine.dicom import charset, keywords, tags
from engine.dicom.identifier import Identifier, Value
from engine.errors import RequestError
from engine.orders.attributes import Items
from engine.web.route import Parameter

PARAMETER_COUNT_MAX: Final = 500
STEPS_MAX: Final = 8
OFFSET_MAX: Final = 10_000_000

_ALWAYS: Final = (
    tags.SOPClassUID, tags.SOPInstanceUID, tags.ScheduledProcedureStepPriority, tags.ProcedureStepLabel,
    tags.WorklistLabel, tags.ScheduledStationNameCodeSequence, tags.ScheduledStationClassCodeSequence,
    tags.ScheduledStationGeographicLocationCodeSequence, tags.ScheduledHumanPerformersSequence,
    tags.ScheduledProcedureStepStartDateTime, tags.ScheduledWorkitemCodeSequence, tags.InputReadinessState,
    tags.InputInformationSequence, tags.StudyInstanceUID, tags.PatientName, tags.PatientID, tags.IssuerOfPatientID,
    tags.OtherPatientIDsSequence, tags.PatientBirthDate, tags.PatientSex, tags.AdmissionID,
    tags.IssuerOfAdmissionIDSequence, tags.AdmittingDiagnosesDescription, tags.AdmittingDiagnosesCodeSequence,
    tags.ReferencedRequestSequence, tags.ProcedureStepState, tags.ProcedureStepProgressInformationSequence,
)  # fmt: skip
_OTHERS: Final = ("limit", "offset", "includefield", "fuzzymatching", "accept", "charset")

PARAMETERS: Final = (
    Parameter("limit", "The largest number of workitems to return", schema="integer"),
    Parameter("offset", "The number of matches to skip at the start", schema="integer"),
    Parameter("includefield", "Attributes to return beside the usual ones: keywords or tags, or `all`"),
    Parameter("{attribute}", "A value that an attribute must have, with * and ?; ranges of dates and times with -"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A search."""

    identifier: Identifier
    limit: int
    offset: int
    fields: frozenset[int] | None
    """The attributes to return; None: all."""

    def returned(self, items: Items) -> dict[int, Value]:
        """The attributes of a match."""
        return {tag: value for tag, value in items.items() if self.fields is None or tag in self.fields}


def parse(query_string: str, limit_max: int) -> Asked:
    """The search of a query string; `limit_max`: 0 for none. Raises RequestError."""
    pairs = _pairs(query_string)
    fields = {tag for name, value in pairs if name == "includefield" for tag in _fields(value)}
    is_all = any(name == "includefield" and value == "all" for name, value in pairs)
    identifier = identifier_of([pair for pair in pairs if pair[0] not in _OTHERS])
    return Asked(
        identifier,
        min(_number(pairs, "limit", limit_max or OFFSET_MAX), limit_max or OFFSET_MAX),
        _number(pairs, "offset", 0),
        None if is_all else frozenset({*_ALWAYS, *fields, *identifier.items}),
    )


def _pairs(query_string: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            query_string, keep_blank_values=True, errors="strict", max_num_fields=PARAMETER_COUNT_MAX, separator="&"
        )
    except ValueError:
        raise RequestError(f"the query is not UTF-8, or has more than {PARAMETER_COUNT_MAX} parameters") from None


def filter_of(text: str) -> Identifier:
    """The keys of a filter: attribute=value, separated by commas. Raises RequestError."""
    pairs = [each.partition("=")[::2] for each in text.split(",") if each.strip()]
    return identifier_of([(name.strip(), value.strip()) for name, value in pairs])


def identifier_of(pairs: list[tuple[str, str]]) -> Identifier:
    """Keys as an identifier. Raises RequestError."""
    identifier = Identifier({}, charset.UTF_8)
    for name, value in pairs:
        _set(identifier, name, value)
    return identifier


def _set(identifier: Identifier, name: str, value: str) -> None:
    steps = name.split(".")
    if len(steps) > STEPS_MAX:
        raise RequestError(f"{name[:64]}: the path has more than {STEPS_MAX} attributes")
    path = [_tag(step) for step in steps]
    for tag in path[:-1]:
        if tags.vr_of(tag) != "SQ":
            raise RequestError(f"{name[:64]}: {tags.keyword_of(tag)} is not a sequence")
        inner = identifier.items.setdefault(tag, [Identifier({}, charset.UTF_8)])
        assert isinstance(inner, list)
        if not inner:
            inner.append(Identifier({}, charset.UTF_8))
        identifier = inner[0]
    last = path[-1]
    if last in identifier.items:
        raise RequestError(f"{name[:64]}: occurs twice")
    if tags.vr_of(last) == "SQ":
        if value:
            raise RequestError(f"{name[:64]} is a sequence: name an attribute of its items")
        identifier.items[last] = []
    else:
        identifier.items[last] = value.replace(",", "\\").encode() if tags.vr_of(last) == "UI" else value.encode()


def _tag(name: str) -> int:
    tag = keywords.tag_of(name)
    if tag is None or tag >> 16 == 0:
        raise RequestError(f"{name[:64]}: no attribute")
    return tag


def _fields(text: str) -> list[int]:
    return [_tag(name.partition(".")[0]) for name in text.split(",") if name and name != "all"]


def _number(pairs: list[tuple[str, str]], name: str, default: int) -> int:
    for key, value in pairs:
        if key == name:
            if not (value.isascii() and value.isdigit() and len(value) < 9):
                raise RequestError(f"{name}: is not a non-negative integer")
            return int(value)
    return default
