"""/api/keys: API keys, with which programs act for a user. The key itself is shown once, when it is made."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from time import time
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from engine.access import Action
from engine.access.roles import BY_NAME
from engine.accounts import keys, users
from engine.accounts.records import Key
from engine.errors import AccountsRefused, NotAllowed
from engine.web.api.account import own_session, record
from engine.web.api.accounts import Roles, Text
from engine.web.api.json_bodies import answer, body_of, check_parameters
from engine.web.api.moments import seconds_of, text_of
from engine.web.errors import NotFound

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


class NewKey(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key to make."""

    name: Text
    """What it is for."""
    until: datetime
    user: Text = ""
    """For an administrator: the user for whom it acts. "": oneself."""
    roles: Roles = ()
    """Only these of the user's roles; none: all."""
    actions: Annotated[tuple[Text, ...], Meta(max_length=50)] = ()
    """Only these actions; none: all that the roles allow."""


async def listed(request: Request) -> web.Response:
    """One's own keys; an administrator's: those of all."""
    check_parameters(request)
    _, user = own_session(request)
    accounts = request.engine.accounts
    whose = None if request.allowed(Action.ADMINISTER) else user.name
    rows = await accounts.run(partial(keys.listed, accounts.database, whose))
    return answer({"keys": [_facts(identifier, key) for identifier, key in rows]})


async def add(request: Request) -> web.Response:
    """Makes a key."""
    check_parameters(request)
    body = await body_of(request, NewKey)
    _, user = own_session(request)
    if user.must_change_password:
        raise NotAllowed("change your password first")
    name = body.user or user.name
    if users.key_of(name) != users.key_of(user.name):
        request.require(Action.ADMINISTER)
    if unknown := sorted(set(body.actions) - set(BY_NAME)):
        raise AccountsRefused(f"there is no action {unknown[0][:64]!r}; there are {', '.join(sorted(BY_NAME))}")
    key = Key(
        user=users.key_of(name),
        name=body.name,
        until=seconds_of(body.until),
        created=time(),
        created_by=request.principal.actor,
        roles=body.roles,
        actions=body.actions,
    )
    accounts = request.engine.accounts
    identifier, token = await accounts.run(partial(keys.add, accounts.database, key, name))
    record(request, name, f"API key {identifier} made")
    return answer({**_facts(identifier, key), "key": token}, 201)


async def revoke(request: Request) -> web.Response:
    """Ends a key at once."""
    check_parameters(request)
    _, user = own_session(request)
    accounts, identifier = request.engine.accounts, request.path_values["id"]
    whose = None if request.allowed(Action.ADMINISTER) else user.name
    if not await accounts.run(partial(keys.revoke, accounts.database, identifier, whose)):
        raise NotFound("there is no such key")
    record(request, user.name, f"API key {identifier} revoked")
    return answer({"revoked": identifier})


def _facts(identifier: str, key: Key) -> dict[str, Any]:
    return {
        "id": identifier,
        "user": key.user,
        "name": key.name,
        "roles": key.roles,
        "actions": key.actions,
        "until": text_of(key.until),
        "created": text_of(key.created),
        "created_by": key.created_by,
    }
