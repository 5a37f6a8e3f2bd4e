"""The keys of a scope find every study that the scope admits, and few others."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.access.scope import Attribute, Matching, OfPatients, OneOfStudies, Patient, Recent, Scope, scope_of
from engine.dicom import tags
from engine.dicom.schema import STANDARD
from engine.index.format import terms
from engine.index.query.admission import _date, _names, _text, _values
from engine.index.query.scope_keys import keys_of

TODAY = date(2026, 3, 1)


def finds(scope: Scope, tag: int, stored: bytes) -> bool:
    """Whether a key of an entity with this value lies in the ranges; true if the scope has none."""
    keys = keys_of(scope, TODAY, STANDARD)
    if keys is None:
        return True
    found = terms.search_keys({tag: stored}, STANDARD)
    return any(start <= key < end for ((one,),) in [keys] for start, end in one.ranges for key in found)


def texts(*pieces: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=6).map("".join)


@given(texts("Doe", "dOE", "^", " ", "  ", "=", "Müller", "ß", "\u0130", "山", "\\", "*", "\0"))
def test_every_form_of_a_referrer_that_a_scope_admits_has_its_key(stored: str) -> None:
    value = stored.encode()
    for name in _names(value):
        scope = scope_of([frozenset({Matching.of(Attribute.REFERRER, [], exact=[name])})])
        assert finds(scope, tags.ReferringPhysicianName, value), (stored, name)


@given(texts("CT", "ct", " ", "M", "\\", "ſ", "ß", "_1"))
def test_every_form_of_a_modality_that_a_scope_admits_has_its_key(stored: str) -> None:
    value = stored.encode()
    for code in _values(value):
        scope = scope_of([frozenset({Matching.of(Attribute.MODALITY, [], exact=[code])})])
        assert finds(scope, tags.Modality, value), (stored, code)


@given(texts("P1", "p", " ", "é", "e\u0301", "\\", "^", "\0"))
def test_every_form_of_a_patient_id_that_a_scope_admits_has_its_key(stored: str) -> None:
    value = stored.encode()
    scope = scope_of([frozenset({OfPatients(frozenset({Patient(_text(value))}))})])
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


def test_an_alternative_is_found_by_its_best_requirement_and_one_without_keys_needs_every_study() -> None:
    study = OneOfStudies(frozenset({"1.2"}))
    named = Matching.of(Attribute.REFERRER, ["Doe^John"])
    without = Matching.of(Attribute.INSTITUTION, ["City"])
    keys = keys_of(scope_of([frozenset({named, without, study}), frozenset({named})]), TODAY, STANDARD)
    assert keys is not None
    assert sorted(each[0].study_instance_uids for each in keys) == [(), (b"1.2",)]
    assert keys_of(scope_of([frozenset({study}), frozenset({without})]), TODAY, STANDARD) is None
    pattern = Matching.of(Attribute.REFERRER, ["Doe*"])
    assert keys_of(scope_of([frozenset({pattern})]), TODAY, STANDARD) is None
    assert keys_of(scope_of([frozenset({Recent(3), pattern})]), TODAY, STANDARD) is not None
