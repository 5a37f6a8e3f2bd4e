"""Plans a pull: finds the matching studies of another archive, and the instances of each that are missing here.

It queries the peer by C-FIND, study by study and series by series, and compares the results with the index. `pull`
retrieves the instances.

    a study with as many instances here as there    is complete
    a series with as many instances                 is complete
    any other series                                its instances are listed; the missing ones are a task
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Final

from engine.dicom import tags, uids
from engine.dicom.identifier import Identifier
from engine.dicom.schema import Schema
from engine.errors import AssociationFailed
from engine.index.format.types import Instance, Level, Query
from engine.index.query.plan import level_of
from engine.services.find_scu import Finder, Key, Keys
from engine.services.information_models import PATIENT_ROOT
from engine.services.retrieve_scu import CLASSES_MAX

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.runtime.pools import ThreadPool

_ARCS = (
    "2 4 1 1.1 1.2 6.1 3.1 7 7.2 7.4 12.1 12.2 20 128 2.1 4.1 66.4 11.1 88.11 88.22 88.33 88.59 88.67 104.1 "
    "481.1 481.2 481.3 481.5"
)
USUAL_CLASSES: Final = tuple(f"1.2.840.10008.5.1.4.1.1.{arcs}" for arcs in _ARCS.split())
"""The first SOP classes to propose for a series whose classes the peer does not tell, before all other known ones."""

STUDY_KEYS: Final[dict[int, Key]] = dict.fromkeys(
    (
        tags.StudyInstanceUID,
        tags.PatientID,
        tags.PatientName,
        tags.StudyDate,
        tags.AccessionNumber,
        tags.ModalitiesInStudy,
        tags.StudyDescription,
        tags.SOPClassesInStudy,
        tags.NumberOfStudyRelatedInstances,
    ),
    "",
)


@dataclass(frozen=True, slots=True)
class PullQuery:
    """Selects the instances of a pull."""

    studies: tuple[str, ...] = ()
    """Study Instance UIDs."""
    keys: Keys = field(default_factory=dict)
    """Keys of any level; those of series and instances select within the studies."""
    limit: int | None = None
    """Studies at most."""
    again: bool = False
    """Whether to retrieve instances that are here already, too."""

    def keys_of(self, level: Level, schema: Schema) -> dict[int, Key]:
        """The keys of one level; keys that the index does not have count as keys of the study."""
        return {
            tag: value
            for tag, value in self.keys.items()
            if max(level_of(tag, schema) or Level.STUDY, Level.STUDY) is level and value
        }


@dataclass(slots=True)
class Task:
    """The instances of one series that are to be retrieved."""

    study: Study
    series_instance_uid: str
    instances: dict[str, str]
    """SOP Instance UID → SOP class, "" if the peer does not tell. A pull removes the instances that have arrived."""
    is_whole: bool
    """Whether these are all instances of the series, so that the series can be requested as a whole."""
    local: frozenset[str] = frozenset()
    """Those of `instances` that are here already."""


@dataclass(slots=True)
class Study:
    """One study of the peer, with its tasks."""

    study_instance_uid: str
    patient_id: str
    match: Identifier
    peer_count: int | None = None
    """Instances that the peer has, if it tells or they have been listed."""
    local_count: int = 0
    """Selected instances that are here already."""
    tasks: list[Task] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """The number of instances to retrieve."""
        return sum(len(task.instances) for task in self.tasks)

    def facts(self) -> dict[str, object]:
        """The study as a row of a list."""
        modalities = _text(self.match, tags.ModalitiesInStudy)
        return {
            "StudyInstanceUID": self.study_instance_uid,
            "PatientID": self.patient_id,
            "PatientName": _text(self.match, tags.PatientName),
            "StudyDate": _text(self.match, tags.StudyDate),
            "ModalitiesInStudy": modalities.split("\\") if modalities else [],
            "StudyDescription": _text(self.match, tags.StudyDescription),
            "instances": self.peer_count,
            "here": self.local_count,
            "missing": self.missing,
        }


class Planner:
    """Makes the tasks of a pull."""

    def __init__(
        self,
        archive: Archive,
        index: ThreadPool,
        finder: Finder,
        query: PullQuery,
        not_found: list[str],
        remarks: list[str],
    ) -> None:
        """Adds requested studies that the peer does not have to `not_found`, and notes for the user to `remarks`."""
        self._archive = archive
        self._index = index
        self._finder = finder
        self._query = query
        self._not_found = not_found
        self._remarks = remarks

    async def studies(self) -> list[Study]:
        """The matching studies. Raises AssociationFailed."""
        studies: dict[str, Study] = {}
        for keys in await self._study_queries():
            requested_uid = keys.get(tags.StudyInstanceUID)
            count_before = len(studies)
            for match in await self._find_studies({**STUDY_KEYS, **keys}):
                study = Study(_text(match, tags.StudyInstanceUID), _text(match, tags.PatientID), match)
                study.peer_count = _number(match, tags.NumberOfStudyRelatedInstances)
                if not requested_uid or study.study_instance_uid == requested_uid:  # some peers return all studies
                    studies.setdefault(study.study_instance_uid, study)
            if requested_uid and len(studies) == count_before and requested_uid not in studies:
                self._not_found.append(f"study {requested_uid}")
        return list(studies.values())[: self._query.limit]

    async def _study_queries(self) -> list[dict[int, Key]]:
        """The keys of each C-FIND for studies."""
        schema = self._archive.schema
        keys = self._query.keys_of(Level.STUDY, schema)
        if self._query.studies:
            return [{**keys, tags.StudyInstanceUID: uid} for uid in self._query.studies]
        series_keys, image_keys = self._query.keys_of(Level.SERIES, schema), self._query.keys_of(Level.IMAGE, schema)
        if modality := series_keys.get(tags.Modality):
            keys.setdefault(tags.ModalitiesInStudy, modality)
        if keys:
            return [keys]
        # All keys are of a lower level: such a query is relational, which not all peers support.
        level = "SERIES" if series_keys else "IMAGE"
        return_keys: dict[int, Key] = dict.fromkeys((tags.StudyInstanceUID, tags.SeriesInstanceUID), "")
        return_keys |= {tags.SOPInstanceUID: ""} if level == "IMAGE" else {}
        try:
            result = await self._finder.find(level, {**return_keys, **(series_keys or image_keys)})
        except AssociationFailed as error:
            raise AssociationFailed(f"{error}; name the study too") from error
        uids = dict.fromkeys(_text(match, tags.StudyInstanceUID) for match in result.matches)
        return [{tags.StudyInstanceUID: uid} for uid in uids if uid]

    async def _find_studies(self, keys: Keys) -> list[Identifier]:
        """All matching studies; if the peer's result is incomplete, halves the range of the Study Date."""
        result = await self._finder.find("STUDY", keys)
        if not result.is_incomplete or (self._query.limit and len(result.matches) >= self._query.limit):
            return result.matches
        date_key = keys.get(tags.StudyDate, "")
        date_range = _days(date_key) if isinstance(date_key, str) else None
        if date_range is None or date_range[0] >= date_range[1]:
            self._remarks.append("the peer does not return all of its studies; request fewer at a time")
            return result.matches
        first, last = date_range
        middle = first + (last - first) // 2
        matches = result.matches  # studies without a date are in no range
        for low, high in ((first, middle), (middle + 1, last)):
            matches = matches + await self._find_studies({**keys, tags.StudyDate: f"{_day(low)}-{_day(high)}"})
        return matches

    async def plan_study(self, study: Study) -> None:
        """Makes the tasks of a study."""
        query, schema = self._query, self._archive.schema
        series_keys, image_keys = query.keys_of(Level.SERIES, schema), query.keys_of(Level.IMAGE, schema)
        local = await self._local_uids(study.study_instance_uid)
        local_count = sum(map(len, local.values()))
        is_filtered = bool(query.again or series_keys or image_keys)
        if not is_filtered and study.peer_count and study.peer_count == local_count:
            study.local_count = local_count
            return
        return_keys = (
            tags.StudyInstanceUID,
            tags.SeriesInstanceUID,
            tags.Modality,
            tags.NumberOfSeriesRelatedInstances,
        )
        keys = {**dict.fromkeys(return_keys, ""), **series_keys, **self.unique_keys(study)}
        peer_count = 0
        for match in (await self._finder.find("SERIES", keys)).matches:
            if not _agrees(match, series_keys):
                continue
            uid = _text(match, tags.SeriesInstanceUID)
            local_uids = local.get(uid, set())
            count = _number(match, tags.NumberOfSeriesRelatedInstances)
            if not query.again and not image_keys and count and count == len(local_uids):
                study.local_count += count
                peer_count += count
                continue
            images = await self._images(study, uid, image_keys)
            peer_count += len(images)
            missing = {each: cls for each, cls in images.items() if query.again or each not in local_uids}
            study.local_count += len(images) - len(missing)
            if missing:
                is_whole = len(missing) == len(images) and not image_keys
                study.tasks.append(Task(study, uid, missing, is_whole, frozenset(local_uids & missing.keys())))
        study.peer_count = peer_count

    async def _images(self, study: Study, series_instance_uid: str, image_keys: Keys) -> dict[str, str]:
        """SOP Instance UID → SOP class of the peer's instances of a series."""
        return_keys = dict.fromkeys((tags.SOPInstanceUID, tags.SOPClassUID, tags.InstanceNumber), "")
        keys = {**return_keys, **image_keys, **self.unique_keys(study), tags.SeriesInstanceUID: series_instance_uid}
        result = await self._finder.find("IMAGE", keys)
        if result.is_incomplete:
            self._remarks.append(f"the peer does not return all instances of series {series_instance_uid}")
        return {
            _text(match, tags.SOPInstanceUID): _text(match, tags.SOPClassUID)
            for match in result.matches
            if _agrees(match, image_keys)
        }

    def unique_keys(self, study: Study) -> dict[int, Key]:
        """The unique keys of a study, in the information model that the peer supports."""
        keys: dict[int, Key] = {tags.StudyInstanceUID: study.study_instance_uid}
        if self._finder.information_model == PATIENT_ROOT:
            keys[tags.PatientID] = study.patient_id
        return keys

    async def _local_uids(self, study_instance_uid: str) -> dict[str, set[str]]:
        """Series Instance UID → SOP Instance UIDs of a study in this archive."""
        by_series: dict[str, set[str]] = {}
        for instance in await self._index.run(lambda: self.local_instances(study_instance_uid)):
            by_series.setdefault(instance.series_instance_uid, set()).add(instance.sop_instance_uid)
        return by_series

    def local_instances(self, study_instance_uid: str, series_instance_uid: str = "") -> list[Instance]:
        """The instances of a study, or of one of its series, in this archive. Blocks."""
        level, keys = Level.STUDY, {tags.StudyInstanceUID: study_instance_uid.encode("ascii", "replace")}
        if series_instance_uid:
            level, keys[tags.SeriesInstanceUID] = Level.SERIES, series_instance_uid.encode("ascii", "replace")
        return self._archive.instances(Query(level, keys, relational=True))


