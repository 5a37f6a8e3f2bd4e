"""A scope in the index: a query answers as if nothing but the studies in scope were stored."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from engine.access import FULL, NOTHING, Patient, Scope
from engine.access.role_settings import Role as RoleSettings
from engine.access.role_settings import StudyRule
from engine.access.roles import roles_of
from engine.access.scope import OfPatients, OneOfStudies, scope_of
from engine.dicom import tags
from engine.dicom.extra import Extra, ExtraSet
from engine.dicom.schema import Schema
from engine.index.apply.access_tags import Fill
from engine.index.catalog import Catalog
from engine.index.format.entry import Entry
from engine.index.format.types import ArrivalFact, Level, Order, PlacedMatch, Query, Root
from engine.index.query import access, candidates, in_scope, kept_places, ordering
from engine.index.query.explanation import Explanation
from tests import effort
from tests.index.entries import ROOT, Tail, entry, tombstone

TODAY = date.today()
INSTITUTIONS = ["City", "CITY ", "St. Mary", "Müller-Haus", ""]
DEPARTMENTS = ["Ward 3", "Ward 4", ""]
REFERRERS = ["Doe^John", "Roe^Jane^^^", "*", "Yamada^Tarou=山田^太郎", ""]
MODALITIES = ["CT", "MR", "US"]
SENDERS = ["CT1", "MR1"]
STUDIES = 40
IDENTITY = Schema(ExtraSet((Extra(tags.PatientIdentityRemoved, 0, "CS"),)))
"""The schema of an archive that keeps Patient Identity Removed."""


@dataclass
class Study:
    """What a study is, in the words of its maker."""

    uid: str
    patient: Patient
    referrer: str
    day: date | None
    institutions: set[str]
    departments: set[str]
    modalities: set[str]
    senders: set[str]
    identities: set[bytes]
    """Patient Identity Removed of each series."""
    entries: list[Entry]


def studies(rng: random.Random) -> list[Study]:
    tail = Tail()
    made = []
    for number in range(1, STUDIES + 1):
        patient = Patient(f"P{number // 4}", rng.choice(["", "", "X"]))
        referrer = rng.choice(REFERRERS)
        day = rng.choice([None, TODAY, TODAY - timedelta(days=rng.choice([1, 10, 29, 30, 31, 400]))])
        study = Study(f"{ROOT}.{number}", patient, referrer, day, set(), set(), set(), set(), set(), [])
        above: dict[str, Mapping[int, bytes]] = {
            "patient": {
                tags.PatientName: rng.choice(["Doe^A", "Doe^B", "Roe^C"]).encode(),
                tags.PatientID: patient.patient_id.encode(),
                tags.IssuerOfPatientID: patient.issuer.encode(),
                tags.PatientComments: f"comment {number}".encode(),
            },
            "study_items": {
                tags.ReferringPhysicianName: referrer.encode(),
                tags.StudyDate: day.strftime("%Y%m%d").encode() if day else b"",
                tags.StudyDescription: rng.choice([b"Thorax", b"Knee"]),
            },
        }
        identities = rng.choice([[b"YES"], [b"YES", b"NO", b""], [b""]])
        for series in range(1, rng.randrange(2, 5)):
            identity = rng.choice(identities)
            study.identities.add(identity)
            institution, department = rng.choice(INSTITUTIONS), rng.choice(DEPARTMENTS)
            modality, sender = rng.choice(MODALITIES), rng.choice(SENDERS)
            study.institutions.add(institution)
            study.departments.add(department)
            study.modalities.add(modality)
            study.senders.add(sender)
            items = {
                tags.Modality: modality.encode(),
                tags.InstitutionName: institution.encode(),
                tags.InstitutionalDepartmentName: department.encode(),
            }
            for instance in range(1, rng.randrange(2, 4)):
                one = entry(
                    tail,
                    study=number,
                    series=series,
                    instance=instance,
                    character_set=b"ISO_IR 192",
                    series_items=items,
                    patient={**above["patient"], tags.PatientIdentityRemoved: identity},
                    study_items=above["study_items"],
                )
                study.entries.append(replace(one, calling_ae_title=sender.encode()))
        made.append(study)
    return made


def random_rule(rng: random.Random) -> StudyRule:
    choices: dict[str, list[Any]] = {
        "institution": ["city", "St. *", "müller-haus", ("City", "x"), "*"],
        "department": ["ward 3", "Ward ?", "me"],
        "referrer": ["me", "doe^*", "山田^太郎", "*"],
        "modality": ["CT", ("MR", "US")],
        "sender": ["CT1", "me"],
        "age_days": [1, 30, 365],
        "deidentified": [True, False],
    }
    chosen = rng.sample(list(choices), rng.randrange(1, 3))
    return StudyRule(**{name: rng.choice(choices[name]) for name in chosen})


ATTRIBUTES = {"department": ("Ward 4",), "referrer": ("Roe^Jane", "*"), "sender": ("MR1",)}


def judge(study: Study, rule: StudyRule) -> bool:
    """The slow, obvious answer."""

    def plain(text: str) -> str:
        return " ".join(text.casefold().split()).rstrip("^ ")

    def meets(written: str | tuple[str, ...], values: set[str], own: tuple[str, ...] = ()) -> bool:
        texts = (written,) if isinstance(written, str) else written
        values = {plain(value) for value in values} - {""}
        for text in texts:
            if text == "me":
                if values & {plain(value) for value in own}:
                    return True
            elif any(fnmatchcase(value, plain(text)) for value in values):
                return True
        return False

    facts = {
        "institution": study.institutions,
        "department": study.departments,
        "referrer": set(study.referrer.split("=")),
        "modality": study.modalities,
        "sender": study.senders,
    }
    for name, values in facts.items():
        written = getattr(rule, name)
        if written and not meets(written, values, ATTRIBUTES.get(name, ())):
            return False
    if rule.deidentified is not None and (study.identities == {b"YES"}) is not rule.deidentified:
        return False
    return rule.age_days is None or (study.day is not None and (TODAY - study.day).days <= rule.age_days)


def random_scope(rng: random.Random, made: Sequence[Study]) -> tuple[Scope, list[Study], str]:
    rules = tuple(random_rule(rng) for _ in range(rng.randrange(3)))
    role = roles_of((RoleSettings(name="r", studies=rules),))["r"]
    granted = frozenset(study.uid for study in rng.sample(list(made), rng.choice([0, 0, 3])))
    patients = frozenset(study.patient for study in rng.sample(list(made), rng.choice([0, 0, 1])))
    scope = role.scope(ATTRIBUTES)
    if granted:
        scope |= scope_of([frozenset({OneOfStudies(granted)})])
    if patients:
        scope |= scope_of([frozenset({OfPatients(patients)})])
    visible = [
        study
        for study in made
        if any(judge(study, rule) for rule in rules) or study.uid in granted or study.patient in patients
    ]
    return scope, visible, f"{rules} {sorted(granted)} {patients}"


def random_query(rng: random.Random) -> Query:
    level = rng.choice(list(Level))
    filters: dict[int, list[str]] = {
        tags.PatientName: ["Doe*", "*", "Roe^C", "*o*"],
        tags.PatientID: ["P1", "P*", "*"],
        tags.PatientComments: ["comment 1*", "*7"],
        tags.ReferringPhysicianName: ["*", "Doe*"],
        tags.StudyDate: [f"{TODAY - timedelta(days=20):%Y%m%d}-"],
        tags.ModalitiesInStudy: ["CT", "M*"],
        tags.StudyInstanceUID: [f"{ROOT}.{rng.randrange(1, STUDIES)}\\{ROOT}.{rng.randrange(1, STUDIES)}"],
        tags.SOPInstanceUID: [f"{ROOT}.{rng.randrange(1, STUDIES)}.1.1"],
        tags.Modality: ["CT"],
        tags.StudyDescription: ["*nee*"],
    }
    returned = [
        tags.PatientName, tags.PatientID, tags.PatientComments, tags.NumberOfPatientRelatedStudies,
        tags.NumberOfPatientRelatedSeries, tags.NumberOfPatientRelatedInstances,
    ]  # fmt: skip
    if level >= Level.STUDY:
        returned += [tags.StudyInstanceUID, tags.ModalitiesInStudy, tags.NumberOfStudyRelatedInstances]
    if level >= Level.SERIES:
        returned += [tags.SeriesInstanceUID, tags.NumberOfSeriesRelatedInstances]
    if level == Level.IMAGE:
        returned.append(tags.SOPInstanceUID)
    keys = dict.fromkeys(returned, b"")
    for tag in rng.sample(list(filters), rng.randrange(3)):
        if tag != tags.ModalitiesInStudy or level >= Level.STUDY:
            keys[tag] = rng.choice(filters[tag]).encode()
    query = Query(level, keys, Root.PATIENT, b"ISO_IR 192", relational=True)
    if level == Level.PATIENT:
        return query  # whole: patients come in the order of their first study, in scope or not
    return replace(query, limit=rng.choice((None, None, 3)), offset=rng.choice((0, 0, 2)), count_max=500)


def answers(index: Catalog, query: Query, scope: Scope) -> tuple[list[dict[int, bytes]], int]:
    explanation = Explanation()
    matches = [match.attributes for match in index.search(query, explanation, scope)]
    if query.level == Level.PATIENT:
        matches.sort(key=repr)
    return matches, explanation.beyond


@pytest.fixture(scope="module", params=effort.one_of(0, 1, 2))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    rng = random.Random(request.param)
    made = studies(rng)
    index = Catalog.open(str(tmp_path_factory.mktemp("all")), map_bytes=1 << 28, schema=IDENTITY)
    index.apply([one for study in made for one in study.entries])
    yield request.param, made, index
    index.close()


@pytest.fixture(params=["as it is", "small", "unfilled"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways that a scope is found: in an archive of this size, of a million, and without its keys."""
    if request.param == "unfilled":
        monkeypatch.setattr(Fill, "is_complete", property(lambda self: False))
    if request.param == "small":
        for module, name, value in (
            (access, "_FEW", 1), (access, "_SHORT", 2), (access, "_WIDE_SHARE", 20), (access, "_ASKED_IDS", 1),
            (in_scope, "MERGED_MAX", 3), (in_scope, "ASKED_MAX", 2), (in_scope, "PASSED_MAX", 1),
            (candidates, "LOOKED_UP_MAX", 2),
            (ordering, "FEW_MIN", 3), (ordering, "LISTED_FACTOR", 0), (ordering, "PASSED_AT_ONCE", 2),
            (ordering, "CHUNK", 2), (ordering, "REMEMBERED_MAX", 4), (kept_places, "NARROWED_MAX", 9),
            (ordering, "LISTED_AT_ONCE", 2),
        ):  # fmt: skip
            monkeypatch.setattr(module, name, value)


