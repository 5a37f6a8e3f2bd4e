"""/api/session: who is logged in, log in, log out; /api/welcome and /api/share-session: come in by a link.

    GET       needs no login; without `may` nobody is logged in, and the page asks for it
    POST      a user with password and code, or a passkey; sets the cookie
    DELETE    ends the session, and has the browser forget it; `logout_url`: where it logs out at the identity
              provider too

A refused log-in is 401; `needs_code`: only the code of the second factor is missing; `needs_password`: that of a share.
"""

from __future__ import annotations

import math
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final

from msgspec import Meta, Struct

from engine import audit, log
from engine.access import Action, Kind, Principal
from engine.accounts import links, passkeys, sessions
from engine.audit import Event, Outcome
from engine.errors import LoginFailed, LoginLater, SecondFactorNeeded, for_log
from engine.web.api.json_bodies import answer, body_of, check_parameters
from engine.web.api.moments import text_of
from engine.web.api.oidc import logout_url
from engine.web.authentication import LoginNeeded, check_cause, clear_cookies, set_cookie
from engine.web.errors import HttpError
from engine.web.route import API

if TYPE_CHECKING:
    from aiohttp import web

    from engine.accounts.proof import Proof
    from engine.accounts.records import User
    from engine.web.request import Request

logger = log.get("web.session")

METHODS: Final = ("password", "passkey")

Password = Annotated[str, Meta(max_length=4096)]
Token = Annotated[str, Meta(max_length=128)]


