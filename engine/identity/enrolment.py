"""The account here of somebody whom a provider vouches for.

no account of that name        one is made, whose source is the provider, and whose subject is the person's
of this source and subject     it is theirs; name, attributes and, if the provider decides on them, roles follow it
any other                      refused: whoever may choose a name at a provider must not become somebody else here
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.accounts import users
from engine.accounts.records import User
from engine.errors import AccountsRefused, IdentityRefused

if TYPE_CHECKING:
    from engine.accounts.database import Database
    from engine.identity.claims import Person
    from engine.identity.settings import Oidc


def check(user: User | None, person: Person) -> None:
    """Raises IdentityRefused if the account of that name is not the person's, or disabled."""
    if user is None:
        return
    if (user.source, user.subject) != (person.provider, person.subject):
        raise IdentityRefused("this user name belongs to somebody else here")
    if user.is_disabled:
        raise IdentityRefused("this user is disabled here")


def enrol(database: Database, settings: Oidc, person: Person) -> User:
    """The account of a person who logs in, made or brought up to date. Raises IdentityRefused, AccountsError."""
    key = users.row_of(users.key_of(person.user))
    with database.write() as txn:
        user = database.users.get(txn, key)
        check(user, person)
        if user is None:
            user = _new(settings, person)
        if settings.decides_roles:
            user = replace(user, roles=tuple(sorted(person.roles)))
        user = replace(
            user, full_name=person.full_name or user.full_name, attributes={**user.attributes, **person.attributes}
        )
        database.users.put(txn, key, user)
    return user


def _new(settings: Oidc, person: Person) -> User:
    try:
        users.check_name(person.user)
    except AccountsRefused as error:
        raise IdentityRefused(f"the provider's user name cannot be used here: {error}") from error
    return User(
        name=person.user,
        roles=tuple(sorted(settings.default_roles)),
        source=person.provider,
        subject=person.subject,
        created=time(),
        created_by=f"oidc:{person.provider}",
    )