def test_queries_answer_as_if_only_the_studies_in_scope_were_stored(world: Any, tmp_path: Path, ways: None) -> None:
    seed, made, index = world
    rng = random.Random(1000 + seed)
    seen: set[int] = set()
    for turn in range(12):
        scope, visible, words = random_scope(rng, made)
        seen.add(len(visible))
        alone = Catalog.open(str(tmp_path / str(turn)), map_bytes=1 << 28, schema=IDENTITY)
        alone.apply([one for study in visible for one in study.entries])
        for _ in range(25):
            query = random_query(rng)
            about = f"seed {seed}, scope {words}, {query}"
            assert answers(index, query, scope) == answers(alone, query, FULL), about
            if query.keys.get(tags.StudyInstanceUID):
                named = replace(query, level=Level.STUDY)
                expected = [one.sop_instance_uid for one in alone.instances(named)]
                assert [one.sop_instance_uid for one in index.instances(named, scope)] == expected, about
                assert sorted(index.identifiers(named, scope)) == sorted(alone.identifiers(named)), about
        for study in made:
            assert index.is_in_scope(study.uid.encode(), scope) is (study in visible), words
        alone.close()
    assert len(seen) > 3, "the scopes should differ"


ORDERS = [
    Order(None),
    Order(None, True),
    Order(tags.PatientName),
    Order(tags.StudyDate, True),
    Order(tags.StudyDescription),
    Order(tags.NumberOfStudyRelatedInstances, True),
    Order(None, False, ArrivalFact.SIZE),
    Order(None, True, ArrivalFact.SENDER),
]


