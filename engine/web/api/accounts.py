"""/api/users and /api/roles: the users of the archive, for administrators."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from engine.access.roles import roles_of
from engine.accounts import links, sessions, users
from engine.accounts.records import User
from engine.errors import AccountsRefused
from engine.web.api.account import record, session_rows, user_facts
from engine.web.api.bodies import ReasonBody
from engine.web.api.json_bodies import answer, body_of, check_parameters, page, page_of
from engine.web.api.session import Password
from engine.web.errors import NotFound

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request

Text = Annotated[str, Meta(max_length=200)]
Roles = Annotated[tuple[Text, ...], Meta(max_length=50)]
Attributes = Annotated[dict[Text, Annotated[tuple[Text, ...], Meta(max_length=100)]], Meta(max_length=20)]
Certificates = Annotated[
    tuple[Annotated[str, Meta(pattern=r"^(sha256|san|cn):.+$", max_length=300)], ...], Meta(max_length=20)
]


class NewUser(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A user to add; without a password, send the link that the answer has."""

    name: Text
    full_name: Text = ""
    roles: Roles = ()
    attributes: Attributes = {}
    certificates: Certificates = ()
    password: Password = ""
    """To be changed at the first log-in."""


class ChangedUser(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What shall be different."""

    full_name: Text | UnsetType = UNSET
    roles: Roles | UnsetType = UNSET
    attributes: Attributes | UnsetType = UNSET
    certificates: Certificates | UnsetType = UNSET
    is_disabled: bool | UnsetType = UNSET
    must_change_password: bool | UnsetType = UNSET
    has_totp: bool | UnsetType = UNSET
    """false: the second factor of somebody who has lost the device is switched off."""


async def listed(request: Request) -> web.Response:
    """All users."""
    check_parameters(request, ("limit", "offset"))
    accounts = request.engine.accounts
    rows = await accounts.run(partial(users.listed, accounts.database))
    return answer(page("users", map(user_facts, rows), *page_of(request)))


async def add(request: Request) -> web.Response:
    """Adds a user."""
    check_parameters(request)
    body = await body_of(request, NewUser)
    accounts = request.engine.accounts
    _check_roles(request, body.roles)
    hashed = await accounts.password_hash(body.password, body.name) if body.password else ""
    user = User(
        name=body.name,
        full_name=body.full_name,
        roles=body.roles,
        attributes=body.attributes,
        certificates=body.certificates,
        password=hashed,
        must_change_password=bool(hashed),
        created_by=request.principal.actor,
    )
    user = await accounts.run(partial(users.add, accounts.database, user))
    record(request, user.name, f"added with roles {', '.join(user.roles) or 'none'}")
    return answer({**user_facts(user), "link": "" if hashed else await _link(request, user.name)}, 201)


async def one(request: Request) -> web.Response:
    """One user, with sessions."""
    check_parameters(request)
    accounts, name = request.engine.accounts, request.path_values["name"]
    user = await accounts.run(partial(users.get, accounts.database, name))
    rows = await accounts.run(partial(sessions.listed, accounts.database, name))
    own = request.authentication.proof_of(request)
    return answer({**user_facts(user), "sessions": session_rows(rows, own)})


async def change(request: Request) -> web.Response:
    """Changes a user."""
    check_parameters(request)
    body = await body_of(request, ChangedUser)
    accounts, name = request.engine.accounts, request.path_values["name"]
    fields: dict[str, Any] = {
        field: getattr(body, field) for field in body.__struct_fields__ if getattr(body, field) is not UNSET
    }
    _check_roles(request, fields.get("roles", ()))
    what = ", ".join(f"{field} = {msgspec.json.encode(value).decode()}" for field, value in fields.items())
    if "has_totp" in fields:
        if fields.pop("has_totp"):
            raise AccountsRefused("a second factor is switched on by its user only")
        fields |= {"totp_secret": "", "totp_used": 0, "recovery_codes": ()}
    user = await accounts.run(partial(users.change, accounts.database, name, **fields))
    record(request, user.name, what)
    return answer(user_facts(user))


async def remove(request: Request) -> web.Response:
    """Removes a user."""
    check_parameters(request)
    accounts, name = request.engine.accounts, request.path_values["name"]
    await accounts.run(partial(users.remove, accounts.database, name))
    record(request, name, "removed")
    return answer({"removed": name})


async def link(request: Request) -> web.Response:
    """A link with which the user chooses a password."""
    await body_of(request, ReasonBody)
    name = request.path_values["name"]
    made = await _link(request, name)
    record(request, name, "a link for a new password was made")
    return answer({"link": made}, 201)


async def sessions_end(request: Request) -> web.Response:
    """Ends all sessions of a user."""
    check_parameters(request)
    accounts, name = request.engine.accounts, request.path_values["name"]
    ended = await accounts.run(partial(sessions.revoke_all, accounts.database, name))
    record(request, name, f"{ended} sessions ended")
    return answer({"ended": ended})


async def session_end(request: Request) -> web.Response:
    """Ends one session of a user."""
    check_parameters(request)
    accounts, name, identifier = request.engine.accounts, request.path_values["name"], request.path_values["id"]
    if not await accounts.run(partial(sessions.revoke, accounts.database, identifier, name)):
        raise NotFound("there is no such session")
    record(request, name, "a session ended")
    return answer({"ended": identifier})


async def roles(request: Request) -> web.Response:
    """The roles in force."""
    check_parameters(request)
    known = roles_of(request.config.roles)
    rows = [
        {"name": name, "may": role.settings.may, "studies": msgspec.to_builtins(role.settings.studies)}
        for name, role in sorted(known.items())
    ]
    return answer({"roles": rows})


async def _link(request: Request, name: str) -> str:
    accounts = request.engine.accounts
    token = await accounts.run(partial(links.make, accounts.database, user=name, by=request.principal.actor))
    return f"{request.root}/#/welcome/{token}"


def _check_roles(request: Request, names: tuple[str, ...]) -> None:
    known = roles_of(request.config.roles)
    for name in names:
        if name not in known:
            raise AccountsRefused(f"there is no role {name[:64]!r}; there are {', '.join(sorted(known))}")
