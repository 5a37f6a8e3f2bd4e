"""engine.access.scope: the algebra of scopes, and what they admit."""

from __future__ import annotations

import random
from datetime import date

import pytest

from engine.access import FULL, NOTHING, Patient, Scope
from engine.access.scope import (
    AccessFacts,
    Attribute,
    Deidentified,
    Matching,
    OfPatients,
    OneOfStudies,
    Recent,
    Requirement,
    normalized,
    scope_of,
)

TODAY = date(2026, 11, 30)


def facts(**texts: str) -> AccessFacts:
    return AccessFacts(
        "1.2.3",
        Patient("4711", "CITY"),
        {Attribute(name): frozenset({normalized(text)}) for name, text in texts.items()},
        date(2026, 11, 20),
    )


@pytest.mark.parametrize(
    ("texts", "value", "is_admitted"),
    [
        (["St. Mary"], "ST. MARY ", True),
        (["St. M*"], "st. mary", True),
        (["St. M?ry"], "St. Mary", True),
        (["St. M?"], "St. Mary", False),
        (["CITY", "St. Mary"], "St. Mary", True),
        (["St. M[a]ry"], "St. Mary", False),
        (["St.*"], "StX Mary", False),
        (["*"], "anything", True),
        (["*"], "", True),
    ],
)
def test_texts_match_with_wildcards_and_without_regard_to_case(texts: list[str], value: str, is_admitted: bool) -> None:
    assert Matching.of(Attribute.INSTITUTION, texts).admits(facts(institution=value), TODAY) is is_admitted


@pytest.mark.parametrize("name", ["*", "D*", "?OE^JOHN", ""])
def test_an_attribute_of_a_user_is_no_pattern(name: str) -> None:
    requirement = Matching.of(Attribute.REFERRER, (), exact=[name])
    assert not requirement.admits(facts(referrer="DOE^JOHN"), TODAY)
    assert not requirement.admits(facts(referrer=""), TODAY)


def test_names_are_equal_whatever_empty_parts_follow() -> None:
    requirement = Matching.of(Attribute.REFERRER, (), exact=["Doe^John"])
    assert requirement.admits(facts(referrer="DOE^JOHN^^^"), TODAY)
    assert not requirement.admits(facts(referrer="DOE^JOHN^A"), TODAY)


@pytest.mark.parametrize(("days", "is_admitted"), [(9, False), (10, True), (10.5, True)])
def test_age_counts_days_since_the_study_date(days: float, is_admitted: bool) -> None:
    assert Recent(days).admits(facts(), TODAY) is is_admitted


def test_a_study_without_a_date_is_of_no_age() -> None:
    assert not Recent(100_000).admits(AccessFacts("1.2", Patient("1")), TODAY)


def test_the_same_id_of_another_issuer_is_another_patient() -> None:
    assert OfPatients(frozenset({Patient("4711", "CITY")})).admits(facts(), TODAY)
    assert not OfPatients(frozenset({Patient("4711", "")})).admits(facts(), TODAY)


REQUIREMENTS: list[Requirement] = [
    Matching.of(Attribute.MODALITY, ["CT"]),
    Matching.of(Attribute.INSTITUTION, ["A*"]),
    Recent(30),
    Deidentified(True),
    OneOfStudies(frozenset({"1.1", "1.2"})),
    OfPatients(frozenset({Patient("P1")})),
]


def random_scope(chance: random.Random) -> Scope:
    return chance.choice(
        [
            FULL,
            NOTHING,
            *(
                scope_of(
                    frozenset(chance.sample(REQUIREMENTS, chance.randint(1, 3))) for _ in range(chance.randint(1, 3))
                )
                for _ in range(4)
            ),
        ]
    )


def random_facts(chance: random.Random) -> AccessFacts:
    return AccessFacts(
        f"1.{chance.randint(1, 3)}",
        Patient(f"P{chance.randint(1, 2)}"),
        {
            Attribute.MODALITY: frozenset(chance.sample(["ct", "mr"], chance.randint(0, 2))),
            Attribute.INSTITUTION: frozenset({chance.choice(["alpha", "beta"])}),
        },
        chance.choice([None, date(2026, 11, 1), date(2026, 1, 1)]),
        chance.random() < 0.5,
    )


@pytest.mark.parametrize("seed", range(200))
def test_or_admits_what_one_does_and_and_what_both_do(seed: int) -> None:
    chance = random.Random(seed)
    one, two, study = random_scope(chance), random_scope(chance), random_facts(chance)
    of_one, of_two = one.admits(study, TODAY), two.admits(study, TODAY)
    assert (one | two).admits(study, TODAY) is (of_one or of_two)
    assert (one & two).admits(study, TODAY) is (of_one and of_two)


def test_everything_and_nothing_are_single_values() -> None:
    some = scope_of([frozenset({Deidentified(True)})])
    assert FULL | some is FULL
    assert some | FULL is FULL
    assert FULL & some is some
    assert some & FULL is some
    assert some & NOTHING is NOTHING
    assert NOTHING | NOTHING is NOTHING
    assert NOTHING | FULL is FULL
    assert scope_of([]) is NOTHING
    assert hash(some) == hash(scope_of([frozenset({Deidentified(True)})]))
    assert [str(FULL), str(NOTHING), str(some)] == ["every study", "no study", "Patient Identity Removed is YES"]
