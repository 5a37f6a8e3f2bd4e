"""The parameters of a search (PS3.18 8.3.4, 10.6) as a query of the archive. Pure: no sockets, no index.

    /dicom-web/studies?PatientName=DOE*&00080020=20260101-&includefield=00081030,Modality&limit=101&fuzzymatching=true

    match keys        keyword or 8 digits, with dots into sequences, a private one with its creator's element; once each
    includefield      any number of times, in lists; `all` is what the index keeps at the level
    limit, offset     of matches in a stable order
    fuzzymatching, emptyvaluematching, multiplevaluematching    as the options of C-FIND of these names
    accept, charset   not looked at here

Ranges of a date and its time are one range (8.3.4.1.1); (0008,0201) says in which zone they are. A comma separates
UIDs and coded strings, encoded or not, a backslash any values; in names and other text a comma is one. A parameter that
is nothing of this is passed over and the answer has a warning; one with a value that makes no sense is refused by name.

What is always returned is PS3.18 Tables 10.6.3-3 to 10.6.3-5, and what clients cannot do without: the UIDs of the
levels above, Specific Character Set, Study Description.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import parse_qsl

from engine.archive.questions import COMPUTED, Keys, Level, Query, is_indexed, level_of, path_of, query_of, set_key
from engine.dicom import keywords, tags
from engine.dicom.schema import Schema
from engine.errors import QueryError, RequestError

PARAMETER_COUNT_MAX: Final = 500
OFFSET_MAX: Final = 1 << 40

STUDY_ATTRIBUTES: Final = (
    tags.StudyDate, tags.StudyTime, tags.AccessionNumber, tags.ModalitiesInStudy, tags.ReferringPhysicianName,
    tags.StudyDescription, tags.PatientName, tags.PatientID, tags.PatientBirthDate, tags.PatientSex,
    tags.StudyInstanceUID, tags.StudyID, tags.NumberOfStudyRelatedSeries, tags.NumberOfStudyRelatedInstances,
)  # fmt: skip
SERIES_ATTRIBUTES: Final = (
    tags.Modality, tags.SeriesInstanceUID, tags.SeriesNumber, tags.NumberOfSeriesRelatedInstances,
)  # fmt: skip
INSTANCE_ATTRIBUTES: Final = (tags.SOPClassUID, tags.SOPInstanceUID, tags.InstanceNumber)
"""These are returned without a value where there is none."""

KNOWN_ATTRIBUTES: Final[Mapping[Level, tuple[int, ...]]] = {
    Level.STUDY: (tags.TimezoneOffsetFromUTC,),
    Level.SERIES: (
        tags.SeriesDescription, tags.TimezoneOffsetFromUTC, tags.PerformedProcedureStepStartDate,
        tags.PerformedProcedureStepStartTime, tags.RequestAttributesSequence,
    ),
    Level.IMAGE: (tags.NumberOfFrames, tags.Rows, tags.Columns, tags.BitsAllocated),
}  # fmt: skip
"""These only with a value."""

_REQUEST_ATTRIBUTES: Final = (tags.ScheduledProcedureStepID, tags.RequestedProcedureID)
_ATTRIBUTES: Final = {
    Level.STUDY: STUDY_ATTRIBUTES,
    Level.SERIES: SERIES_ATTRIBUTES,
    Level.IMAGE: INSTANCE_ATTRIBUTES,
}
_SCOPES: Final = {Level.STUDY: tags.StudyInstanceUID, Level.SERIES: tags.SeriesInstanceUID}
_SWITCHES: Final = ("fuzzymatching", "emptyvaluematching", "multiplevaluematching")
_ANSWERED_HERE: Final = frozenset((tags.SpecificCharacterSet, tags.RetrieveURL, tags.InstanceAvailability))
_COMMA_SEPARATES: Final = frozenset(("UI", "CS"))
_OTHERS: Final = frozenset(("accept", "charset"))
_NUMBER: Final = re.compile(r"\d{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What is asked, and what is to be told of each match."""

    query: Query
    """Its limit is the asker's or the server's, whichever is less."""
    always: frozenset[int]
    """Attributes that are returned without a value too."""
    warnings: tuple[str, ...]
    """What of the request was passed over."""


