"""A slow, obvious matcher written from PS3.4 C.2.2.2 and C.4.1: the judge of `engine.index.search`.

Works on a list of instances, each a dict tag → text, and looks at every one of them for every question. Shares no code
with the engine beyond tag numbers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.dicom import attributes, tags

PATIENT, STUDY, SERIES, IMAGE = range(4)
LEVELS = dict(enumerate(attributes.LEVELS))
WILD = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
COMPUTED = {
    tags.NumberOfPatientRelatedStudies: PATIENT,
    tags.NumberOfPatientRelatedSeries: PATIENT,
    tags.NumberOfPatientRelatedInstances: PATIENT,
    tags.NumberOfStudyRelatedSeries: STUDY,
    tags.NumberOfStudyRelatedInstances: STUDY,
    tags.ModalitiesInStudy: STUDY,
    tags.SOPClassesInStudy: STUDY,
    tags.NumberOfSeriesRelatedInstances: SERIES,
}


@dataclass
class Made:
    """One stored instance."""

    items: dict[int, str]
    sequences: dict[int, list[dict[int, str]]] = field(default_factory=dict)


# values --------------------------------------------------------------------------------------------


def wild(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(wild(pattern[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and wild(pattern[1:], text[1:])


def folded(name: str) -> list[str]:
    bare = "".join(c for c in unicodedata.normalize("NFKD", name) if not "\u0300" <= c <= "\u036f")
    bare = unicodedata.normalize("NFC", bare.casefold())
    return [re.sub(r"\^+$", "", group.strip()) for group in bare.split("=")]


def name_matches(key: str, stored: str) -> bool:
    asked, there = folded(key), folded(stored)
    if len(asked) == 1:
        return any(wild(asked[0], group) for group in there if group)
    there += [""] * (len(asked) - len(there))
    return all(not group or wild(group, there[i]) for i, group in enumerate(asked))


def time_of(text: str, fill: str) -> str:
    digits, _, fraction = text.replace(":", "").partition(".")
    low = "000000" if fill == "0" else "235959"
    return digits + low[len(digits) :] + fraction.ljust(6, fill)


def one_matches(vr: str, key: str, stored: str) -> bool:
    """One value asked for, one value stored."""
    if vr == "PN":
        return name_matches(key, stored)
    if vr in ("DA", "TM"):
        form = time_of if vr == "TM" else lambda text, fill: text
        if "-" in key:
            low, high = key.split("-")
            value = form(stored, "0")
            return (not low or form(low, "0") <= value) and (not high or value <= form(high, "9"))
        return form(key, "0") == form(stored, "0")
    if vr == "IS":
        return int(key) == int(stored)
    key, stored = unicodedata.normalize("NFC", key.strip()), unicodedata.normalize("NFC", stored.strip())
    return wild(key, stored) if vr in WILD else key == stored


def matches(tag: int, key: str, stored: str) -> bool:
    vr = tags.vr_of(tag)
    if not key.strip(" *"):
        return True
    keys = key.split("\\")
    if vr in WILD and any(not part.strip(" *") for part in keys):
        return True
    return any(one_matches(vr, part, value) for part in keys for value in stored.split("\\") if part and value)


# entities ------------------------------------------------------------------------------------------


def facts(instances: Sequence[Made], level: int) -> dict[int, str]:
    """The first value stands, an empty one is filled by a later one."""
    found: dict[int, str] = {}
    for made in instances:
        for tag in LEVELS[level]:
            if not found.get(tag) and tag in made.items:
                found[tag] = made.items[tag]
    return found


def grouped(instances: Sequence[Made], of: object) -> list[list[Made]]:
    groups: dict[object, list[Made]] = {}
    for made in instances:
        groups.setdefault(of(made), []).append(made)  # type: ignore[operator]
    return list(groups.values())


def by_study(instances: Sequence[Made]) -> list[list[Made]]:
    return grouped(instances, lambda made: made.items[tags.StudyInstanceUID])


def by_series(instances: Sequence[Made]) -> list[list[Made]]:
    return grouped(instances, lambda made: made.items[tags.SeriesInstanceUID])


def patient_key(study: Sequence[Made]) -> tuple[str, str]:
    said = facts(study, PATIENT)
    patient_id = said.get(tags.PatientID, "").strip()
    if not patient_id:
        return "", study[0].items[tags.StudyInstanceUID]
    return patient_id, said.get(tags.IssuerOfPatientID, "").strip()


def by_patient(instances: Sequence[Made]) -> list[list[list[Made]]]:
    """Studies of each patient."""
    groups: dict[tuple[str, str], list[list[Made]]] = {}
    for study in by_study(instances):
        groups.setdefault(patient_key(study), []).append(study)
    return list(groups.values())


def computed(tag: int, patient: list[list[Made]], study: list[Made], series: list[Made]) -> str:
    everything = [made for one in patient for made in one]
    if tag == tags.NumberOfPatientRelatedStudies:
        return str(len(patient))
    if tag == tags.NumberOfPatientRelatedSeries:
        return str(sum(len(by_series(one)) for one in patient))
    if tag == tags.NumberOfPatientRelatedInstances:
        return str(len(everything))
    if tag == tags.NumberOfStudyRelatedSeries:
        return str(len(by_series(study)))
    if tag == tags.NumberOfStudyRelatedInstances:
        return str(len(study))
    if tag == tags.NumberOfSeriesRelatedInstances:
        return str(len(series))
    if tag == tags.ModalitiesInStudy:
        return "\\".join(sorted({facts(one, SERIES).get(tags.Modality, "") for one in by_series(study)} - {""}))
    return "\\".join(sorted({made.items[tags.SOPClassUID] for made in study}))


def find(
    instances: Sequence[Made], level: int, keys: Mapping[int, str], *, relational: bool = False
) -> list[dict[int, str]]:
    """Every match, in the order in which the entities first arrived."""

    def meets(entity: Mapping[int, str], of: int) -> bool:
        return all(matches(tag, key, entity.get(tag, "")) for tag, key in keys.items() if tag in LEVELS[of])

    def answer(
        entity: Mapping[int, str], patient: list[list[Made]], study: list[Made], series: list[Made]
    ) -> dict[int, str]:
        known = {tag for of in range(level + 1) for tag in LEVELS[of]}
        given = {tag: entity.get(tag, "") for tag in keys if tag in known}
        for tag in keys:
            if COMPUTED.get(tag, 9) <= level:
                given[tag] = computed(tag, patient, study, series)
        return given

    def below(instances: list[Made], of: int) -> bool:
        """Whether something at this level and further down meets what is asked there."""
        if not relational or of > IMAGE:
            return True
        if of == STUDY:
            return any(meets(facts(one, STUDY), STUDY) and below(one, SERIES) for one in by_study(instances))
        if of == SERIES:
            return any(meets(facts(one, SERIES), SERIES) and below(one, IMAGE) for one in by_series(instances))
        return any(meets(made.items, IMAGE) for made in instances)

    found = []
    patients = by_patient(instances)
    if level == PATIENT:
        for patient in patients:
            everything = [made for one in patient for made in one]
            # The earliest instance of a patient counts, whichever study it is of.
            everything.sort(key=instances.index)
            said = facts(everything, PATIENT)
            if meets(said, PATIENT) and below(everything, STUDY):
                found.append(answer(said, patient, [], []))
        return found
    owner = {id(study): patient for patient in patients for study in patient}
    studies = [study for patient in patients for study in patient]
    studies.sort(key=lambda study: instances.index(study[0]))
    for study in studies:
        patient = owner[id(study)]
        of_study = facts(study, PATIENT) | facts(study, STUDY)
        if not meets(of_study, PATIENT) or not meets(of_study, STUDY):
            continue
        asked = [tag for tag in (tags.ModalitiesInStudy, tags.SOPClassesInStudy) if tag in keys]
        if not all(matches(tag, keys[tag], computed(tag, patient, study, [])) for tag in asked):
            continue
        if level == STUDY:
            if below(study, SERIES):
                found.append(answer(of_study, patient, study, []))
            continue
        for series in by_series(study):
            of_series = of_study | facts(series, SERIES)
            if not meets(of_series, SERIES):
                continue
            if level == SERIES:
                if below(series, IMAGE):
                    found.append(answer(of_series, patient, study, series))
                continue
            for made in series:
                if meets(made.items, IMAGE):
                    here = {tag: made.items.get(tag, "") for tag in LEVELS[IMAGE]}
                    found.append(answer(of_series | here, patient, study, series))
    return found
