"""/api/oidc/{provider}: log in with an identity provider, and be logged out by it.

    login       ─► the provider's page, with the attempt's secrets in a cookie
    callback    the browser comes back: code ─► ID token ─► account ─► session ─► the page
    logout      the provider itself says that a session there has ended (back-channel log-out); no browser is involved

A log-in that fails ends on the page too, which says why: ?login=PROBLEM.
"""

from __future__ import annotations

import json
from functools import partial
from http import HTTPStatus
from time import time
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote

from aiohttp import web

from engine import audit, log
from engine.accounts import sessions, users
from engine.audit import Event, Outcome
from engine.errors import AccountsError, IdentityRefused, IdentityUnavailable, RequestError, for_log
from engine.identity import enrolment
from engine.identity.attempt import LASTS_S, Attempt
from engine.identity.tokens import LOGOUT_EVENT, Use
from engine.web.authentication import login_cookie_of, set_cookie, set_login_cookie
from engine.web.errors import NotFound
from engine.web.route import API, Parameter, Route

if TYPE_CHECKING:
    from engine.identity.provider import Provider
    from engine.web.request import Request

logger = log.get("web.oidc")

FORM: Final = "application/x-www-form-urlencoded"
ID_TOKEN_LENGTH_MAX: Final = 8192
_IN_PLACES: Final = "/?=&.,:~-_%*!$'()+;@"
"""What may stand in a place as it is; all of it has no meaning behind #."""
_NO_STORE: Final = {"Cache-Control": "no-store"}


async def begin(request: Request) -> web.Response:
    """Sends the browser to the provider. Raises NotFound, IdentityUnavailable."""
    provider = _provider(request)
    if not provider.settings.login:
        raise NotFound("nobody logs in with this provider")
    attempt = Attempt.begin(provider.settings.name, time(), request.query.get("back", "").removeprefix("#"))
    try:
        location = await provider.authorization_url(attempt, _callback_url(request))
    except IdentityUnavailable as error:
        return _failed(request, "unavailable", error, attempt.place)
    response = _to(location)
    set_login_cookie(request, response, attempt.to_text(), LASTS_S)
    return response


async def come_back(request: Request) -> web.Response:
    """Begins a session for the browser that comes back from the provider."""
    provider = _provider(request)
    accounts = request.engine.accounts
    parameters = {name: value for name, value in request.query.items() if len(request.query.getall(name)) == 1}
    place = ""
    try:
        attempt = Attempt.from_text(login_cookie_of(request))
        place = attempt.place
        person, id_token = await provider.person_for(attempt, _callback_url(request), parameters)
        user = await accounts.run(partial(enrolment.enrol, accounts.database, provider.settings, person))
        token = await accounts.begin_session(
            user,
            "oidc",
            address=request.origin.client,
            agent=request.headers.get("User-Agent", ""),
            provider=person.provider,
            provider_session=person.provider_session,
            id_token=id_token if len(id_token) <= ID_TOKEN_LENGTH_MAX else "",
        )
    except IdentityRefused as error:
        return _failed(request, "refused", error, place)
    except (IdentityUnavailable, AccountsError) as error:
        return _failed(request, "unavailable", error, place)
    if (proof := accounts.directory.proof(token)) is not None:
        audit.write(Event(kind=audit.Kind.LOGIN, principal=proof.principal(request.origin.client), action="oidc"))
    response = _to(_page(request, attempt.place))
    set_login_cookie(request, response, "", 0)
    set_cookie(request, response, token)
    return response


async def end(request: Request) -> web.Response:
    """Ends the sessions that a log-out token names (OpenID Connect Back-Channel Logout 2.5)."""
    provider = _provider(request)
    form = dict(parse_qsl((await request.body()).decode("latin-1"), max_num_fields=20))
    try:
        claims = await provider.claims_of(form.get("logout_token", ""), Use.LOGOUT)
    except IdentityRefused as error:
        raise RequestError(str(error)) from error
    events, session, subject = claims.get("events"), claims.get("sid"), claims.get("sub")
    if not isinstance(events, dict) or LOGOUT_EVENT not in events or "nonce" in claims:
        raise RequestError("this is no log-out token")
    accounts, name = request.engine.accounts, provider.settings.name
    if isinstance(session, str) and session:
        count = await accounts.run(partial(sessions.revoke_provider, accounts.database, name, session))
    elif isinstance(subject, str):
        count = await accounts.run(partial(_end_all_of, request, name, subject))
    else:
        raise RequestError("the log-out token names neither a session nor a subject")
    logger.info("logged out by the provider", provider=name, sessions=count)
    audit.write(Event(kind=audit.Kind.LOGOUT, principal=request.principal, detail=f"{count} sessions, by {name}"))
    return web.Response(body=json.dumps({"ended": count}).encode(), content_type="application/json", headers=_NO_STORE)


async def logout_url(request: Request, provider_name: str, id_token: str) -> str:
    """Where the browser goes to log out at the provider of a session too; "": nowhere."""
    provider = request.engine.identities.provider(provider_name) if provider_name else None
    return "" if provider is None else await provider.logout_url(id_token, f"{request.root}/")


def _provider(request: Request) -> Provider:
    provider = request.engine.identities.provider(request.path_values["provider"])
    if provider is None:
        raise NotFound("there is no such identity provider")
    return provider


def _end_all_of(request: Request, provider: str, subject: str) -> int:
    database = request.engine.accounts.database
    names = [user.name for user in users.listed(database) if (user.source, user.subject) == (provider, subject)]
    return sum(sessions.revoke_all(database, name) for name in names)


def _callback_url(request: Request) -> str:
    return f"{request.root}{API}/oidc/{request.path_values['provider']}/callback"


def _page(request: Request, place: str, query: str = "") -> str:
    """An address of the page. A place comes from a cookie: it stays behind #, where it leads nowhere else."""
    hash_ = f"#{quote(place, safe=_IN_PLACES)}" if place else ""
    return f"{request.root}/{query}{hash_}"


def _failed(request: Request, problem: str, error: Exception, place: str = "") -> web.Response:
    request.engine.metrics.counters["http_logins_refused"] += 1
    provider, client = request.path_values["provider"], request.origin.client
    logger.about(client).warning("log-in refused", provider=provider, peer=client, reason=for_log(error))
    event = Event(kind=audit.Kind.LOGIN, principal=request.principal, outcome=Outcome.MINOR, detail=str(error))
    audit.write(event)
    response = _to(_page(request, place, f"?login={problem}"))
    set_login_cookie(request, response, "", 0)
    return response


def _to(location: str) -> web.Response:
    return web.Response(status=HTTPStatus.SEE_OTHER, headers={**_NO_STORE, "Location": location})


_PROVIDER: Final = Parameter("provider", "Name of an [[oidc]] table", "path", is_required=True)

ROUTES: Final = (
    Route(
        "GET", API + "/oidc/{provider}/login", begin, "Log in with an identity provider", None,
        (_PROVIDER, Parameter("back", "Where on the page to go on")), statuses=(303,), errors=(404,), tag="accounts",
    ),
    Route(
        "GET", API + "/oidc/{provider}/callback", come_back, "The way back from an identity provider", None,
        (_PROVIDER, Parameter("code", "The code"), Parameter("state", "The attempt")), statuses=(303,), errors=(404,),
        tag="accounts",
    ),
    Route(
        "POST", API + "/oidc/{provider}/logout", end, "An identity provider ends sessions", None, (_PROVIDER,),
        consumes=(FORM,), errors=(404, 503), tag="accounts",
    ),
)  # fmt: skip
