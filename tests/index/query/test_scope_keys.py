"""The keys of a scope find every study that the scope admits, and few others."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.access.scope import (
    AccessFacts,
    Attribute,
    Deidentified,
    Matching,
    OfPatients,
    OneOfStudies,
    Patient,
    Recent,
    Requirement,
    Scope,
    scope_of,
)
from engine.dicom import tags
from engine.dicom.schema import STANDARD
from engine.index.format import access_tags, terms
from engine.index.format.access_tags import decoded, names_of, texts_of
from engine.index.query.admission import _date
from engine.index.query.scope_keys import ScopeKeys, is_key_admitted, keys_of, starts_of

TODAY = date(2026, 3, 1)


def finds(scope: Scope, tag: int, stored: bytes) -> bool:
    """Whether a key of an entity with this value is one of the scope's; true if the scope has none."""
    found = keys_of(scope, TODAY, STANDARD)
    if found is None:
        return True
    ((one,),) = found
    in_search = terms.search_keys({tag: stored}, STANDARD)
    in_access = access_tags.keys_of_study({tag: stored}) | access_tags.keys_of_series({tag: stored})
    if one.matching is not None:
        starts = tuple(starts_of(one.matching))
        return any(is_key_admitted(key, one.matching, TODAY) and key.startswith(starts) for key in in_access)
    is_in_range = any(start <= key < end for start, end in one.ranges for key in in_search)
    return is_in_range or not in_access.isdisjoint(one.access)


def texts(*pieces: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=6).map("".join)


@given(texts("Doe", "dOE", "^", " ", "  ", "=", "Müller", "ß", "\u0130", "山", "\\", "*", "\0"))
def test_every_form_of_a_referrer_that_a_scope_admits_has_its_key(stored: str) -> None:
    value = stored.encode()
    for name in names_of(value):
        scope = scope_of([frozenset({Matching.of(Attribute.REFERRER, [], exact=[name])})])
        assert finds(scope, tags.ReferringPhysicianName, value), (stored, name)


@pytest.mark.parametrize(
    ("attribute", "tag"),
    [
        (Attribute.MODALITY, tags.Modality),
        (Attribute.INSTITUTION, tags.InstitutionName),
        (Attribute.DEPARTMENT, tags.InstitutionalDepartmentName),
    ],
)
@given(texts("CT", "ct", " ", "M", "\\", "ſ", "ß", "_1", "\x01", "\0", "x" * 200))
def test_every_form_of_a_text_that_a_scope_admits_has_its_key(attribute: Attribute, tag: int, stored: str) -> None:
    value = stored.encode()
    for text in texts_of(value[:255] if tag == tags.Modality else value):
        for rule in (Matching.of(attribute, [], exact=[text]), Matching.of(attribute, [f"{text[:1]}*"])):
            assert finds(scope_of([frozenset({rule})]), tag, value), (stored, text, rule)


@pytest.mark.parametrize(
    ("attribute", "tag"),
    [
        (Attribute.MODALITY, tags.Modality),
        (Attribute.INSTITUTION, tags.InstitutionName),
        (Attribute.REFERRER, tags.ReferringPhysicianName),
    ],
)
@given(
    texts("A", "a", " ", "\\", "^", "=", "ß", "\x01", "\0", "?", "x" * 200),
    texts("A", "?", "^", "\x01", "\ud800", "x" * 200),
)
def test_an_exact_key_finds_no_form_that_its_requirement_does_not_admit(
    attribute: Attribute, tag: int, stored: str, written: str
) -> None:
    value = stored.encode()[:255]
    held = names_of(value) if attribute == Attribute.REFERRER else texts_of(value)
    facts = AccessFacts("1.2", Patient(""), {attribute: frozenset(held)})
    in_access = access_tags.keys_of_study({tag: value}) | access_tags.keys_of_series({tag: value})
    for rule in (Matching.of(attribute, [], exact=[written]), Matching.of(attribute, [f"{written[:1]}*"])):
        ((one,),) = keys_of(scope_of([frozenset({rule})]), TODAY, STANDARD) or [[ScopeKeys()]]
        found = [key for key in in_access if key in one.access or (one.matching and is_key_admitted(key, rule, TODAY))]
        if one.is_exact and found and None not in map(access_tags.text_of, found):
            assert rule.admits(facts, TODAY), (stored, written, rule)