class Login(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A name and what proves it."""

    user: Annotated[str, Meta(max_length=200)]
    password: Password
    code: Annotated[str, Meta(max_length=64)] = ""
    """Of a second factor, or for its recovery."""


class PasskeyLogin(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the browser has made of the options."""

    ticket: Annotated[str, Meta(max_length=1000)]
    credential: dict[str, Any]
    """A PublicKeyCredential, with base64url for bytes."""


class Welcome(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The token of a link, and the new password."""

    token: Token
    password: Password = ""
    """"": only show whom the link is for."""
    user: Annotated[str, Meta(max_length=200)] = ""
    """The name of a new user, if the link is for nobody yet."""


class ShareLogin(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The token of a share's link, and the password if it has one."""

    token: Token
    password: Password = ""


async def show(request: Request) -> web.Response:
    """Who is logged in, and how one does."""
    check_parameters(request)
    try:
        await request.authentication.identify(request)
    except LoginNeeded:
        return answer({"user": None, **_ways(request)})
    return answer(facts_of(request, request.authentication.proof_of(request)))


async def log_in(request: Request) -> web.Response:
    """Begins a session with a password."""
    check_parameters(request)
    body = await body_of(request, Login)
    try:
        user = await request.engine.accounts.log_in(
            body.user, body.password, code=body.code, address=request.origin.client
        )
    except (LoginFailed, LoginLater) as error:
        raise refused(request, error, body.user) from None
    return await begin(request, user, "password+code" if user.has_second_factor else "password")


async def passkey_options(request: Request) -> web.Response:
    """What the browser needs to use a passkey."""
    check_parameters(request)
    options, ticket = passkeys.request_options(request.engine.accounts.database, request.origin.host)
    return answer({"options": options, "ticket": ticket})


async def passkey(request: Request) -> web.Response:
    """Begins a session with a passkey."""
    check_parameters(request)
    body = await body_of(request, PasskeyLogin)
    accounts, (host, origin) = request.engine.accounts, relying_party(request)
    work = partial(passkeys.log_in, accounts.database, body.credential, body.ticket, host=host, origin=origin)
    try:
        user = await accounts.by_secret(work, address=request.origin.client)
    except (LoginFailed, LoginLater) as error:
        raise refused(request, error, "") from None
    return await begin(request, user, "passkey")


async def welcome(request: Request) -> web.Response:
    """Shows whom a link is for; with a password, makes the user or sets the password, and begins a session."""
    check_parameters(request)
    body = await body_of(request, Welcome)
    accounts = request.engine.accounts
    try:
        link = await accounts.by_secret(
            partial(links.show, accounts.database, body.token), address=request.origin.client
        )
    except LoginLater as error:
        raise refused(request, error, "") from None
    if not body.password:
        return answer({"user": link.user or None})
    hashed = await accounts.password_hash(body.password, link.user or body.user)
    user = await accounts.run(partial(links.follow, accounts.database, body.token, body.user, hashed))
    if user.has_second_factor:
        return answer({"user": None, **_ways(request)})  # the link stands for the password only
    return await begin(request, user, "link")


async def open_share(request: Request) -> web.Response:
    """Begins a visitor's session with the rights of a share."""
    check_parameters(request)
    body = await body_of(request, ShareLogin)
    accounts = request.engine.accounts
    agent = request.headers.get("User-Agent", "")
    try:
        token = await accounts.open_share(body.token, body.password, address=request.origin.client, agent=agent)
    except LoginFailed as error:
        raise LoginNeeded(str(error), {"needs_password": True}) from None
    except LoginLater as error:
        raise refused(request, error, "") from None
    proof = accounts.directory.proof(token)
    if proof is None:
        raise LoginNeeded("the link has ended meanwhile")
    return _begun(request, proof, token)


async def begin(request: Request, user: User, method: str) -> web.Response:
    """The answer to a successful log-in: a session, and who it is."""
    accounts = request.engine.accounts
    agent = request.headers.get("User-Agent", "")
    token = await accounts.begin_session(user, method, address=request.origin.client, agent=agent)
    proof = accounts.directory.proof(token)
    if proof is None:
        raise LoginNeeded("the user was disabled meanwhile")
    return _begun(request, proof, token)


async def log_out(request: Request) -> web.Response:
    """Ends the session of the cookie, if there is one."""
    check_parameters(request)
    proof = request.authentication.proof_of(request)
    elsewhere = ""
    if proof is not None and proof.session is not None:
        check_cause(request)
        accounts = request.engine.accounts
        await accounts.run(partial(sessions.end, accounts.database, proof.digest))
        audit.write(Event(kind=audit.Kind.LOGOUT, principal=proof.principal(request.origin.client)))
        elsewhere = await logout_url(request, proof.session.provider, proof.session.id_token)
    response = answer({"user": None, "logout_url": elsewhere or None})
    clear_cookies(request, response)
    return response


def facts_of(request: Request, proof: Proof | None) -> dict[str, Any]:
    """The user of a request, and what may be done."""
    principal, engine = request.principal, request.engine
    user, share = (None, None) if proof is None else (proof.user, proof.share)
    facts = {
        "user": principal.name or None,
        "full_name": "" if user is None else user.full_name,
        "roles": sorted(engine.accounts.directory.roles_of(principal)),
        "may": [action.title for action in Action if engine.access.allowed(principal, action)],
        "must_change_password": user is not None and user.must_change_password,
        "until": None if proof is None else text_of(proof.until),
        **_ways(request),
    }
    if share is not None:
        facts["share"] = {
            "id": principal.share,
            "studies": share.studies,
            "series": [{"study": study, "series": series} for study, series in share.series],
            "patient": None if share.patient is None else {"id": share.patient[0], "issuer": share.patient[1]},
            "until": text_of(share.until),
            "may_download": share.may_download,
            "recipient": share.recipient,
            "by": share.by,
        }
    return facts


def refused(request: Request, error: LoginFailed | LoginLater, name: str) -> HttpError:
    """The answer to a refused log-in, which is recorded."""
    if isinstance(error, SecondFactorNeeded):
        return LoginNeeded(str(error), {"needs_code": True})
    request.engine.metrics.counters["http_logins_refused"] += 1
    logger.about(request.origin.client).warning("log-in refused", peer=request.origin.client, reason=for_log(error))
    principal = Principal(Kind.HTTP, name[:128], request.origin.client)
    audit.write(Event(kind=audit.Kind.LOGIN, principal=principal, outcome=Outcome.MINOR, detail=str(error)))
    if isinstance(error, LoginLater):
        retry_s = math.ceil(error.retry_s)
        return HttpError(HTTPStatus.TOO_MANY_REQUESTS, str(error), {"Retry-After": str(retry_s)}, {"retry": retry_s})
    return LoginNeeded(str(error))


def relying_party(request: Request) -> tuple[str, str]:
    """The host name and the origin for which passkeys are made."""
    scheme, _, rest = request.root.partition("://")
    return request.origin.host, f"{scheme}://{rest.partition('/')[0]}"


def _begun(request: Request, proof: Proof, token: str) -> web.Response:
    request.principal = proof.principal(request.origin.client)
    method = "" if proof.session is None else proof.session.method
    audit.write(Event(kind=audit.Kind.LOGIN, principal=request.principal, action=method))
    response = answer(facts_of(request, proof))
    set_cookie(request, response, token, is_share=proof.share is not None)
    return response


def _ways(request: Request) -> dict[str, Any]:
    offered = request.engine.identities.offered
    providers = [{"name": label, "path": f"{API[1:]}/oidc/{name}/login"} for name, label in offered]
    methods = [*METHODS, *(["oidc"] if providers else [])]
    return {"login": request.config.http.login, "methods": methods, "providers": providers}
