"""Analyses a query: the conditions at each level, the attributes to return, and whether the standard allows it.

Opens nothing. Computed attributes (Number of … Related …, Modalities in Study, SOP Classes in Study) have only tag and
level here; `walk` computes them. Keys that the service answers itself (level, Retrieve AE Title, …) are ignored.
Standard: PS3.4 C.4.1.2.2 (hierarchical and relational queries), C.6.1.1 and C.6.2.1 (keys by level).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.dicom import charset, tags, values
from engine.dicom.schema import Schema
from engine.errors import QueryError
from engine.index.format.types import KeyValue, Level, Query
from engine.index.query.condition import Condition, Rules
from engine.index.query.matching import conditions
from engine.index.query.sequences import Pick, pick_of

_ADDED_BY_THE_SERVICE = frozenset(
    (
        tags.SpecificCharacterSet,
        tags.QueryRetrieveLevel,
        tags.RetrieveAETitle,
        tags.InstanceAvailability,
        tags.StorageMediaFileSetID,
        tags.StorageMediaFileSetUID,
    )
)

COMPUTED: dict[int, Level] = {
    tags.NumberOfPatientRelatedStudies: Level.PATIENT,
    tags.NumberOfPatientRelatedSeries: Level.PATIENT,
    tags.NumberOfPatientRelatedInstances: Level.PATIENT,
    tags.NumberOfStudyRelatedSeries: Level.STUDY,
    tags.NumberOfStudyRelatedInstances: Level.STUDY,
    tags.ModalitiesInStudy: Level.STUDY,
    tags.SOPClassesInStudy: Level.STUDY,
    tags.NumberOfSeriesRelatedInstances: Level.SERIES,
    tags.AvailableTransferSyntaxUID: Level.IMAGE,
}
_MATCHED_COMPUTED = frozenset((tags.ModalitiesInStudy, tags.SOPClassesInStudy))

UNIQUE = {
    Level.PATIENT: tags.PatientID,
    Level.STUDY: tags.StudyInstanceUID,
    Level.SERIES: tags.SeriesInstanceUID,
    Level.IMAGE: tags.SOPInstanceUID,
}


def level_of(tag: int, schema: Schema) -> Level | None:
    """The level of an attribute that the index stores or computes; None for any other."""
    level = schema.level_of.get(tag)
    return Level(level) if level is not None else COMPUTED.get(tag)


@dataclass(slots=True)
class Plan:
    """The conditions of a query at each level, and the attributes to return."""

    conditions: dict[Level, list[Condition]]
    computed: list[Condition]
    """Conditions on computed attributes of the study."""
    returned: list[tuple[int, Level, bool]]
    """Tag, its level, whether it is computed; in ascending order of tags."""
    unsupported: bool
    uids: dict[Level, Sequence[bytes]] = field(default_factory=dict)
    """The values of unique keys that are UIDs."""
    picks: dict[int, Pick] = field(default_factory=dict)
    """For sequences that are returned in part: the part."""

    @classmethod
    def of(cls, query: Query, schema: Schema, *, wildcards: bool = True) -> Plan:
        """Raises QueryError."""
        plan = cls({level: [] for level in Level}, [], [], False)
        by_level: dict[Level, dict[int, KeyValue]] = {level: {} for level in Level}
        for tag in sorted(query.keys):
            if tag in _ADDED_BY_THE_SERVICE or not tag & 0xFFFF:
                continue
            level = level_of(tag, schema)
            is_computed = tag in COMPUTED
            if level is None or (level > query.level and (is_computed or not query.relational)):
                plan.unsupported = True
                continue
            if level <= query.level:
                plan.returned.append((tag, level, is_computed))
            if not is_computed or tag in _MATCHED_COMPUTED:
                by_level[level][tag] = query.keys[tag]
        rules = Rules.of(query, _zone(query), schema, wildcards=wildcards)
        for level, keys in by_level.items():
            plan._add(level, conditions(keys, query.character_set, rules))
        for tag, _, _ in plan.returned:
            pick = pick_of(query.keys[tag], query.character_set, rules)
            if pick is not None:
                plan.picks[tag] = pick
        return plan

    def _add(self, level: Level, conditions: Sequence[Condition]) -> None:
        for condition in conditions:
            if condition.tag in COMPUTED:
                self.computed.append(condition)
                continue
            self.conditions[level].append(condition)
            if condition.uids and condition.tag == UNIQUE[level]:
                self.uids[level] = condition.uids

    def reaches_below(self, level: Level) -> bool:
        """Whether there are conditions on the levels below."""
        return any(self.conditions[lower] for lower in Level if lower > level)


def _zone(query: Query) -> str:
    """The time zone of the keys; "" if they have none."""
    value = query.keys.get(tags.TimezoneOffsetFromUTC, b"")
    text = value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""
    return text if values.offset_minutes(text) is not None else ""


def check_hierarchy(query: Query, plan: Plan) -> None:
    """Checks PS3.4 C.4.1.2.2.1: the model has the level, and the unique key of each level above has a single value."""
    levels: tuple[Level, ...] = query.root.value
    if query.level not in levels:
        raise QueryError(f"the information model has no level {query.level.name}", tags.QueryRetrieveLevel)
    if query.relational:
        return
    for level in levels:
        if level >= query.level:
            return
        tag = UNIQUE[level]
        value = query.keys.get(tag, b"")
        text = charset.decode(value, query.character_set, tags.vr_of(tag)) if isinstance(value, bytes) else ""
        if not text.strip(" \0") or any(character in text for character in "\\*?"):
            raise QueryError(f"{query.level.name} level needs a single {tags.keyword_of(tag)} (not relational)", tag)
