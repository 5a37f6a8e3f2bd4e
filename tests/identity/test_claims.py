"""What is read out of the claims of a verified token."""

from __future__ import annotations

from typing import Any

import pytest

from engine.access.scope import Patient
from engine.errors import IdentityRefused
from engine.identity import claims
from engine.identity.settings import Oidc
from tests.identity.small_provider import CLIENT, KEYCLOAK

TIMES = {"sub": "u-1", "exp": 2_000_000_000}


def provider(**more: Any) -> Oidc:
    return Oidc(**{"name": "hospital", "issuer": "https://sso.example", "client_id": CLIENT, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("realm_access.roles", ["offline_access", "pacs-radiologist", "uma_authorization"]),
        ("resource_access.{client_id}.roles", ["pacs-auditor"]),
        ("groups", ["/radiology/ct"]),
        ("preferred_username", ["alice"]),
        ("missing", []),
        ("realm_access.missing.roles", []),
        ("preferred_username.roles", []),
    ],
)
def test_keycloaks_layout_is_read(path: str, texts: list[str]) -> None:
    assert claims.texts_at(KEYCLOAK, path, CLIENT) == texts


def test_dots_in_the_names_of_clients_and_claims_are_no_obstacle() -> None:
    found = {"resource_access": {"pacs.example.org": {"roles": ["a"]}}, "https://x.org/roles": "b"}
    assert claims.texts_at(found, "resource_access.{client_id}.roles", "pacs.example.org") == ["a"]
    assert claims.texts_at(found, "https://x.org/roles") == ["b"]


@pytest.mark.parametrize("value", [7, None, {"a": "b"}, [], [7, None, ["x"]], "", "x" * 257, True])
def test_a_claim_of_another_kind_is_no_text(value: object) -> None:
    assert claims.texts_at({"groups": value}, "groups") == []


def test_only_roles_that_the_configuration_names_count() -> None:
    mapped = provider(roles={"pacs-radiologist": "radiologist", "/radiology/ct": "technologist"})
    assert claims.roles_of(mapped, KEYCLOAK) == {"radiologist", "technologist"}
    hostile = {"roles": ["admin", "full"], "realm_access": {"roles": ["admin"]}}
    assert claims.roles_of(mapped, hostile) == frozenset()
    assert claims.roles_of(provider(default_roles=("referrer",)), hostile) == {"referrer"}


def test_a_person_has_the_attributes_that_the_configuration_asks_for() -> None:
    settings = provider(attributes={"department": "department", "referrer": "referrer_names"})
    person = claims.person_of(settings, {**KEYCLOAK, **TIMES})
    assert person.attributes == {"department": ("CT", "MR")}
    assert (person.user, person.full_name, person.provider_session) == ("alice", "Alice Ångström", "a-session-there")


@pytest.mark.parametrize("name", [None, "", ["a", "b"], 7, "x" * 300])
def test_a_token_without_one_user_name_is_refused(name: object) -> None:
    with pytest.raises(IdentityRefused, match="no user name"):
        claims.person_of(provider(), {**KEYCLOAK, **TIMES, "preferred_username": name})


@pytest.mark.parametrize(
    ("scope", "is_opened"),
    [
        ("patient/ImagingStudy.read", True),
        ("openid launch/patient patient/ImagingStudy.rs", True),
        (["patient/*.read"], True),
        ("patient/Observation.read", False),
        ("patient/ImagingStudy.write", False),
    ],
)
def test_a_smart_token_opens_its_patient_and_gives_none_of_the_users_rights(scope: object, is_opened: bool) -> None:
    settings = provider(roles={"pacs-radiologist": "radiologist"}, patient_id_issuer="HOSPITAL")
    person = claims.person_of(settings, {**KEYCLOAK, **TIMES, "scope": scope, "patient": "4711"})
    assert person.roles == frozenset()
    assert person.launch_patient == (Patient("4711", "HOSPITAL") if is_opened else ())


def test_a_token_without_patient_scopes_names_no_patient() -> None:
    person = claims.person_of(provider(default_roles=("radiologist",)), {**KEYCLOAK, **TIMES, "patient": "4711"})
    assert (person.roles, person.launch_patient) == ({"radiologist"}, None)


@pytest.mark.parametrize(
    "scopes",
    [
        {"scope": "openid\tpatient/ImagingStudy.rs"},
        {"scope": "openid\npatient/ImagingStudy.rs\r\n"},
        {"scope": "openid", "scp": ["patient/ImagingStudy.rs"]},
        {"scope": ["openid", "patient/ImagingStudy.rs profile"]},
        {"scp": "openid patient.ImagingStudy.rs"},
        {"scope": "Patient/ImagingStudy.rs"},
    ],
)
def test_a_scope_of_one_patient_limits_a_token_however_it_is_written(scopes: dict[str, object]) -> None:
    settings = provider(roles={"pacs-radiologist": "radiologist"}, patient_id_issuer="HOSPITAL")
    person = claims.person_of(settings, {**KEYCLOAK, **TIMES, **scopes, "patient": "4711"})
    assert person.launch_patient is not None and not person.roles and person.scopes
