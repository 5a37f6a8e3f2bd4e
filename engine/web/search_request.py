"""Parses the parameters of a search (PS3.18 8.3.4, 10.6) into a query of the archive. Without I/O.

    /dicom-web/studies?PatientName=DOE*&00080020=20260101-&includefield=00081030,Modality&limit=101&fuzzymatching=true

    match keys        keyword or 8 digits, dots for sequences, a private one with its creator's element; once each
    includefield      any number of times, with lists; `all`: all attributes that the index has of the level
    limit, offset     of the matches in a stable order
    fuzzymatching, emptyvaluematching, multiplevaluematching    like the options of C-FIND with these names
    accept, charset   not used here

Ranges of a date and its time are one range (8.3.4.1.1), in the time zone of (0008,0201). A comma separates UIDs and
coded strings, encoded or not, and a backslash separates any values; in names and other text a comma is part of the
value. Other parameters are ignored with a warning in the answer; invalid values are refused, with the parameter's name.

The attributes of PS3.18 Tables 10.6.3-3 to 10.6.3-5 are always returned, and also those that clients need: the UIDs of
the levels above, Specific Character Set, Study Description.
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
"""These are returned even without a value."""

OPTIONAL_ATTRIBUTES: Final[Mapping[Level, tuple[int, ...]]] = {
    Level.STUDY: (tags.TimezoneOffsetFromUTC,),
    Level.SERIES: (
        tags.SeriesDescription, tags.TimezoneOffsetFromUTC, tags.PerformedProcedureStepStartDate,
        tags.PerformedProcedureStepStartTime, tags.RequestAttributesSequence,
    ),
    Level.IMAGE: (
        tags.NumberOfFrames, tags.Rows, tags.Columns, tags.BitsAllocated, tags.AvailableTransferSyntaxUID,
    ),
}  # fmt: skip
"""These are returned only with a value."""

_REQUEST_ATTRIBUTES: Final = (tags.ScheduledProcedureStepID, tags.RequestedProcedureID)
_ATTRIBUTES: Final = {
    Level.STUDY: STUDY_ATTRIBUTES,
    Level.SERIES: SERIES_ATTRIBUTES,
    Level.IMAGE: INSTANCE_ATTRIBUTES,
}
_SCOPES: Final = {Level.STUDY: tags.StudyInstanceUID, Level.SERIES: tags.SeriesInstanceUID}
_SWITCHES: Final = ("fuzzymatching", "emptyvaluematching", "multiplevaluematching")
_ADDED_TO_ROWS: Final = frozenset((tags.SpecificCharacterSet, tags.RetrieveURL, tags.InstanceAvailability))
_COMMA_SEPARATED_VRS: Final = frozenset(("UI", "CS"))
_NOT_USED: Final = frozenset(("accept", "charset"))
_NUMBER: Final = re.compile(r"\d{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A search, and the attributes to return of each match."""

    query: Query
    """Its limit is the client's or the server's, whichever is lower."""
    always: frozenset[int]
    """Attributes that are returned even without a value."""
    warnings: tuple[str, ...]
    """Parts of the request that were ignored."""


def parse(
    query_string: str, level: Level, scope: Mapping[Level, str], schema: Schema, results_max: int = 0
) -> SearchRequest:
    """Parses the query string. `scope`: the UIDs of higher levels in the path; `results_max`: 0 for no maximum.

    Raises RequestError or QueryError.
    """
    reader = _Reader(level, schema)
    for name, value in _pairs(query_string):
        reader.add(name, value)
    reader.add_scope(scope)
    returned = reader.return_keys(scope)
    limit = min((limit for limit in (reader.limit, results_max or None) if limit is not None), default=None)
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
class _ReturnKeys:
    keys: Keys
    always: set[int] = field(default_factory=set)


