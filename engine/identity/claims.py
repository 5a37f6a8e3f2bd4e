"""Reads user name, roles, attributes and the patient of a launch out of the claims of a verified token.

    preferred_username                        a claim
    realm_access.roles                        Keycloak: roles of the realm
    resource_access.{client_id}.roles         Keycloak: roles of a client, whose id may have dots
    https://pacs.example.org/roles            a claim whose name has dots

A path is read as any of its dots allow: `a.b` is the claim "a.b", or "b" in the object "a".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from engine.access import smart
from engine.access.scope import Patient
from engine.errors import IdentityRefused

if TYPE_CHECKING:
    from engine.identity.settings import Oidc

PARTS_MAX: Final = 12
VALUES_MAX: Final = 1000
"""Texts of one claim that are read; directories give people hundreds of groups."""
TEXT_LENGTH_MAX: Final = 256

_OF_PATIENTS: Final = ("ImagingStudy", "Patient")
"""Kinds of resources that are made of a patient's studies."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody whom a provider vouches for."""

    provider: str
    subject: str
    """The name that never changes, and is never given to anybody else (sub)."""
    user: str
    full_name: str
    roles: frozenset[str]
    attributes: dict[str, tuple[str, ...]]
    until_s: float
    """When the token ends, by our clock at the latest."""
    provider_session: str = ""
    """The session at the provider (sid)."""
    are_roles_known: bool = False
    """Whether `roles` are all that its user has; else those of the account here count too."""
    launch_patient: Patient | tuple[()] | None = None
    """The only patient whose images the token opens; (): it opens none; None: it is not limited to a patient."""
    scopes: tuple[str, ...] = ()
    """The SMART scopes that narrow what the token is for; (): it is not narrowed."""


def person_of(settings: Oidc, claims: Mapping[str, Any]) -> Person:
    """Whom verified claims are about. Raises IdentityRefused."""
    users = texts_at(claims, settings.user_claim, settings.client_id)
    if len(users) != 1:
        raise IdentityRefused(f"the token has no user name ({settings.user_claim})")
    scopes = smart.clinical(scopes_of(claims))
    is_limited = smart.is_for_one_patient(scopes)
    sessions = texts_at(claims, "sid")
    return Person(
        provider=settings.name,
        subject=str(claims["sub"]),
        user=users[0],
        full_name=next(iter(texts_at(claims, settings.name_claim, settings.client_id)), ""),
        roles=frozenset() if is_limited else roles_of(settings, claims),
        attributes=attributes_of(settings, claims),
        until_s=float(claims["exp"]) + settings.clock_skew_s,
        provider_session=sessions[0] if len(sessions) == 1 else "",
        are_roles_known=settings.decides_roles or is_limited,
        launch_patient=(patient_of(settings, claims) or ()) if is_limited else None,
        scopes=scopes,
    )


def is_complete(settings: Oidc, claims: Mapping[str, Any]) -> bool:
    """Whether the claims have a user name, and roles if the provider says who has which."""
    if not texts_at(claims, settings.user_claim, settings.client_id):
        return False
    return not settings.decides_roles or roles_of(settings, claims) > frozenset(settings.default_roles)


def texts_at(claims: Mapping[str, Any], path: str, client_id: str = "") -> list[str]:
    """The texts at a path, in order; other values are left out."""
    parts = [part.replace("{client_id}", client_id) for part in path.split(".", PARTS_MAX - 1)]
    texts: list[str] = []
    for value in _values(claims, parts):
        several = value if isinstance(value, list) else [value]
        texts += [text for text in several if isinstance(text, str) and 0 < len(text) <= TEXT_LENGTH_MAX]
    return texts[:VALUES_MAX]


def roles_of(settings: Oidc, claims: Mapping[str, Any]) -> frozenset[str]:
    """The roles that a token stands for here. What the configuration does not name stands for none."""
    values = [text for path in settings.role_claims for text in texts_at(claims, path, settings.client_id)]
    return frozenset(settings.default_roles) | {settings.roles[value] for value in values if value in settings.roles}


def attributes_of(settings: Oidc, claims: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The attributes of the user that the configuration asks for."""
    found = {name: tuple(texts_at(claims, path, settings.client_id)) for name, path in settings.attributes.items()}
    return {name: values for name, values in found.items() if values}


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """The scopes of an access token: a text with spaces (RFC 8693), or a list. A scope that is overlooked here narrows
    nothing: other white space counts too, and both claims."""
    texts: list[Any] = []
    for value in (claims.get("scope"), claims.get("scp")):
        texts += value if isinstance(value, list) else [value]
    return frozenset(scope for text in texts if isinstance(text, str) for scope in text.split())


def patient_of(settings: Oidc, claims: Mapping[str, Any]) -> Patient | None:
    """The patient whose images a SMART token opens; None: it opens none."""
    patient_ids = texts_at(claims, "patient")
    scopes = smart.clinical(scopes_of(claims))
    if len(patient_ids) != 1 or not any({"r", "s"} & smart.interactions(scopes, kind) for kind in _OF_PATIENTS):
        return None
    return Patient(patient_ids[0], settings.patient_id_issuer)


def _values(value: Any, parts: list[str]) -> Iterator[Any]:
    if not parts:
        yield value
    elif isinstance(value, Mapping):
        for count in range(len(parts), 0, -1):
            name = ".".join(parts[:count])
            if name in value:
                yield from _values(value[name], parts[count:])