def proposed_classes(task: Task) -> Iterator[list[str]]:
    """The SOP classes to propose at each attempt: those that the peer tells, twice; else all known ones, in turn."""
    classes = set(filter(None, task.instances.values()))
    if not classes or "" in task.instances.values():
        study_classes = _text(task.study.match, tags.SOPClassesInStudy).split("\\")
        classes |= set(filter(uids.is_storage_sop_class, study_classes))
    proposals = sorted(classes) or [*USUAL_CLASSES, *sorted(uids.STORAGE_SOP_CLASSES - set(USUAL_CLASSES))]
    batches = [proposals[start : start + CLASSES_MAX] for start in range(0, len(proposals), CLASSES_MAX)]
    yield from batches * 2 if len(batches) == 1 else batches


def _agrees(match: Identifier, keys: Keys) -> bool:
    """Whether a match really matches: some peers ignore keys that they do not know, and return everything."""
    for tag, key in keys.items():
        value = _text(match, tag)
        if isinstance(key, str) and value and not re.search(r"[*?\\-]", key) and value != key.strip():
            return False
    return True


def _text(match: Identifier, tag: int) -> str:
    return match.text(tag).strip(" \0")


def _number(match: Identifier, tag: int) -> int | None:
    text = _text(match, tag)
    return int(text) if text.isdecimal() and len(text) < 10 else None


def _days(text: str) -> tuple[int, int] | None:
    """A Study Date key as the first and last day, counted from 0001-01-01; None if it is not a range."""
    low, dash, high = text.strip().partition("-")
    if text.strip() and not dash:
        return None
    try:
        first = date(int(low[:4]), int(low[4:6]), int(low[6:8])) if low else date(1900, 1, 1)
        last = date(int(high[:4]), int(high[4:6]), int(high[6:8])) if high else date.today()
    except ValueError:
        return None
    return first.toordinal(), last.toordinal()


def _day(number: int) -> str:
    return date.fromordinal(number).strftime("%Y%m%d")
