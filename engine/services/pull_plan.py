"""What a pull asks for: studies of another archive, and of each what is not here yet.

Does not fetch anything (`pull`). Asks by C-FIND, study by study and series by series, and the index what is here.

    a study with as many instances here as there    nothing is asked of it
    a series with as many                           nothing is asked of it
    any other series                                its instances are listed; those that are not here are a task
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
"""What is proposed for a series of which the peer does not say the SOP classes, before all others that are known."""

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
class Wish:
    """What is wanted."""

    studies: tuple[str, ...] = ()
    """Study Instance UIDs."""
    keys: Keys = field(default_factory=dict)
    """Of any level; those of series and instances choose within the studies."""
    limit: int | None = None
    """Studies at most."""
    again: bool = False
    """Also what is here."""

    def at(self, level: Level, schema: Schema) -> dict[int, Key]:
        """The keys of one level; what the index does not know is taken for one of the study."""
        return {
            tag: value
            for tag, value in self.keys.items()
            if max(level_of(tag, schema) or Level.STUDY, Level.STUDY) is level and value
        }


@dataclass(slots=True)
class Task:
    """What is missing of one series."""

    study: Study
    series_instance_uid: str
    wanted: dict[str, str]
    """SOP Instance UID → SOP class, "" if the peer does not say."""
    is_whole: bool
    """Nothing of the series is here, and nothing else is in it."""
    again: frozenset[str] = frozenset()
    """Those of `wanted` that are here already."""


@dataclass(slots=True)
class Study:
    """One study of the peer, and what is to be done for it."""

    study_instance_uid: str
    patient_id: str
    match: Identifier
    there: int | None = None
    """Instances that the peer has, if it says so or they have been listed."""
    here: int = 0
    """Of those that are wanted, how many are here."""
    tasks: list[Task] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Instances that are to come."""
        return sum(len(task.wanted) for task in self.tasks)

    def facts(self) -> dict[str, object]:
        """For people and programs."""
        several = _text(self.match, tags.ModalitiesInStudy)
        return {
            "StudyInstanceUID": self.study_instance_uid,
            "PatientID": self.patient_id,
            "PatientName": _text(self.match, tags.PatientName),
            "StudyDate": _text(self.match, tags.StudyDate),
            "ModalitiesInStudy": several.split("\\") if several else [],
            "StudyDescription": _text(self.match, tags.StudyDescription),
            "instances": self.there,
            "here": self.here,
            "missing": self.missing,
        }


