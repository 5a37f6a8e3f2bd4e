"""Searches (search.html): parameters become keys of a query of the archive. No I/O.

ImagingStudy?patient=Patient/P1&started=ge2026-01-01&modality=CT,MR&_count=20&_include=ImagingStudy:endpoint
Patient?identifier=urn:oid:1.2|P1          Patient?family=Doe&birthdate=1970-02-03

values of one parameter, with a comma      any of them
a parameter that occurs twice              both must be met; only dates can
an unknown parameter                       refused, as a misspelt one would find everything; with
                                           Prefer: handling=lenient it is ignored, and an outcome says so
* ? \\ in a value                           refused: they have a meaning in DICOM, and none here
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from engine.dicom import tags
from engine.errors import RequestError
from engine.fhir.datatypes import DCM, DICOM_UID
from engine.fhir.dates import range_of
from engine.fhir.imaging_study import ENDPOINT_ID
from engine.fhir.patient import GENDERS
from engine.fhir.resource_id import read

COUNT_USUAL: Final = 20
COUNT_MAX: Final = 200
VALUES_MAX: Final = 100
"""Values of one parameter."""

_RESERVED: Final = re.compile(r"[*?\\]")
_ESCAPED: Final = re.compile(r"\\([,|$\\])")
_COMMA: Final = re.compile(r"(?<!\\),")
_BAR: Final = re.compile(r"(?<!\\)\|")

Pairs = Sequence[tuple[str, str]]


@dataclass(slots=True)
class Search:
    """What a client searches for."""

    keys: dict[int, str] = field(default_factory=dict)
    """Match keys as text of DICOM; several values with a backslash between them match if any does."""
    is_empty: bool = False
    """Nothing can match: two values exclude each other, or name what this server does not have."""
    is_descending: bool = True
    """By the start of the study; the newest one first."""
    count: int = COUNT_USUAL
    """Matches on a page; 0: only how many there are."""
    cursor: str | None = None
    wants_total: bool = False
    includes: set[str] = field(default_factory=set)
    """`patient`, `endpoint`, `study`, `reports`, `request`, `tasks`: resources to add."""
    elements: frozenset[str] = frozenset()
    """The only members of a resource, beside mandatory ones; none: all."""
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Conditions that are none of a study: by name, any of these values."""
    patients: tuple[tuple[str, str], ...] | None = None
    """For what is not a study: Patient IDs with their issuers, "": any."""
    ignored: list[str] = field(default_factory=list)
    """Parameters that were ignored."""

    def add(self, tag: int, values: Sequence[str]) -> None:
        """Adds a match key. Raises RequestError for one that there is already."""
        if tag in self.keys:
            raise RequestError("two parameters ask for the same attribute")
        for value in values:
            if _RESERVED.search(value):
                raise RequestError("a value with one of * ? \\ cannot be searched for")
        if not any(values):
            raise RequestError("a parameter has no value")
        self.keys[tag] = "\\".join(values)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a resource."""

    kind: str
    """Its type, as a capability statement has it: token, reference, date, string."""
    text: str
    apply: Callable[[Search, str, Sequence[str]], None]
    """(search, name as it was sent, all its values): adds keys."""
    includes: tuple[str, ...] = ()
    """Of `_include` and `_revinclude`: what can be asked for."""


def parse(parameters: Mapping[str, Parameter], pairs: Pairs, root: str, *, is_lenient: bool) -> Search:
    """Parses the parameters of a search. `root`: the address of FHIR on this server. Raises RequestError."""
    search = Search()
    by_name: dict[str, list[str]] = {}
    for name, value in pairs:
        by_name.setdefault(name, []).append(value)
    for name, values in by_name.items():
        parameter = parameters.get(name)
        if parameter is None and name in _CONTROLS:
            _CONTROLS[name](search, name, values)
        elif parameter is not None:
            parameter.apply(search, name, [value.replace(f"{root}/", "", 1) for value in values])
        elif is_lenient:
            search.ignored.append(_shown(name))
        else:
            raise RequestError(
                f"{_shown(name)}: is no parameter of this search; GET [base]/metadata lists those that are"
            )
    return search


def _shown(name: str) -> str:
    return re.sub(r"[^\w.:-]", "?", name[:64], flags=re.ASCII)


# -- values ---------------------------------------------------------------------------------------


def alternatives(name: str, values: Sequence[str]) -> list[str]:
    """The values of a parameter that occurs once, of which any may match."""
    if len(values) > 1:
        raise RequestError(f"{name}: occurs twice")
    found = [each.strip() for each in _COMMA.split(values[0])]
    if len(found) > VALUES_MAX:
        raise RequestError(f"{name}: has more than {VALUES_MAX} values")
    return found


def _plain(value: str) -> str:
    return _ESCAPED.sub(r"\1", value)


def tokens(name: str, values: Sequence[str]) -> list[tuple[str | None, str]]:
    """(system, value) of each token; None: any system, "": none."""
    pairs = [_BAR.split(each, maxsplit=1) for each in alternatives(name, values)]
    return [(_plain(pair[0]) if len(pair) == 2 else None, _plain(pair[-1])) for pair in pairs]


# -- parameters of imaging studies ----------------------------------------------------------------


def _id(search: Search, name: str, values: Sequence[str]) -> None:
    search.add(tags.StudyInstanceUID, alternatives(name, values))


def _identifier(search: Search, name: str, values: Sequence[str]) -> None:
    chosen = tokens(name, values)
    uids = [value.removeprefix("urn:oid:") for system, value in chosen if system == DICOM_UID or _is_uid(value)]
    if uids and len(uids) < len(chosen):
        raise RequestError(f"{name}: UIDs and accession numbers cannot be searched for at once")
    if uids:
        search.add(tags.StudyInstanceUID, uids)
        return
    # The issuers of accession numbers are not indexed: what has a system is another identifier.
    accessions = [value for system, value in chosen if not system]
    search.is_empty |= not accessions
    if accessions:
        search.add(tags.AccessionNumber, accessions)


def _is_uid(value: str) -> bool:
    return value.startswith("urn:oid:")


def _patient(search: Search, name: str, values: Sequence[str]) -> None:
    ids = [each.removeprefix("Patient/") for each in alternatives(name, values)]
    if any("/" in each for each in ids):
        search.is_empty = True  # a resource of another kind, or of another server
        return
    found = [read(each) for each in ids]
    _add_patients(search, name, [(key.patient_id, key.issuer) for key in found])


def _patient_identifier(search: Search, name: str, values: Sequence[str]) -> None:
    chosen = tokens(name, values)
    _add_patients(search, name, [(value, _issuer(system)) for system, value in chosen])


def _issuer(system: str | None) -> str:
    """The issuer of a system; "": any."""
    return (system or "").removeprefix("urn:oid:")


def _add_patients(search: Search, name: str, patients: Sequence[tuple[str, str]]) -> None:
    issuers = {issuer for _, issuer in patients}
    if len(issuers) > 1:
        raise RequestError(f"{name}: the patients of several issuers cannot be searched for at once")
    search.add(tags.PatientID, [patient_id for patient_id, _ in patients])
    issuer = issuers.pop()
    if issuer:
        search.add(tags.IssuerOfPatientID, [issuer])


def _started(search: Search, name: str, values: Sequence[str]) -> None:
    if any(_COMMA.search(value) for value in values):
        raise RequestError(f"{name}: has a list; name the parameter twice for a range")
    span = range_of(name, values)
    if span is None:
        search.is_empty = True
        return
    search.add(tags.StudyDate, [span.dates])
    if span.times:
        search.add(tags.StudyTime, [span.times])
    if span.zone:
        search.add(tags.TimezoneOffsetFromUTC, [span.zone])


def _modality(search: Search, name: str, values: Sequence[str]) -> None:
    codes = [value for system, value in tokens(name, values) if system in (None, DCM)]
    search.is_empty |= not codes
    if codes:
        search.add(tags.ModalitiesInStudy, codes)


def _status(search: Search, name: str, values: Sequence[str]) -> None:
    search.is_empty |= "available" not in [value for _, value in tokens(name, values)]


def _endpoint(search: Search, name: str, values: Sequence[str]) -> None:
    ids = [each.removeprefix("Endpoint/") for each in alternatives(name, values)]
    search.is_empty |= ENDPOINT_ID not in ids


def _sop_class(search: Search, name: str, values: Sequence[str]) -> None:
    search.add(tags.SOPClassesInStudy, [value.removeprefix("urn:oid:") for _, value in tokens(name, values)])


def including(table: Mapping[str, str]) -> Parameter:
    """`_include` or `_revinclude` of a resource. `table`: what is asked for → what to add."""

    def apply(search: Search, name: str, values: Sequence[str]) -> None:
        for value in values:
            # A third part names the kind of what is added, which each of ours has only one of.
            what = table.get(":".join(value.split(":")[:2]))
            if what is None or value.count(":") > 2:
                raise RequestError(f"{name}: must be one of {', '.join(table)}")
            search.includes.add(what)

    return Parameter("special", f"Resources to add: {', '.join(table)}", apply, tuple(table))


def sorting(by: str) -> Parameter:
    """`_sort` of a resource, by the start of the study, which is called `by`."""

    def apply(search: Search, name: str, values: Sequence[str]) -> None:
        if values not in ([by], [f"-{by}"]):
            raise RequestError(f"{name}: must be {by} or -{by}")
        search.is_descending = values[0].startswith("-")

    return Parameter("special", f"The order of matches: {by} or -{by}", apply)


IMAGING_STUDY: Final[Mapping[str, Parameter]] = {
    "_id": Parameter("token", "Study Instance UID", _id),
    "identifier": Parameter("token", "urn:dicom:uid|urn:oid:UID, or the accession number", _identifier),
    "patient": Parameter("reference", "Whose study it is", _patient),
    "patient.identifier": Parameter("token", "Patient ID, alone or as urn:oid:ISSUER|ID", _patient_identifier),
    "patient:identifier": Parameter("token", "The same", _patient_identifier),
    "subject": Parameter("reference", "Whose study it is", _patient),
    "subject:Patient": Parameter("reference", "Whose study it is", _patient),
    "subject:identifier": Parameter("token", "As patient.identifier", _patient_identifier),
    "started": Parameter("date", "When the study began", _started),
    "modality": Parameter("token", "A modality of one of its series", _modality),
    "status": Parameter("token", "available: all that are here", _status),
    "endpoint": Parameter("reference", "Where its images are", _endpoint),
    "dicom-class": Parameter("uri", "A SOP class of one of its instances (R4)", _sop_class),
    "instance-class": Parameter("uri", "The same", _sop_class),
    "_sort": sorting("started"),
    "_include": including(
        {"ImagingStudy:patient": "patient", "ImagingStudy:subject": "patient", "ImagingStudy:endpoint": "endpoint"}
    ),
    "_revinclude": including({"DiagnosticReport:study": "reports", "DiagnosticReport:imaging-study": "reports"}),
}

# -- parameters of patients -----------------------------------------------------------------------


def _birth_date(search: Search, name: str, values: Sequence[str]) -> None:
    span = range_of(name, values)
    if span is None or span.times:
        raise RequestError(f"{name}: is not a date, or a range that is empty")
    search.add(tags.PatientBirthDate, [span.dates])


def _gender(search: Search, name: str, values: Sequence[str]) -> None:
    codes = {gender: code for code, gender in GENDERS.items()}
    found = [codes[value] for _, value in tokens(name, values) if value in codes]
    search.is_empty |= not found
    if found:
        search.add(tags.PatientSex, found)


def _name(search: Search, name: str, values: Sequence[str]) -> None:
    """A string of FHIR matches the beginning of a part of the name, whatever its case."""
    (value,) = alternatives(name, values) if values and not _COMMA.search(values[0]) else ("",)
    value = _plain(value)
    if not value or _RESERVED.search(value) or "^" in value or "=" in value:
        raise RequestError(f"{name}: is not the beginning of a name")
    if tags.PatientName in search.keys:
        raise RequestError(f"{name}: only one part of a name can be searched for")
    search.keys[tags.PatientName] = {"family": f"{value}*", "given": f"*^{value}*"}.get(name, f"*{value}*")


PATIENT: Final[Mapping[str, Parameter]] = {
    "_id": Parameter("token", "The id of the resource", _patient),
    "identifier": Parameter("token", "Patient ID, alone or as urn:oid:ISSUER|ID", _patient_identifier),
    "name": Parameter("string", "A part of the name", _name),
    "family": Parameter("string", "The beginning of the family name", _name),
    "given": Parameter("string", "The beginning of the given name", _name),
    "birthdate": Parameter("date", "Date of birth", _birth_date),
    "gender": Parameter("token", "male, female or other", _gender),
}

# -- parameters of every search -------------------------------------------------------------------


def _count(search: Search, name: str, values: Sequence[str]) -> None:
    if len(values) > 1 or not re.fullmatch(r"\d{1,6}", values[0], re.ASCII):
        raise RequestError("_count: is not a number")
    search.count = min(int(values[0]), COUNT_MAX)
    search.wants_total |= search.count == 0


def _total(search: Search, name: str, values: Sequence[str]) -> None:
    if values[0] not in ("none", "estimate", "accurate"):
        raise RequestError("_total: must be none, estimate or accurate")
    search.wants_total |= values[0] != "none"


def _summary(search: Search, name: str, values: Sequence[str]) -> None:
    if values[0] == "count":
        search.count, search.wants_total = 0, True
    elif values[0] not in ("false", "data"):
        raise RequestError("_summary: must be count, data or false")


def _elements(search: Search, name: str, values: Sequence[str]) -> None:
    names = frozenset(alternatives(name, values))
    if not all(re.fullmatch(r"[A-Za-z]{1,64}", each, re.ASCII) for each in names):
        raise RequestError("_elements: must have names of elements, with commas between them")
    search.elements = names


def _page(search: Search, name: str, values: Sequence[str]) -> None:
    search.cursor = values[0]


def _nothing(search: Search, name: str, values: Sequence[str]) -> None:
    """`_format` and `_pretty` are for the answer."""


PAGE: Final = "_page"
"""The cursor of a page, in links that this server makes."""

_CONTROLS: Final[Mapping[str, Callable[[Search, str, Sequence[str]], None]]] = {
    "_count": _count,
    "_total": _total,
    "_summary": _summary,
    "_elements": _elements,
    PAGE: _page,
    "_format": _nothing,
    "_pretty": _nothing,
}