def test_keys_are_exact_if_their_text_is_whole_and_they_say_all_that_a_requirement_asks() -> None:
    def is_exact(requirement: Requirement) -> bool:
        ((one,),) = keys_of(scope_of([frozenset({requirement})]), TODAY, STANDARD) or [[ScopeKeys()]]
        return one.is_exact

    exact: list[Requirement] = [
        Matching.of(Attribute.DEPARTMENT, ["Ward", "Ward 2"]),
        Matching.of(Attribute.INSTITUTION, ["City*"]),
        Matching.of(Attribute.REFERRER, ["Doe^John"]),
        Matching.of(Attribute.SENDER, ["CT1"]),
        OneOfStudies(frozenset({"1.2", "1.3"})),
    ]
    others: list[Requirement] = [
        Matching.of(Attribute.DEPARTMENT, ["Ward", "w" * 1000]),
        Matching.of(Attribute.DEPARTMENT, ["\ud800"]),
        OneOfStudies(frozenset({"1.2", "1" * 1000})),
        OfPatients(frozenset({Patient("P1")})),
        Recent(3),
        Deidentified(True),
    ]
    assert [is_exact(each) for each in exact] == [True] * len(exact)
    assert [is_exact(each) for each in others] == [False] * len(others)


@given(texts("P1", "p", " ", "é", "e\u0301", "\\", "^", "\0"))
def test_every_form_of_a_patient_id_that_a_scope_admits_has_its_key(stored: str) -> None:
    value = stored.encode()
    scope = scope_of([frozenset({OfPatients(frozenset({Patient(decoded(value))}))})])
    assert finds(scope, tags.PatientID, value), stored


@given(texts("2026", "2025", "02", "1", "03", ".", " ", "-", "x", "\\"))
def test_every_date_that_is_recent_enough_has_its_key(stored: str) -> None:
    value = stored.encode()
    day = _date(value)
    if day is not None:
        scope = scope_of([frozenset({Recent(max((TODAY - day).days, 0))})])
        assert finds(scope, tags.StudyDate, value), stored


@pytest.mark.parametrize("days", [0.5, 30, 1e9, 3e6])
def test_an_age_of_any_length_has_keys_or_none(days: float) -> None:
    keys = keys_of(scope_of([frozenset({Recent(days)})]), TODAY, STANDARD)
    assert (keys is None) == (days > 1e6)


def test_an_alternative_has_keys_if_one_of_its_requirements_has_and_a_scope_if_all_its_alternatives_have() -> None:
    study = OneOfStudies(frozenset({"1.2"}))
    named = Matching.of(Attribute.REFERRER, ["Doe^John"])
    without = Deidentified(False)
    keys = keys_of(scope_of([frozenset({named, without, study}), frozenset({named})]), TODAY, STANDARD)
    assert keys is not None
    assert sorted(len(each) for each in keys) == [1, 2]
    assert keys_of(scope_of([frozenset({study}), frozenset({without})]), TODAY, STANDARD) is None
    assert keys_of(scope_of([frozenset({Recent(3), without})]), TODAY, STANDARD) is not None


def test_the_identity_that_was_removed_has_a_key() -> None:
    assert finds(scope_of([frozenset({Deidentified(True)})]), tags.PatientIdentityRemoved, b"yes ")
    assert not finds(scope_of([frozenset({Deidentified(True)})]), tags.PatientIdentityRemoved, b"NO")