def parse(
    query_string: str, level: Level, scope: Mapping[Level, str], schema: Schema, results_max: int = 0
) -> SearchRequest:
    """The request of a resource. `scope`: the UIDs of the levels above that the path names; `results_max`: 0 for all.

    Raises RequestError or QueryError.
    """
    reader = _Reader(level, schema)
    for name, value in _pairs(query_string):
        reader.take(name, value)
    reader.enter(scope)
    returned = reader.returned(scope)
    limit = min((most for most in (reader.limit, results_max or None) if most is not None), default=None)
    query = replace(
        reader.query(returned),
        limit=limit,
        offset=reader.offset,
        fuzzy=reader.switches["fuzzymatching"],
        empty_values=reader.switches["emptyvaluematching"],
        multiple_values=reader.switches["multiplevaluematching"],
    )
    return SearchRequest(query, frozenset(returned.always), tuple(reader.warnings))


def _pairs(query_string: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            query_string, keep_blank_values=True, errors="strict", max_num_fields=PARAMETER_COUNT_MAX, separator="&"
        )
    except UnicodeDecodeError:
        raise RequestError("the query has bytes that are not UTF-8") from None
    except ValueError:
        raise RequestError(f"the query has more than {PARAMETER_COUNT_MAX} parameters") from None


@dataclass(slots=True)
class _Returned:
    keys: Keys
    always: set[int] = field(default_factory=set)


