"""Who sends a request: one `Principal` for each, or 401.

    Authorization: Bearer      an API key or a token of an identity provider
    cookie                     a session of a user (`accounts.sessions`)
    the share's cookie         a visitor with a share, whose link was opened in this browser
    a client certificate       the user for whom it stands
    none                       an unknown client: while no login is needed, its address decides

A credential that is not valid is answered with 401 even where none is needed: a client must not believe that it acts
under its name when it does not. Routes without an action, as the page's files and the health of the server, ask for
none. What a principal may do is asked again at each request (`engine.access`), so that a revoked session is of no use
at once.

A cookie is sent by the browser whichever page caused the request. A request that changes something therefore needs a
sign that a page of ours caused it: Sec-Fetch-Site, which pages cannot set, or our own Origin. So does one with a client
certificate, unless it has no sign of a browser at all: programs use certificates too.

    __Host-filmroom[-share]    over HTTPS: Secure, HttpOnly, SameSite=Lax (Strict would lose it on the way back from an
                               identity provider)
    filmroom[-share]           over plain HTTP, which browsers allow no Secure cookie on
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from engine.access import Kind, Principal
from engine.access.networks import is_in_any
from engine.accounts import keys, tokens
from engine.accounts.directory import CERTIFICATE
from engine.errors import IdentityRefused, NotAllowed
from engine.identity.holder import holder_of
from engine.identity.providers import looks_signed
from engine.web import cors
from engine.web.errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from engine.accounts.accounts import Accounts
    from engine.accounts.proof import Proof
    from engine.identity.claims import Person
    from engine.runtime.engine import Engine
    from engine.web.request import Request

SECURE_PREFIX: Final = "__Host-"
COOKIE: Final = "filmroom"
SHARE_COOKIE: Final = "filmroom-share"
LOGIN_COOKIE: Final = "filmroom-login"
"""While a log-in with an identity provider is under way."""

_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="filmroom"'}


class LoginNeeded(HttpError):
    """The request has no valid credential."""

    def __init__(self, detail: str, facts: Mapping[str, object] | None = None) -> None:
        super().__init__(HTTPStatus.UNAUTHORIZED, detail, _CHALLENGE, facts)


class Authentication:
    """For the requests of one process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def _accounts(self) -> Accounts:
        return self._engine.accounts

    async def identify(self, request: Request) -> None:
        """Sets the request's principal. Raises LoginNeeded, and HttpError for a request that another page caused."""
        token = bearer_of(request)
        if token is not None and looks_signed(token):
            request.principal = await self._verified(request, token)
        else:
            request.principal = self._known(request)
        if not request.principal.session and self._accounts.is_login_needed:
            raise LoginNeeded("log in first")

    def identify_at_once(self, request: Request) -> Proof | None:
        """Sets the principal of a request that only reads; returns the session that proves it, if it is one.

        Raises EngineError for a request that is refused, or whose credential takes longer: call `identify`.
        """
        request.principal = self._known(request)
        return self.proof_of(request) if request.principal.session else None

    def proof_of(self, request: Request) -> Proof | None:
        """What the request's token or cookie proves, if it is one of ours; None: there is none that is valid."""
        token = bearer_of(request) or cookie_of(request)
        return self._accounts.directory.proof(token) if token else None

    def check_files(self, request: Request) -> None:
        """Raises NotAllowed for a visitor whose share is for viewing only, before whole instances are sent."""
        if not request.principal.share:
            return
        proof = self.proof_of(request)
        if proof is None or proof.share is None or not proof.share.may_download:
            raise NotAllowed("this link is for viewing only")

    def _known(self, request: Request) -> Principal:
        self._check_address(request)
        token = bearer_of(request)
        if token is not None:
            return self._bearer(request, token)
        if not (token := cookie_of(request)):
            return self._by_certificate(request) or request.principal
        proof = self._accounts.directory.proof(token)
        if proof is None or proof.session is None:
            raise LoginNeeded("the session has ended")
        check_cause(request)
        self._accounts.use(proof)
        return proof.principal(request.origin.client)

    def _by_certificate(self, request: Request) -> Principal | None:
        """The user for whom the client certificate stands; None: there is none, or it stands for nobody."""
        names = request.principal.certificate_names
        user = self._accounts.directory.user_of_certificate(names) if names else None
        if user is None or names is None:
            return None
        if user.is_disabled:
            raise LoginNeeded("this user is disabled")
        check_cause(request, is_program_allowed=True)
        fingerprint = next(name for name in names if name.startswith("sha256:"))
        session = CERTIFICATE + fingerprint[len("sha256:") :][: tokens.ID_LENGTH]
        return Principal(Kind.HTTP, user.name, request.origin.client, certificate_names=names, session=session)

    def _bearer(self, request: Request, token: str) -> Principal:
        if (person := self._engine.identities.remembered(token)) is not None:
            return self._principal_of_token(request, token, person)
        proof = self._accounts.directory.proof(token) if token.startswith(keys.PREFIX) else None
        if proof is None:
            raise LoginNeeded("this token is not valid, or has ended")
        return proof.principal(request.origin.client)

    async def _verified(self, request: Request, token: str) -> Principal:
        """Who shows the token of an identity provider."""
        self._check_address(request)
        try:
            person = await self._engine.identities.person_of(token)
        except IdentityRefused as error:
            raise LoginNeeded(str(error)) from None
        return self._principal_of_token(request, token, person)

    def _principal_of_token(self, request: Request, token: str, person: Person) -> Principal:
        try:
            holder = holder_of(token, person, self._accounts.directory)
        except IdentityRefused as error:
            raise LoginNeeded(str(error)) from None
        return Principal(
            Kind.HTTP,
            holder.user,
            request.origin.client,
            roles=holder.roles,
            session=holder.session,
            until_s=holder.until_s,
            attributes=holder.attributes,
        )

    def _check_address(self, request: Request) -> None:
        allowed = self._engine.config.http.allow
        if allowed is not None and not is_in_any(request.origin.client, allowed):
            raise NotAllowed("an address that is not in http.allow")


