"""Holder: who shows a verified token, as `access.Principal` needs it: over HTTP and in DIMSE user identities alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.access.launch import PATIENT
from engine.access.smart import SCOPES
from engine.accounts import tokens
from engine.accounts.directory import TOKEN, AccountDirectory
from engine.identity import enrolment

if TYPE_CHECKING:
    from engine.identity.claims import Person


@dataclass(frozen=True, slots=True)
class Holder:
    """The fields of a principal."""

    user: str
    session: str
    """Tells one token from another in the audit; it opens nothing."""
    roles: frozenset[str]
    until_s: float
    attributes: dict[str, tuple[str, ...]]


def holder_of(token: str, person: Person, directory: AccountDirectory) -> Holder:
    """Who shows the token of this person. Raises IdentityRefused if the account of that name is another's."""
    user = directory.user(person.user)
    enrolment.check(user, person)
    own_roles = () if user is None or person.are_roles_known else user.roles
    launch = {} if person.launch_patient is None else {PATIENT: tuple(person.launch_patient)}
    return Holder(
        user=person.user,
        session=TOKEN + tokens.id_of(tokens.digest_of(token)),
        roles=person.roles.union(own_roles),
        until_s=person.until_s,
        attributes={**person.attributes, **launch, **({SCOPES: person.scopes} if person.scopes else {})},
    )