class _Reader:
    """One query string, parameter by parameter."""

    def __init__(self, level: Level, schema: Schema) -> None:
        self._level = level
        self._schema = schema
        self._wanted: Keys = {}
        self._names: set[str] = set()
        self._fields: list[list[int]] = []
        self._is_all = False
        self.limit: int | None = None
        self.offset = 0
        self.switches: dict[str, bool] = dict.fromkeys(_SWITCHES, False)
        self.warnings: list[str] = []

    def take(self, name: str, value: str) -> None:
        """Takes one parameter."""
        lower = name.strip().lower()
        if lower == "includefield":
            self._include(value)
            return
        if lower in self._names:
            raise RequestError(f"{name[:64]}: is there twice")
        self._names.add(lower)
        if lower in ("limit", "offset"):
            if not _NUMBER.fullmatch(value.strip()):
                raise RequestError(f"{lower}: is no whole number from 0 on")
            setattr(self, lower, min(int(value), OFFSET_MAX))
        elif lower in _SWITCHES:
            if value.strip().lower() not in ("true", "false"):
                raise RequestError(f"{lower}: is neither true nor false")
            self.switches[lower] = value.strip().lower() == "true"
        elif lower not in _OTHERS:
            self._match(name, value)

    def _include(self, value: str) -> None:
        for name in value.split(","):
            name = name.strip()
            if name.lower() == "all":
                self._is_all = True
            elif name:
                path = self._path(name)
                if path is None:
                    self.warnings.append(f"The attribute {_shown(name)} of includefield is not known here")
                else:
                    self._fields.append(path)

    def _match(self, name: str, value: str) -> None:
        path = self._path(name)
        if path is None:
            self.warnings.append(f"The parameter {_shown(name)} is not known here and was passed over")
            return
        vr = self._schema.vr_of(path[-1])
        if vr in _COMMA_SEPARATES:
            value = value.replace(",", "\\")
        elif path[-1] == tags.TimezoneOffsetFromUTC or vr == "DT":
            value = re.sub(r" (?=\d{4}\b)", "+", value)  # a plus sign that was not encoded
        try:
            if vr == "UI" and len(path) == 1:
                self._put_uids(path[0], value)
            elif vr == "TM" and len(path) == 1 and "-" in value:
                self._put_times(path[0], value)
            else:
                set_key(self._wanted, path, value, self._schema)
        except QueryError as error:
            # The reason alone: the asker knows the value, and nobody else has to read it.
            reason = str(error).removeprefix(f"{tags.keyword_of(path[-1])}={value}: ")
            raise QueryError(f"{_shown(name)}: {reason}", path[-1]) from None

    def _put_uids(self, tag: int, value: str) -> None:
        """As they are: what some writers call a UID is stored, and must be found, though it is none."""
        if "*" in value or "?" in value:
            raise QueryError("a UID is matched as a whole, without * and ? (PS3.4 C.2.2.2.2)", tag)
        self._wanted[tag] = value

    def _put_times(self, tag: int, value: str) -> None:
        """A range of times, which may end before it begins: on a later day, with the range of its date."""
        for end in value.split("-"):
            set_key({}, [tag], end, self._schema)
        self._wanted[tag] = value

    def _path(self, name: str) -> list[int] | None:
        """The tags of a name; None if it is none. Raises RequestError for steps into what is no sequence."""
        if any(keywords.tag_of(step) is None for step in name.split(".")):
            return None
        try:
            return path_of(name, self._schema)
        except QueryError as error:
            raise RequestError(f"{_shown(name)}: {error}") from None

    def enter(self, scope: Mapping[Level, str]) -> None:
        """The UIDs of the path count like keys."""
        for level, uid in scope.items():
            tag = _SCOPES[level]
            if self._wanted.get(tag, uid) != uid:
                raise RequestError(f"{tags.keyword_of(tag)}: the path says which one")
            if not uid.strip() or any(character in uid for character in "*?\\,"):
                raise RequestError(f"the path has no UID where {tags.keyword_of(tag)} must stand")
            self._wanted[tag] = uid

    def returned(self, scope: Mapping[Level, str]) -> _Returned:
        """All keys: what must match, and with "" what is only returned."""
        found = _Returned(self._kept())
        for level in _levels(self._level, scope):
            found.always.update(_ATTRIBUTES[level])
            self._add(found.keys, _ATTRIBUTES[level])
            self._add(found.keys, KNOWN_ATTRIBUTES[level])
        above = [tags.StudyInstanceUID, tags.SeriesInstanceUID][: self._level - Level.STUDY]
        found.always.update(above)
        self._add(found.keys, above)
        request = found.keys.get(tags.RequestAttributesSequence)
        if isinstance(request, list):
            self._add(request[0], _REQUEST_ATTRIBUTES)
        if self._is_all:
            self._add(found.keys, (tag for tag, level in self._schema.level_of.items() if level == self._level))
        for path in self._fields:
            self._include_path(found.keys, path)
        return found

    def _kept(self) -> Keys:
        """The keys that the index can match; of the others there is a warning."""
        kept: Keys = {}
        for tag, value in self._wanted.items():
            is_creator = keywords.is_creator(tag)
            if is_creator or tag in _ANSWERED_HERE or tag == tags.TimezoneOffsetFromUTC:
                kept[tag] = value
            elif not is_indexed(tag, self._wanted, self._schema) or COMPUTED.get(tag, self._level) > self._level:
                self.warnings.append(f"The attribute {tags.keyword_of(tag)} is not matched here and was passed over")
            else:
                kept[tag] = value
        return kept

    def _include_path(self, keys: Keys, path: Sequence[int]) -> None:
        """Below the level it is dropped; within a sequence that is matched in parts, it becomes another part."""
        tag = path[0]
        level = level_of(tag, self._schema)
        asked = keys.get(tag)
        is_unknown = level is None and not is_indexed(tag, self._wanted, self._schema)
        if is_unknown or (level is not None and level > self._level):
            return
        if isinstance(asked, list) and len(path) > 1:
            asked[0].setdefault(path[1], "")
        else:
            keys.setdefault(tag, "")

    def _add(self, keys: Keys, attributes: Iterable[int]) -> None:
        for tag in attributes:
            keys.setdefault(tag, "")

    def query(self, returned: _Returned) -> Query:
        """The query of these keys."""
        keys = {tag: value for tag, value in returned.keys.items() if tag not in _ANSWERED_HERE}
        return query_of(self._level, keys, self._schema, date_time=True, timezone=True)


def _levels(level: Level, scope: Mapping[Level, str]) -> list[Level]:
    """The levels whose attributes are returned: the resource's own, and those above that the path does not name."""
    return [each for each in _ATTRIBUTES if each <= level and each not in scope]


def _shown(name: str) -> str:
    """A name from a request, as a header can hold it."""
    return re.sub(r"[^\w.,()\[\]-]", "?", name[:64], flags=re.ASCII)
