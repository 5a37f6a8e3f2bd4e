"""A slow, obvious matcher of PS3.4 Annex C: the judge of every answer to a query.

Works on pydicom data sets in the order in which they were stored, with pydicom's decoding, and looks at every one of
them for every question. What one key asks of one attribute (C.2.2.2) is `key_matching`; here is the rest:

    C.4.1     keys by level, hierarchical or relational, what is given back
    C.6       levels, and the attributes that are computed

Entities: each instance repeats what is above it. Of each attribute the earliest stored value that is not empty counts;
a study is of the patient whose Patient ID and issuer it states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset

from tests.oracle.key_matching import (
    NO,
    PAIRS,
    YES,
    ZONE,
    Question,
    Values,
    given_back,
    matches,
    pair_matches,
    read,
    tag_of,
    vr_of_tag,
    zoned,
)

PATIENT, STUDY, SERIES, IMAGE = range(4)
NAMES = ("PATIENT", "STUDY", "SERIES", "IMAGE")


def _tags(words: str) -> frozenset[int]:
    return frozenset(map(tag_of, words.split()))


LEVELS = (
    _tags(
        "PatientName PatientID IssuerOfPatientID PatientBirthDate PatientBirthTime PatientSex OtherPatientIDs"
        " OtherPatientNames OtherPatientIDsSequence EthnicGroup PatientComments"
    ),
    _tags(
        "StudyDate StudyTime AccessionNumber ReferringPhysicianName TimezoneOffsetFromUTC StudyDescription"
        " ProcedureCodeSequence NameOfPhysiciansReadingStudy AdmittingDiagnosesDescription ReferencedStudySequence"
        " PatientAge PatientSize PatientWeight Occupation AdditionalPatientHistory StudyInstanceUID StudyID"
    ),
    _tags(
        "SeriesDate SeriesTime Modality Manufacturer InstitutionName StationName SeriesDescription"
        " InstitutionalDepartmentName PerformingPhysicianName OperatorsName ManufacturerModelName BodyPartExamined"
        " ProtocolName PatientPosition SeriesInstanceUID SeriesNumber FrameOfReferenceUID Laterality"
        " PerformedProcedureStepStartDate PerformedProcedureStepStartTime PerformedProcedureStepID"
        " PerformedProcedureStepDescription RequestAttributesSequence"
    ),
    _tags(
        "ImageType InstanceCreationDate InstanceCreationTime SOPClassUID SOPInstanceUID ContentDate ContentTime"
        " AcquisitionNumber InstanceNumber PhotometricInterpretation NumberOfFrames Rows Columns BitsAllocated"
        " ConceptNameCodeSequence CompletionFlag VerificationFlag ContentLabel ContentDescription"
    ),
)
COMPUTED = {
    tag_of("NumberOfPatientRelatedStudies"): PATIENT,
    tag_of("NumberOfPatientRelatedSeries"): PATIENT,
    tag_of("NumberOfPatientRelatedInstances"): PATIENT,
    tag_of("NumberOfStudyRelatedSeries"): STUDY,
    tag_of("NumberOfStudyRelatedInstances"): STUDY,
    tag_of("ModalitiesInStudy"): STUDY,
    tag_of("SOPClassesInStudy"): STUDY,
    tag_of("NumberOfSeriesRelatedInstances"): SERIES,
}
MODALITIES, CLASSES = tag_of("ModalitiesInStudy"), tag_of("SOPClassesInStudy")
UNIQUE = tuple(map(tag_of, ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")))
ISSUER, MODALITY, CLASS = map(tag_of, ("IssuerOfPatientID", "Modality", "SOPClassUID"))
PASSED_OVER = _tags("SpecificCharacterSet QueryRetrieveLevel RetrieveAETitle InstanceAvailability")


@dataclass
class Found:
    """An entity that may be in the answer."""

    unique: tuple[str, ...]
    """The unique keys down to the level; of a patient also the issuer."""
    verdict: int
    attributes: Values = field(default_factory=dict)


# entities ------------------------------------------------------------------------------------------

Instances = Sequence[Values]


def grouped(instances: Instances, by: Callable[[Values], Any]) -> list[list[Values]]:
    """Instances of one key together, in the order in which they came."""
    found: dict[Any, list[Values]] = {}
    for instance in instances:
        found.setdefault(by(instance), []).append(instance)
    return list(found.values())


def text_of(values: Values, tag: int) -> str:
    """A value as one text."""
    return "\\".join(map(str, values.get(tag, [])))


class Archive:
    """What is stored, by patient, study and series; `levels` are the attributes that are known at each."""

    def __init__(self, data_sets: Iterable[Dataset], levels: Sequence[frozenset[int]] = LEVELS) -> None:
        self.levels = levels
        self.instances = [read(ds) for ds in data_sets]
        self.order = {id(instance): number for number, instance in enumerate(self.instances)}
        studies = grouped(self.instances, lambda one: text_of(one, UNIQUE[STUDY]))
        self.patients: dict[tuple[str, str], list[list[Values]]] = {}
        for study in studies:
            said = self.facts(study, PATIENT)
            number = text_of(said, UNIQUE[PATIENT])
            # Without an ID nobody knows whose it is: a patient of its own.
            who = (number, text_of(said, ISSUER)) if number else ("", text_of(study[0], UNIQUE[STUDY]))
            self.patients.setdefault(who, []).append(study)

    def facts(self, instances: Instances, level: int) -> Values:
        """Of each attribute the earliest value that is not empty."""
        found: Values = {}
        for instance in instances:
            for tag in self.levels[level]:
                if not found.get(tag) and tag in instance:
                    found[tag] = instance[tag]
        return found

    def series(self, study: Instances) -> list[list[Values]]:
        """The series of a study."""
        return grouped(study, lambda one: text_of(one, UNIQUE[SERIES]))

    def computed(self, tag: int, patient: list[list[Values]], study: Instances, series: Instances) -> list[Any]:
        """C.3.4 and the like."""
        if tag == MODALITIES:
            return sorted({text_of(self.facts(one, SERIES), MODALITY) for one in self.series(study)} - {""})
        if tag == CLASSES:
            return sorted({text_of(one, CLASS) for one in study})
        counts = {
            "NumberOfPatientRelatedStudies": len(patient),
            "NumberOfPatientRelatedSeries": sum(len(self.series(one)) for one in patient),
            "NumberOfPatientRelatedInstances": sum(map(len, patient)),
            "NumberOfStudyRelatedSeries": len(self.series(study)),
            "NumberOfStudyRelatedInstances": len(study),
            "NumberOfSeriesRelatedInstances": len(series),
        }
        return [str(next(count for keyword, count in counts.items() if tag_of(keyword) == tag))]

    def find(self, question: Question) -> list[Found]:
        """Every entity that is in the answer, or may be."""
        return Search(self, question).answer


class Search:
    """One question put to an archive."""

    def __init__(self, archive: Archive, question: Question) -> None:
        self.archive = archive
        self.question = question
        self.keys = {tag: value for tag, value in read(question.keys, of_query=True).items() if tag not in PASSED_OVER}
        self.unsupported = self._unsupported()
        """Whether a key is not known at this level."""
        self.answer = self._found()
        """What is in the answer, or may be."""

    def meets(self, entity: Values, level: int, zone: Values) -> int:
        """The keys of one level against an entity."""
        asked = {tag for tag in self.keys if tag in self.archive.levels[level] and tag != ZONE}
        verdict = YES
        for date in [date for date, time in PAIRS.items() if asked & {date, time}]:
            together = pair_matches(self.keys, entity, date, zone, self.question)
            if together is not None:
                verdict = min(verdict, together)
                asked -= {date, PAIRS[date]}
        single = [self._attribute(tag, entity.get(tag, []), zone) for tag in asked]
        return min([verdict, *single])

    def _attribute(self, tag: int, stored: list[Any], zone: Values) -> int:
        keys, vr = self.keys[tag], vr_of_tag(tag)
        if vr == "DT" and self.question.timezone:
            keys = [zoned(key, text_of(self.keys, ZONE)) for key in keys]
            stored = [zoned(value, text_of(zone, ZONE)) for value in stored]
        return matches(tag, vr, keys, stored, self.question)

    def below(self, instances: Instances, level: int, zone: Values) -> int:
        """Relational: whether something at this level and further down meets what is asked there."""
        if not self.question.relational or level > IMAGE:
            return YES
        if level == IMAGE:
            return max(self.meets(one, IMAGE, zone) for one in instances)
        parts = (
            self.archive.series(instances)
            if level == SERIES
            else grouped(instances, lambda one: text_of(one, UNIQUE[STUDY]))
        )
        verdict = NO
        for part in parts:
            said = self.archive.facts(part, level)
            here = self.meets(said, level, said if level == STUDY else zone)
            verdict = max(verdict, min(here, self.below(part, level + 1, said if level == STUDY else zone)))
        return verdict

    def attributes(self, entity: Values, patient: list[list[Values]], study: Instances, series: Instances) -> Values:
        """What is given back of an entity: the keys down to the level."""
        level = self.question.level
        known = {tag for of in range(level + 1) for tag in self.archive.levels[of]}
        answer: Values = {}
        for tag, keys in self.keys.items():
            if COMPUTED.get(tag, 9) <= level:
                answer[tag] = self.archive.computed(tag, patient, study, series)
            elif tag in known and vr_of_tag(tag) == "SQ":
                answer[tag] = given_back(keys, entity.get(tag, []), self.question)
            elif tag in known:
                answer[tag] = entity.get(tag, [])
        return answer

    def _unsupported(self) -> bool:
        level = self.question.level
        for tag in self.keys:
            if tag in COMPUTED:
                if COMPUTED[tag] > level:
                    return True
                continue
            own = next((of for of in range(4) if tag in self.archive.levels[of]), None)
            if own is None or (own > level and not self.question.relational):
                return True
        return False

    def _found(self) -> list[Found]:
        level = self.question.level
        answer: list[Found] = []
        for (number, issuer), patient in self.archive.patients.items():
            if level == PATIENT:
                everything = sorted(
                    (one for study in patient for one in study), key=lambda one: self.archive.order[id(one)]
                )
                said = self.archive.facts(everything, PATIENT)
                verdict = min(self.meets(said, PATIENT, {}), self.below(everything, STUDY, {}))
                answer.append(Found((number, issuer), verdict, self.attributes(said, patient, [], [])))
                continue
            for study in patient:
                answer += self._study(patient, study)
        return [one for one in answer if one.verdict != NO]

    def _study(self, patient: list[list[Values]], study: list[Values]) -> list[Found]:
        level = self.question.level
        said = self.archive.facts(study, PATIENT) | self.archive.facts(study, STUDY)
        verdict = min(self.meets(said, PATIENT, said), self.meets(said, STUDY, said))
        for tag in {MODALITIES, CLASSES} & self.keys.keys():
            computed = self.archive.computed(tag, patient, study, [])
            verdict = min(verdict, matches(tag, vr_of_tag(tag), self.keys[tag], computed, self.question))
        uid = (text_of(said, UNIQUE[STUDY]),)
        if level == STUDY:
            verdict = min(verdict, self.below(study, SERIES, said))
            return [Found(uid, verdict, self.attributes(said, patient, study, []))]
        found = []
        for series in self.archive.series(study):
            of_series = said | self.archive.facts(series, SERIES)
            here = min(verdict, self.meets(of_series, SERIES, said))
            uids = (*uid, text_of(of_series, UNIQUE[SERIES]))
            if level == SERIES:
                here = min(here, self.below(series, IMAGE, said))
                found.append(Found(uids, here, self.attributes(of_series, patient, study, series)))
                continue
            for one in series:
                of_instance = of_series | {tag: one.get(tag, []) for tag in self.archive.levels[IMAGE]}
                whole = min(here, self.meets(of_instance, IMAGE, said))
                given = self.attributes(of_instance, patient, study, series)
                found.append(Found((*uids, text_of(one, UNIQUE[IMAGE])), whole, given))
        return found


def find(data_sets: Iterable[Dataset], question: Question) -> list[Found]:
    """Every entity that is in the answer to a question, or may be."""
    return Archive(data_sets).find(question)
