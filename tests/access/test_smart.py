"""SMART scopes: what a token is for, by kind of resource and interaction."""

from __future__ import annotations

import pytest

from engine.access import ARCHIVE, FULL, NOTHING, Action, Kind, Policy, Principal, Records, smart
from engine.access.launch import PATIENT
from engine.access.role_settings import Role
from engine.accounts.directory import TOKEN, AccountDirectory
from engine.config import Config


@pytest.mark.parametrize(
    ("scopes", "kind", "letters"),
    [
        ("user/ImagingStudy.rs", "ImagingStudy", "rs"),
        ("user/ImagingStudy.r user/ImagingStudy.s", "ImagingStudy", "rs"),
        ("user/ImagingStudy.read", "ImagingStudy", "rs"),
        ("user/ImagingStudy.write", "ImagingStudy", "cud"),
        ("user/ImagingStudy.*", "ImagingStudy", "cruds"),
        ("system/*.cruds", "Patient", "cruds"),
        ("user/Patient.rs", "ImagingStudy", ""),
        ("user/ImagingStudy.sr", "ImagingStudy", ""),  # the letters have an order
        ("user/ImagingStudy.", "ImagingStudy", ""),
        ("user/ImagingStudy.rs?modality=CT", "ImagingStudy", ""),  # nobody here narrows by a query
        ("user/ImagingStudy.rs.rs", "ImagingStudy", ""),
        ("User/ImagingStudy.rs", "ImagingStudy", ""),
        ("user/imagingstudy.rs", "ImagingStudy", ""),
        ("user/ImagingStudy.rs\n", "ImagingStudy", ""),
        ("patient/Patient.r user/ImagingStudy.rs", "ImagingStudy", ""),  # one of a patient has nothing beside it
        ("patient/Patient.r user/ImagingStudy.rs", "Patient", "r"),
        ("Patient/Patient.r user/ImagingStudy.rs", "ImagingStudy", ""),
        ("user.ImagingStudy.rs", "ImagingStudy", "rs"),
        ("user.all.read", "ImagingStudy", "rs"),
        ("patient.Patient.r user.ImagingStudy.rs", "ImagingStudy", ""),
    ],
)
def test_a_scope_is_for_interactions_with_a_kind(scopes: str, kind: str, letters: str) -> None:
    assert smart.interactions(smart.clinical(scopes.split(" ")), kind) == frozenset(letters)


def may(scopes: str | None, action: Action, *target: Records) -> bool:
    """Whether a token of a user who may do everything may do that."""
    config = Config(roles=(Role(name="all", may=("query", "retrieve", "store", "delete"), studies="all"),))
    policy = Policy(lambda: config, AccountDirectory(None, lambda: config))
    attributes = {} if scopes is None else {smart.SCOPES: smart.clinical(scopes.split(" "))}
    principal = Principal(Kind.HTTP, "ann", session=f"{TOKEN}1", roles=frozenset({"all"}), attributes=attributes)
    allowed = bool(policy.allowed(principal, action, *target))
    assert (policy.scope(principal, action, *(target or (ARCHIVE,))) is FULL) is allowed
    assert allowed or policy.scope(principal, action, *(target or (ARCHIVE,))) is NOTHING
    return allowed


def test_a_token_without_scopes_is_not_narrowed() -> None:
    assert all(may(None, action) for action in (Action.QUERY, Action.RETRIEVE, Action.STORE, Action.DELETE))
    assert may(None, Action.QUERY, Records("Patient", "s"))


def test_scopes_narrow_what_the_users_roles_allow() -> None:
    assert may("user/ImagingStudy.rs", Action.QUERY) and may("user/ImagingStudy.rs", Action.RETRIEVE)
    assert may("user/ImagingStudy.s", Action.QUERY) and not may("user/ImagingStudy.s", Action.RETRIEVE)
    assert may("user/ImagingStudy.r", Action.RETRIEVE) and not may("user/ImagingStudy.r", Action.QUERY)
    assert may("user/ImagingStudy.r", Action.QUERY, Records("ImagingStudy", "r"))
    assert not may("user/ImagingStudy.r", Action.QUERY, Records("ImagingStudy", "s"))
    assert not may("user/ImagingStudy.rs", Action.QUERY, Records("Patient", "s"))
    assert not may("user/Patient.rs", Action.QUERY) and may("user/Patient.rs", Action.QUERY, Records("Patient", "s"))
    for action in (Action.STORE, Action.DELETE):
        assert not may("user/*.cruds", action)
    for unreadable in ("user/ImagingStudy.unreadable", "User/ImagingStudy.rs", "SYSTEM/*.rs", "user.Patient.x"):
        assert smart.clinical([unreadable]) and not may(unreadable, Action.QUERY)
    assert smart.clinical(["openid", "User.Read", "User.Read.All", "user.read"]) == ()  # scopes of something else


def test_scopes_open_nothing_that_roles_do_not() -> None:
    principal = Principal(
        Kind.HTTP, "ann", session=f"{TOKEN}1", attributes={smart.SCOPES: ("system/*.cruds",), PATIENT: ()}
    )
    policy = Policy(Config, AccountDirectory(None, Config))
    assert policy.scope(principal, Action.QUERY) is NOTHING


@pytest.mark.parametrize(
    ("scopes", "may"),
    [
        ("system/Subscription.cruds", "crud"),
        ("user/Subscription.rs", "r"),
        ("user/ImagingStudy.rs", ""),
        ("user/*.write", "cud"),
    ],
)
def test_a_scope_lets_a_client_subscribe(scopes: str, may: str) -> None:
    attributes = {smart.SCOPES: smart.clinical(scopes.split(" "))}
    principal = Principal(Kind.HTTP, "ann", session="t-1", attributes=attributes)
    allowed = {
        letter for letter in "crud" if not smart.refusal(principal, Action.QUERY, Records("Subscription", letter))
    }
    assert allowed == set(may)