def test_lists_in_any_order_skip_nothing_and_count_nothing_out_of_scope(world: Any, tmp_path: Path, ways: None) -> None:
    seed, made, index = world
    rng = random.Random(2000 + seed)

    def listed(of: Catalog, query: Query, order: Order, skip: int, scope: Scope) -> list[bytes]:
        steps = of.ordered_steps(query, order, None, Explanation(), skip=skip, scope=scope)
        return [step.match.attributes[tags.StudyInstanceUID] for step in steps if isinstance(step, PlacedMatch)]

    for turn in range(4):
        scope, visible, words = random_scope(rng, made)
        alone = Catalog.open(str(tmp_path / str(turn)), map_bytes=1 << 28, schema=IDENTITY)
        alone.apply([one for study in visible for one in study.entries])
        for order in ORDERS:
            for filters in ({}, {tags.PatientName: b"Doe*"}):
                skip = rng.choice((0, 0, 1, 7))
                query = Query(Level.STUDY, {tags.StudyInstanceUID: b"", **filters}, character_set=b"ISO_IR 192")
                expected = listed(alone, query, order, skip, FULL)
                assert listed(index, query, order, skip, scope) == expected, f"seed {seed}, {words}, {order}, {skip}"
        alone.close()


def test_a_study_that_leaves_or_enters_a_scope_does_so_at_once(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path), map_bytes=1 << 28, schema=IDENTITY)
    tail = Tail()
    ward = roles_of((RoleSettings(name="r", studies=(StudyRule(department="Ward 3"),)),))["r"].scope({})
    index.apply([entry(tail, study=1, series=1)])
    assert not index.is_in_scope(f"{ROOT}.1".encode(), ward)
    department = {tags.InstitutionalDepartmentName: b"Ward 3"}
    added = entry(tail, study=1, series=2, series_items=department)
    index.apply([added])
    assert index.is_in_scope(f"{ROOT}.1".encode(), ward)
    index.apply([tombstone(tail, added.sop_instance_uid)])
    assert not index.is_in_scope(f"{ROOT}.1".encode(), ward)
    assert not index.is_in_scope(b"1.2.3", FULL)
    assert not index.is_in_scope(f"{ROOT}.1".encode(), NOTHING)
    index.close()
