"""/api/session: who is logged in, log in, log out.

GET       needs no login; without `may` nobody is logged in, and the page asks for it
POST      user and password; sets the cookie
DELETE    ends the session, and has the browser forget it; `logout_url`: where it logs out at the identity provider too
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final

from msgspec import Meta, Struct

from engine.access import Action
from engine.accounts import sessions
from engine.errors import LoginFailed, LoginLater
from engine.web.api.json_bodies import answer, body_of, check_parameters
from engine.web.api.oidc import logout_url
from engine.web.authentication import LoginNeeded, check_cause, clear_cookie, principal_of, set_cookie
from engine.web.errors import HttpError

if TYPE_CHECKING:
    from aiohttp import web

    from engine.accounts.directory import Proof
    from engine.accounts.records import User
    from engine.web.request import Request

METHODS: Final = ("password",)


class Login(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A name and what proves it."""

    user: Annotated[str, Meta(max_length=200)]
    password: Annotated[str, Meta(max_length=4096)]
    code: Annotated[str, Meta(max_length=64)] = ""
    """Of a second factor."""


async def show(request: Request) -> web.Response:
    """Who is logged in, and how one does."""
    check_parameters(request)
    try:
        await request.authentication.identify(request)
    except LoginNeeded:
        return answer({"user": None, **_ways(request)})
    return answer(facts_of(request, request.authentication.proof_of(request)))


async def log_in(request: Request) -> web.Response:
    """Begins a session."""
    check_parameters(request)
    body = await body_of(request, Login)
    accounts = request.engine.accounts
    try:
        user = await accounts.log_in(body.user, body.password)
    except LoginFailed as error:
        raise LoginNeeded(str(error)) from None
    except LoginLater as error:
        raise HttpError(
            HTTPStatus.TOO_MANY_REQUESTS, str(error), {"Retry-After": str(math.ceil(error.retry_s))}
        ) from None
    return await begin(request, user, "password")


async def begin(request: Request, user: User, method: str) -> web.Response:
    """The answer to a successful log-in: a session, and who it is."""
    accounts = request.engine.accounts
    token = await accounts.begin_session(
        user, method, address=request.origin.client, agent=request.headers.get("User-Agent", "")
    )
    proof = accounts.directory.session(token)
    if proof is None:
        raise LoginNeeded("the user was disabled meanwhile")
    request.principal = principal_of(request, proof)
    response = answer(facts_of(request, proof))
    set_cookie(request, response, token)
    return response


async def log_out(request: Request) -> web.Response:
    """Ends the session of the cookie, if there is one."""
    check_parameters(request)
    proof = request.authentication.proof_of(request)
    if proof is not None:
        check_cause(request)
        accounts = request.engine.accounts
        await accounts.run(lambda: sessions.end(accounts.database, proof.digest))
    elsewhere = "" if proof is None else await logout_url(request, proof.session.provider, proof.session.id_token)
    response = answer({"user": None, "logout_url": elsewhere or None})
    clear_cookie(request, response)
    return response


def facts_of(request: Request, proof: Proof | None) -> dict[str, Any]:
    """The user of a request, and what may be done."""
    principal, engine = request.principal, request.engine
    return {
        "user": principal.name or None,
        "full_name": "" if proof is None else proof.user.full_name,
        "roles": sorted(engine.accounts.directory.roles_of(principal)),
        "may": [action.title for action in Action if engine.access.allowed(principal, action)],
        "must_change_password": proof is not None and proof.user.must_change_password,
        "until": None if proof is None else proof.session.until,
        **_ways(request),
    }


def _ways(request: Request) -> dict[str, Any]:
    providers = [{"name": name, "label": label} for name, label in request.engine.identities.offered]
    methods = [*METHODS, *(["oidc"] if providers else [])]
    return {"login": request.config.http.login, "methods": methods, "providers": providers}
