"""The patient of a SMART launch: a token opens that patient's studies, until it ends, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from engine.access import Action, Kind, Policy, Principal
from engine.access.launch import PATIENT
from engine.access.scope import NOTHING, AccessFacts, Patient
from engine.accounts.directory import TOKEN, AccountDirectory
from engine.config import Config

NOW_S = 1_800_000_000.0
LAUNCHED = Principal(
    Kind.HTTP, "pat", "10.0.0.1", session=f"{TOKEN}1", until_s=NOW_S + 60, attributes={PATIENT: ("4711", "H")}
)


def policy(now_s: float = NOW_S) -> Policy:
    return Policy(Config, AccountDirectory(None, Config), lambda: now_s)


def sees(principal: Principal, patient: Patient, action: Action = Action.QUERY, now_s: float = NOW_S) -> bool:
    scope = policy(now_s).scope(principal, action)
    return scope.admits(AccessFacts("1.2.3", patient), date(2026, 11, 30))


def test_only_the_patient_of_the_launch_is_seen() -> None:
    for action in (Action.QUERY, Action.RETRIEVE):
        assert sees(LAUNCHED, Patient("4711", "H"), action)
        for other in (Patient("4712", "H"), Patient("4711"), Patient("4711", "X"), Patient("", "H")):
            assert not sees(LAUNCHED, other, action)
    assert not policy().allowed(LAUNCHED, Action.STORE)
    assert not policy().allowed(LAUNCHED, Action.DELETE)


def test_it_ends_with_the_token() -> None:
    assert not sees(LAUNCHED, Patient("4711", "H"), now_s=NOW_S + 60)
    assert not policy(NOW_S + 60).allowed(LAUNCHED, Action.QUERY)


def test_a_token_that_is_limited_to_a_patient_it_may_not_read_opens_nothing() -> None:
    assert policy().scope(replace(LAUNCHED, attributes={PATIENT: ()}), Action.QUERY) is NOTHING
