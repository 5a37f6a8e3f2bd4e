"""/api/account: one's own account: password, second factor, passkeys, sessions.

What makes an account easier or harder to enter needs the password once more: an unattended page must not be enough.
An API key may change nothing here: whoever steals one must not be able to stay.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from time import time
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from engine import audit
from engine.accounts import passkeys, second_factor, sessions, users
from engine.audit import Alert, Event
from engine.errors import AccountsRefused, LoginFailed, LoginLater, SecondFactorNeeded
from engine.web.api.json_bodies import answer, body_of, check_parameters
from engine.web.api.moments import text_of
from engine.web.api.session import Password, refused, relying_party
from engine.web.authentication import LoginNeeded
from engine.web.errors import HttpError, NotFound

if TYPE_CHECKING:
    from aiohttp import web

    from engine.accounts.proof import Proof
    from engine.accounts.records import Session, User
    from engine.web.request import Request

Code = Annotated[str, Meta(max_length=64)]


class NewPassword(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The old password and the new one."""

    old: Password = ""
    new: Password
    code: Code = ""


class NewTotp(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Begin: nothing. Finish: the secret, a code that the authenticator shows, and the password."""

    secret: Annotated[str, Meta(pattern=r"^[A-Z2-7]{0,64}$")] = ""
    code: Code = ""
    password: Password = ""


class Confirmed(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The password, once more."""

    password: Password = ""
    code: Code = ""


class NewPasskey(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the browser has made of the options."""

    ticket: Annotated[str, Meta(max_length=1000)]
    credential: dict[str, Any]
    name: Annotated[str, Meta(max_length=200)] = ""


def own_session(request: Request) -> tuple[Proof, User]:
    """The session of a user who asks for it. Raises LoginNeeded, HttpError."""
    proof = request.authentication.proof_of(request)
    if proof is None:
        raise LoginNeeded("log in first")
    if proof.session is None or proof.user is None:
        raise HttpError(HTTPStatus.FORBIDDEN, "only a user who has logged in may do that")
    return proof, proof.user


async def show(request: Request) -> web.Response:
    """The user of the session."""
    check_parameters(request)
    proof, user = own_session(request)
    accounts = request.engine.accounts
    rows = await accounts.run(partial(sessions.listed, accounts.database, user.name))
    return answer(
        {
            **user_facts(user),
            "passkeys": [
                {"id": passkeys.id_of(each), "name": each.name, "created": text_of(each.created)}
                for each in user.passkeys
            ],
            "recovery_codes": len(user.recovery_codes),
            "sessions": session_rows(rows, proof),
        }
    )


async def password(request: Request) -> web.Response:
    """Sets a new password; ends the other sessions."""
    check_parameters(request)
    body = await body_of(request, NewPassword)
    proof, user = own_session(request)
    await confirm(request, user, body.old, body.code)
    accounts = request.engine.accounts
    if body.new == body.old:
        raise AccountsRefused("the new password is the old one")
    hashed = await accounts.password_hash(body.new, user.name)
    await accounts.run(partial(users.set_password, accounts.database, user.name, hashed, kept_session=proof.digest))
    record(request, user.name, "password changed")
    return answer({"changed": True})


async def totp(request: Request) -> web.Response:
    """Without a code: a new secret, which does nothing yet. With it: codes are needed from now on."""
    check_parameters(request)
    body = await body_of(request, NewTotp)
    _, user = own_session(request)
    if not body.code:
        secret = second_factor.new_secret()
        return answer({"secret": secret, "uri": second_factor.address_of(secret, user.name, "Filmroom")})
    step = second_factor.step_of(body.secret, body.code, 0, time()) if len(body.secret) >= 26 else None
    if step is None:
        raise AccountsRefused("this is not the code that belongs to the secret: is the clock of the device right?")
    await confirm(request, user, body.password, "")
    codes = second_factor.new_recovery_codes()
    digests = tuple(map(second_factor.recovery_digest, codes))
    await _change(request, user, totp_secret=body.secret, totp_used=step, recovery_codes=digests)
    record(request, user.name, "second factor switched on")
    return answer({"recovery_codes": codes})


async def totp_off(request: Request) -> web.Response:
    """Codes are not needed any more."""
    check_parameters(request)
    body = await body_of(request, Confirmed)
    _, user = own_session(request)
    await confirm(request, user, body.password, body.code)
    await _change(request, user, totp_secret="", totp_used=0, recovery_codes=())
    record(request, user.name, "second factor switched off")
    return answer({"changed": True})


async def passkey_options(request: Request) -> web.Response:
    """What the browser needs to make a passkey."""
    check_parameters(request)
    _, user = own_session(request)
    options, ticket = passkeys.creation_options(request.engine.accounts.database, user, request.origin.host)
    return answer({"options": options, "ticket": ticket})


async def passkey(request: Request) -> web.Response:
    """Adds the passkey that the browser has made."""
    check_parameters(request)
    body = await body_of(request, NewPasskey)
    _, user = own_session(request)
    accounts, (host, origin) = request.engine.accounts, relying_party(request)
    work = partial(
        passkeys.add, accounts.database, user, body.credential, body.ticket, body.name, host=host, origin=origin
    )
    made = await accounts.run(work)
    record(request, user.name, "passkey added")
    return answer({"id": passkeys.id_of(made), "name": made.name}, 201)


async def passkey_remove(request: Request) -> web.Response:
    """Removes a passkey."""
    check_parameters(request)
    _, user = own_session(request)
    accounts, identifier = request.engine.accounts, request.path_values["id"]
    if not await accounts.run(partial(passkeys.remove, accounts.database, user.name, identifier)):
        raise NotFound("there is no such passkey")
    record(request, user.name, "passkey removed")
    return answer({"removed": identifier})


async def session_end(request: Request) -> web.Response:
    """Ends another session of one's own."""
    check_parameters(request)
    _, user = own_session(request)
    accounts, identifier = request.engine.accounts, request.path_values["id"]
    if not await accounts.run(partial(sessions.revoke, accounts.database, identifier, user.name)):
        raise NotFound("there is no such session")
    return answer({"ended": identifier})


async def confirm(request: Request, user: User, password: str, code: str) -> None:
    """Raises HttpError unless the password is the user's; a user without one is who the session says."""
    if not user.password:
        return
    try:
        await request.engine.accounts.log_in(user.name, password, code=code, address=request.origin.client)
    except SecondFactorNeeded:
        return  # the session has shown one already
    except LoginFailed:
        raise HttpError(HTTPStatus.FORBIDDEN, "this is not your password", facts={"needs_password": True}) from None
    except LoginLater as error:
        raise refused(request, error, user.name) from None


def record(request: Request, name: str, what: str) -> None:
    """Writes a change of an account to the audit log."""
    event = Event(
        kind=audit.Kind.ALERT, alert=Alert.USER, principal=request.principal, action=what, detail=f"user {name}: {what}"
    )
    audit.write(event)


def user_facts(user: User) -> dict[str, Any]:
    """A user without secrets."""
    return {
        "name": user.name,
        "full_name": user.full_name,
        "roles": user.roles,
        "attributes": user.attributes,
        "certificates": user.certificates,
        "source": user.source,
        "is_disabled": user.is_disabled,
        "must_change_password": user.must_change_password,
        "has_password": bool(user.password),
        "has_totp": bool(user.totp_secret),
        "passkeys_count": len(user.passkeys),
        "created": text_of(user.created),
        "created_by": user.created_by,
        "password_set": text_of(user.password_set),
    }


def session_rows(rows: list[tuple[str, Session]], own: Proof | None) -> list[dict[str, Any]]:
    """Sessions without secrets, the last used one first."""
    return [
        {
            "id": identifier,
            "is_own": own is not None and own.identifier.endswith(identifier),
            "method": session.method,
            "address": session.address,
            "agent": session.agent,
            "created": text_of(session.created),
            "used": text_of(session.used),
            "until": text_of(session.until),
        }
        for identifier, session in sorted(rows, key=lambda row: -row[1].used)
    ]


async def _change(request: Request, user: User, **fields: object) -> None:
    accounts = request.engine.accounts
    await accounts.run(partial(users.change, accounts.database, user.name, **fields))