class _Reader:
    """One query string, parameter by parameter."""

    def __init__(self, level: Level, schema: Schema) -> None:
        self._level = level
        self._schema = schema
        self._match_keys: Keys = {}
        self._names: set[str] = set()
        self._fields: list[list[int]] = []
        self._is_all = False
        self.limit: int | None = None
        self.offset = 0
        self.switches: dict[str, bool] = dict.fromkeys(_SWITCHES, False)
        self.warnings: list[str] = []

    def add(self, name: str, value: str) -> None:
        """Adds one parameter."""
        lower = name.strip().lower()
        if lower == "includefield":
            self._include(value)
            return
        if lower in self._names:
            raise RequestError(f"{name[:64]}: occurs twice")
        self._names.add(lower)
        if lower in ("limit", "offset"):
            if not _NUMBER.fullmatch(value.strip()):
                raise RequestError(f"{lower}: is not a non-negative integer")
            setattr(self, lower, min(int(value), OFFSET_MAX))
        elif lower in _SWITCHES:
            if value.strip().lower() not in ("true", "false"):
                raise RequestError(f"{lower}: must be true or false")
            self.switches[lower] = value.strip().lower() == "true"
        elif lower not in _NOT_USED:
            self._match(name, value)

    def _include(self, value: str) -> None:
        for name in value.split(","):
            name = name.strip()
            if name.lower() == "all":
                self._is_all = True
            elif name:
                path = self._path(name)
                if path is None:
                    self.warnings.append(f"The attribute {_shown(name)} of includefield is unknown")
                else:
                    self._fields.append(path)

    def _match(self, name: str, value: str) -> None:
        path = self._path(name)
        if path is None:
            self.warnings.append(f"The parameter {_shown(name)} is unknown and was ignored")
            return
        vr = self._schema.vr_of(path[-1])
        if vr in _COMMA_SEPARATED_VRS:
            value = value.replace(",", "\\")
        elif path[-1] == tags.TimezoneOffsetFromUTC or vr == "DT":
            value = re.sub(r" (?=\d{4}\b)", "+", value)  # a plus sign that was not encoded
        try:
            if vr == "UI" and len(path) == 1:
                self._put_uids(path[0], value)
            elif vr == "TM" and len(path) == 1 and "-" in value:
                self._put_times(path[0], value)
            else:
                set_key(self._match_keys, path, value, self._schema)
        except QueryError as error:
            # Without the value: the client knows it, and it may identify a patient.
            reason = str(error).removeprefix(f"{tags.keyword_of(path[-1])}={value}: ")
            raise QueryError(f"{_shown(name)}: {reason}", path[-1]) from None

    def _put_uids(self, tag: int, value: str) -> None:
        """Unchanged: archives have invalid UIDs of some writers, which must be found too."""
        if "*" in value or "?" in value:
            raise QueryError("a UID is matched as a whole, without * and ? (PS3.4 C.2.2.2.2)", tag)
        self._match_keys[tag] = value

    def _put_times(self, tag: int, value: str) -> None:
        """A range of times, which may end before it begins: on a later day, in combination with a range of dates."""
        for end in value.split("-"):
            set_key({}, [tag], end, self._schema)
        self._match_keys[tag] = value

    def _path(self, name: str) -> list[int] | None:
        """The tags of a name; None if it is unknown. Raises RequestError for a step into a non-sequence."""
        if any(keywords.tag_of(step) is None for step in name.split(".")):
            return None
        try:
            return path_of(name, self._schema)
        except QueryError as error:
            raise RequestError(f"{_shown(name)}: {error}") from None

    def add_scope(self, scope: Mapping[Level, str]) -> None:
        """Adds the UIDs of the path as match keys."""
        for level, uid in scope.items():
            tag = _SCOPES[level]
            if self._match_keys.get(tag, uid) != uid:
                raise RequestError(f"{tags.keyword_of(tag)}: differs from the UID in the path")
            if not uid.strip() or any(character in uid for character in "*?\\,"):
                raise RequestError(f"the path has no valid {tags.keyword_of(tag)}")
            self._match_keys[tag] = uid

    def return_keys(self, scope: Mapping[Level, str]) -> _ReturnKeys:
        """All keys: those that must match, and with "" those that are only returned."""
        returned = _ReturnKeys(self._supported_keys())
        keys = returned.keys
        for level in _levels(self._level, scope):
            returned.always.update(_ATTRIBUTES[level])
            self._add(keys, _ATTRIBUTES[level])
            self._add(keys, OPTIONAL_ATTRIBUTES[level])
        above = [tags.StudyInstanceUID, tags.SeriesInstanceUID][: self._level - Level.STUDY]
        returned.always.update(above)
        self._add(keys, above)
        request = keys.get(tags.RequestAttributesSequence)
        if isinstance(request, list):
            self._add(request[0], _REQUEST_ATTRIBUTES)
        if self._is_all:
            self._add(keys, (tag for tag, level in self._schema.level_of.items() if level == self._level))
        for path in self._fields:
            self._include_path(keys, path)
        return returned

    def _supported_keys(self) -> Keys:
        """The match keys that the index supports; adds a warning for each other one."""
        supported: Keys = {}
        for tag, value in self._match_keys.items():
            is_creator = keywords.is_creator(tag)
            if is_creator or tag in _ADDED_TO_ROWS or tag == tags.TimezoneOffsetFromUTC:
                supported[tag] = value
            elif not is_indexed(tag, self._match_keys, self._schema) or COMPUTED.get(tag, self._level) > self._level:
                self.warnings.append(f"The attribute {tags.keyword_of(tag)} cannot be matched and was ignored")
            else:
                supported[tag] = value
        return supported

    def _include_path(self, keys: Keys, path: Sequence[int]) -> None:
        """Adds an attribute, unless its level is lower; in a sequence with match keys, it is added to its item."""
        tag = path[0]
        level = level_of(tag, self._schema)
        key = keys.get(tag)
        is_unknown = level is None and not is_indexed(tag, self._match_keys, self._schema)
        if is_unknown or (level is not None and level > self._level):
            return
        if isinstance(key, list) and len(path) > 1:
            key[0].setdefault(path[1], "")
        else:
            keys.setdefault(tag, "")

    def _add(self, keys: Keys, attributes: Iterable[int]) -> None:
        for tag in attributes:
            keys.setdefault(tag, "")

    def query(self, returned: _ReturnKeys) -> Query:
        """The query with these keys."""
        keys = {tag: value for tag, value in returned.keys.items() if tag not in _ADDED_TO_ROWS}
        return query_of(self._level, keys, self._schema, date_time=True, timezone=True)


def _levels(level: Level, scope: Mapping[Level, str]) -> list[Level]:
    """The levels whose attributes are returned: the resource's, and higher ones without a UID in the path."""
    return [each for each in _ATTRIBUTES if each <= level and each not in scope]


def _shown(name: str) -> str:
    """A name from a request, safe for a header."""
    return re.sub(r"[^\w.,()\[\]-]", "?", name[:64], flags=re.ASCII)