class Planner:
    """Finds out what a pull asks for."""

    def __init__(
        self,
        archive: Archive,
        index: ThreadPool,
        finder: Finder,
        wish: Wish,
        not_found: list[str],
        remarks: list[str],
    ) -> None:
        """`not_found` gets the studies that were named and are not there, `remarks` what else is to be known."""
        self._archive = archive
        self._index = index
        self._finder = finder
        self._wish = wish
        self._not_found = not_found
        self._remarks = remarks

    async def studies(self) -> list[Study]:
        """Those that match. Raises AssociationFailed."""
        found: dict[str, Study] = {}
        for question in await self._questions():
            named = question.get(tags.StudyInstanceUID)
            before = len(found)
            for match in await self._find_studies({**STUDY_KEYS, **question}):
                study = Study(_text(match, tags.StudyInstanceUID), _text(match, tags.PatientID), match)
                study.there = _number(match, tags.NumberOfStudyRelatedInstances)
                if not named or study.study_instance_uid == named:  # some answer with all that they have
                    found.setdefault(study.study_instance_uid, study)
            if named and len(found) == before and named not in found:
                self._not_found.append(f"study {named}")
        return list(found.values())[: self._wish.limit]

    async def _questions(self) -> list[dict[int, Key]]:
        """The keys of each C-FIND for studies."""
        keys = self._wish.at(Level.STUDY, self._archive.schema)
        if self._wish.studies:
            return [{**keys, tags.StudyInstanceUID: uid} for uid in self._wish.studies]
        schema = self._archive.schema
        within, of_image = self._wish.at(Level.SERIES, schema), self._wish.at(Level.IMAGE, schema)
        if modality := within.get(tags.Modality):
            keys.setdefault(tags.ModalitiesInStudy, modality)
        if keys:
            return [keys]
        # Only keys of a lower level: that is relational, which not all peers can do.
        level = "SERIES" if within else "IMAGE"
        asked: dict[int, Key] = dict.fromkeys((tags.StudyInstanceUID, tags.SeriesInstanceUID), "")
        asked |= {tags.SOPInstanceUID: ""} if level == "IMAGE" else {}
        try:
            answer = await self._finder.find(level, {**asked, **(within or of_image)})
        except AssociationFailed as error:
            raise AssociationFailed(f"{error}; name the study too") from error
        studies = dict.fromkeys(_text(match, tags.StudyInstanceUID) for match in answer.matches)
        return [{tags.StudyInstanceUID: uid} for uid in studies if uid]

    async def _find_studies(self, keys: Keys) -> list[Identifier]:
        """All that match; of a peer that cuts its answer by ranges of the Study Date, halved until it does not."""
        answer = await self._finder.find("STUDY", keys)
        if not answer.is_cut or (self._wish.limit and len(answer.matches) >= self._wish.limit):
            return answer.matches
        given = keys.get(tags.StudyDate, "")
        ends = _days(given) if isinstance(given, str) else None
        if ends is None or ends[0] >= ends[1]:
            self._remarks.append("the peer does not tell all of its studies; ask for fewer at a time")
            return answer.matches
        first, last = ends
        middle = first + (last - first) // 2
        matches = answer.matches  # those without a date are in no range
        for low, high in ((first, middle), (middle + 1, last)):
            matches = matches + await self._find_studies({**keys, tags.StudyDate: f"{_day(low)}-{_day(high)}"})
        return matches

    async def look_into(self, study: Study) -> None:
        """What of a study is to come."""
        wish, schema = self._wish, self._archive.schema
        within, of_image = wish.at(Level.SERIES, schema), wish.at(Level.IMAGE, schema)
        here = await self._here(study.study_instance_uid)
        here_count = sum(map(len, here.values()))
        if not wish.again and not within and not of_image and study.there and study.there == here_count:
            study.here = here_count
            return
        asked = (tags.StudyInstanceUID, tags.SeriesInstanceUID, tags.Modality, tags.NumberOfSeriesRelatedInstances)
        keys = {**dict.fromkeys(asked, ""), **within, **self.unique_keys(study)}
        there = 0
        for match in (await self._finder.find("SERIES", keys)).matches:
            if not _agrees(match, within):
                continue
            uid = _text(match, tags.SeriesInstanceUID)
            known = here.get(uid, set())
            number = _number(match, tags.NumberOfSeriesRelatedInstances)
            if not wish.again and not of_image and number and number == len(known):
                study.here += number
                there += number
                continue
            images = await self._images(study, uid, of_image)
            there += len(images)
            wanted = {each: cls for each, cls in images.items() if wish.again or each not in known}
            study.here += len(images) - len(wanted)
            if wanted:
                is_whole = len(wanted) == len(images) and not of_image
                study.tasks.append(Task(study, uid, wanted, is_whole, frozenset(known & wanted.keys())))
        study.there = there

    async def _images(self, study: Study, series_instance_uid: str, of_image: Keys) -> dict[str, str]:
        """SOP Instance UID → SOP class of what a series has at the peer."""
        asked = dict.fromkeys((tags.SOPInstanceUID, tags.SOPClassUID, tags.InstanceNumber), "")
        keys = {**asked, **of_image, **self.unique_keys(study), tags.SeriesInstanceUID: series_instance_uid}
        answer = await self._finder.find("IMAGE", keys)
        if answer.is_cut:
            self._remarks.append(f"the peer does not tell all of series {series_instance_uid}")
        return {
            _text(match, tags.SOPInstanceUID): _text(match, tags.SOPClassUID)
            for match in answer.matches
            if _agrees(match, of_image)
        }

    def unique_keys(self, study: Study) -> dict[int, Key]:
        """The unique keys of a study, in the information model that the peer was found to have."""
        keys: dict[int, Key] = {tags.StudyInstanceUID: study.study_instance_uid}
        if self._finder.information_model == PATIENT_ROOT:
            keys[tags.PatientID] = study.patient_id
        return keys

    async def _here(self, study_instance_uid: str) -> dict[str, set[str]]:
        """What of a study is here: Series Instance UID → SOP Instance UIDs."""
        found: dict[str, set[str]] = {}
        for instance in await self._index.run(lambda: self.instances_here(study_instance_uid)):
            found.setdefault(instance.series_instance_uid, set()).add(instance.sop_instance_uid)
        return found

    def instances_here(self, study_instance_uid: str, series_instance_uid: str = "") -> list[Instance]:
        """What of a study, or of one of its series, is in this archive. Blocks."""
        level, keys = Level.STUDY, {tags.StudyInstanceUID: study_instance_uid.encode("ascii", "replace")}
        if series_instance_uid:
            level, keys[tags.SeriesInstanceUID] = Level.SERIES, series_instance_uid.encode("ascii", "replace")
        return self._archive.instances(Query(level, keys, relational=True))


def proposed_classes(task: Task) -> Iterator[list[str]]:
    """The SOP classes to propose at each attempt: those that the peer says, twice; else all that are known, in turn."""
    said = set(filter(None, task.wanted.values()))
    if not said or "" in task.wanted.values():
        of_study = _text(task.study.match, tags.SOPClassesInStudy).split("\\")
        said |= set(filter(uids.is_storage_sop_class, of_study))
    known = sorted(said) or [*USUAL_CLASSES, *sorted(uids.STORAGE_SOP_CLASSES - set(USUAL_CLASSES))]
    pieces = [known[start : start + CLASSES_MAX] for start in range(0, len(known), CLASSES_MAX)]
    yield from pieces * 2 if len(pieces) == 1 else pieces


def _agrees(match: Identifier, keys: Keys) -> bool:
    """Whether a match is one: some peers overlook keys that they do not know, and answer with all that they have."""
    for tag, wanted in keys.items():
        value = _text(match, tag)
        if isinstance(wanted, str) and value and not re.search(r"[*?\\-]", wanted) and value != wanted.strip():
            return False
    return True


def _text(match: Identifier, tag: int) -> str:
    return match.text(tag).strip(" \0")


def _number(match: Identifier, tag: int) -> int | None:
    text = _text(match, tag)
    return int(text) if text.isdecimal() and len(text) < 10 else None


def _days(text: str) -> tuple[int, int] | None:
    """A Study Date key as the first and last of days since 0001-01-01; None for what is no range."""
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