def bearer_of(request: Request) -> str | None:
    """The bearer token; None: there is no Authorization header. Raises LoginNeeded for another scheme."""
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise LoginNeeded("only bearer tokens are supported")
    return token.strip()


def login_cookie_of(request: Request) -> str:
    """What `set_login_cookie` gave the browser; "": nothing."""
    return request.cookies.get(_cookie_name(request, LOGIN_COOKIE), "") if "Cookie" in request.headers else ""


def set_login_cookie(request: Request, response: web.StreamResponse, text: str, lasts_s: int) -> None:
    """Lets the browser keep the secrets of a log-in until it comes back from the identity provider; 0: no longer."""
    name, is_secure = _cookie_name(request, LOGIN_COOKIE), _is_secure(request)
    response.set_cookie(name, text, path="/", secure=is_secure, httponly=True, samesite="Lax", max_age=lasts_s)


def cookie_of(request: Request) -> str:
    """The token of the session cookie; "": there is none."""
    if "Cookie" not in request.headers:
        return ""
    cookies = request.cookies
    return cookies.get(_cookie_name(request, COOKIE)) or cookies.get(_cookie_name(request, SHARE_COOKIE), "")


def check_cause(request: Request, *, is_program_allowed: bool = False) -> None:
    """Raises HttpError for a request that changes something, unless a page of ours or the user caused it.

    `is_program_allowed`: a request without any sign of a browser is one of a program, which no page can cause.
    """
    if request.method in cors.READING:
        return
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if site is not None:
        is_ours = site in ("same-origin", "none")
    else:
        is_ours = is_program_allowed if origin is None else cors.is_own(request, origin)
    if not is_ours:
        raise HttpError(HTTPStatus.FORBIDDEN, "another page caused this request; it changes nothing")


def set_cookie(request: Request, response: web.StreamResponse, token: str, *, is_share: bool = False) -> None:
    """Gives the browser a session. It ends with the browser, or when the session ends here."""
    name = _cookie_name(request, SHARE_COOKIE if is_share else COOKIE)
    response.set_cookie(name, token, path="/", secure=_is_secure(request), httponly=True, samesite="Lax")


def clear_cookies(request: Request, response: web.StreamResponse) -> None:
    """Takes the sessions from the browser, with all that it keeps of ours."""
    is_secure = _is_secure(request)
    for name in (COOKIE, SHARE_COOKIE):
        response.del_cookie(_cookie_name(request, name), path="/", secure=is_secure, httponly=True, samesite="Lax")
    if is_secure or request.origin.host in ("localhost", "127.0.0.1", "::1"):
        response.headers["Clear-Site-Data"] = '"cache", "cookies", "storage"'


def _is_secure(request: Request) -> bool:
    return request.root.startswith("https://")


def _cookie_name(request: Request, name: str) -> str:
    return f"{SECURE_PREFIX}{name}" if _is_secure(request) else name
