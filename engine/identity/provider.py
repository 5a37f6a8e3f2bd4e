"""One provider: its addresses (discovery), log-ins by code with PKCE, and log-outs (OpenID Connect Core 3.1, RFC 8414).

    browser ─► authorization_url ─► provider ─► browser with code and state ─► person_for: code ─► ID token ─► Person

Of a log-in the claims of the ID token count; those that it lacks may come from userinfo or from the access token of the
same exchange: Keycloak writes roles into access tokens only.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import ssl
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode, urlsplit

from engine.errors import IdentityRefused, IdentityUnavailable
from engine.identity import claims as claim_reader
from engine.identity.claims import Person
from engine.identity.key_set import FAILED_S_MIN, ProviderKeys, keys_of
from engine.identity.tokens import Use, head_of, verified

if TYPE_CHECKING:
    from engine.identity.attempt import Attempt
    from engine.identity.settings import Oidc

DISCOVERY: Final = "/.well-known/openid-configuration"
DISCOVERY_S: Final = 3600.0
ANSWER_BYTES_MAX: Final = 1 << 20
CODE_LENGTH_MAX: Final = 4096
REQUESTS_MAX: Final = 8
"""Requests to one provider at a time."""
SECRET_BYTES_MAX: Final = 4096
_FOR_CLIENTS: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")

_ERROR: Final = re.compile(r"[a-z_]{1,64}")


class Provider:
    """Used on the loop's thread."""

    def __init__(self, settings: Oidc, now_s: Callable[[], float] = time) -> None:
        self.settings = settings
        self._now_s = now_s
        self._keys = ProviderKeys(settings.name, self._fetch_keys)
        self._metadata: dict[str, Any] = {}
        self._discovered_s = self._failed_s = float("-inf")
        self._discovery = asyncio.Lock()
        self._turns = asyncio.Semaphore(REQUESTS_MAX)

    # -- log-in -----------------------------------------------------------------------------------

    async def authorization_url(self, attempt: Attempt, redirect_uri: str) -> str:
        """Where the browser goes to log in. Raises IdentityUnavailable."""
        metadata = await self._discover()
        settings = self.settings
        parameters = {
            "response_type": "code",
            "client_id": settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(settings.scopes),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        if settings.acr_values:
            parameters["acr_values"] = " ".join(settings.acr_values)
        return _with_query(self._address(metadata, "authorization_endpoint"), parameters)

    async def person_for(
        self, attempt: Attempt, redirect_uri: str, parameters: Mapping[str, str]
    ) -> tuple[Person, str]:
        """Who has logged in, by the parameters with which the browser came back; and the ID token.

        Raises IdentityRefused, IdentityUnavailable.
        """
        settings = self.settings
        attempt.check_state(parameters.get("state", ""), settings.name, self._now_s())
        if (error := parameters.get("error")) is not None:
            raise IdentityRefused(f"the provider refused the log-in: {_shown(error)}")
        metadata = await self._discover()
        self._check_issuer(metadata, parameters)
        code = parameters.get("code", "")
        if not 0 < len(code) <= CODE_LENGTH_MAX:
            raise IdentityRefused("the provider sent no code")
        answer = await self._exchange(metadata, code, attempt.verifier, redirect_uri)
        id_token = answer.get("id_token")
        if not isinstance(id_token, str):
            raise IdentityRefused("the provider sent no ID token")
        claims = await self.claims_of(id_token, Use.LOGIN)
        nonce = claims.get("nonce")
        if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), attempt.nonce.encode()):
            raise IdentityRefused("the ID token belongs to another log-in")
        if settings.acr_values and claims.get("acr") not in settings.acr_values:
            raise IdentityRefused("the provider did not authenticate the user as is demanded here (acr_values)")
        return claim_reader.person_of(settings, await self._completed(metadata, claims, answer)), id_token

    async def claims_of(self, token: str, use: Use) -> dict[str, Any]:
        """The claims of a token of this provider for us. Raises IdentityRefused, IdentityUnavailable."""
        key = await self._keys.key_for(head_of(token, self.settings.algorithms))
        return verified(token, key, self.settings, use, self._now_s())

    async def logout_url(self, id_token: str, back_to: str) -> str:
        """Where the browser goes to log out at the provider too; "": it has no such address, or cannot be asked."""
        try:
            metadata = await self._discover()
            address = self._address(metadata, "end_session_endpoint")
        except (IdentityUnavailable, IdentityRefused):
            return ""
        parameters = {"client_id": self.settings.client_id, "post_logout_redirect_uri": back_to}
        return _with_query(address, {**parameters, **({"id_token_hint": id_token} if id_token else {})})

    async def endpoints(self) -> dict[str, str]:
        """Its addresses for clients that ask for tokens: authorization_endpoint, token_endpoint, jwks_uri, and
        introspection_endpoint if there is one. Raises IdentityUnavailable."""
        metadata = await self._discover()
        found = {name: self._address(metadata, name) for name in _FOR_CLIENTS}
        if "introspection_endpoint" in metadata:
            found["introspection_endpoint"] = self._address(metadata, "introspection_endpoint")
        return found

    async def check(self) -> int:
        """Fetches addresses and keys; returns the number of keys that can be used. Raises IdentityUnavailable."""
        return len(keys_of(await self._fetch_keys()))

    # -- inside -----------------------------------------------------------------------------------

    def _check_issuer(self, metadata: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
        """With several providers an answer of one must not be taken for that of another (RFC 9207)."""
        issuer = parameters.get("iss")
        is_promised = metadata.get("authorization_response_iss_parameter_supported") is True
        if (issuer is None and is_promised) or (issuer is not None and issuer != self.settings.issuer):
            raise IdentityRefused("the answer is of another provider")

    async def _completed(
        self, metadata: Mapping[str, Any], claims: dict[str, Any], answer: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The claims, with those of the access token and of userinfo that the ID token lacks."""
        access_token = answer.get("access_token")
        if not isinstance(access_token, str) or claim_reader.is_complete(self.settings, claims):
            return claims
        try:
            claims = {**await self._claims_of_exchanged(access_token, claims), **claims}
        except IdentityRefused:
            pass  # an access token may be anything that its provider understands
        if not claim_reader.is_complete(self.settings, claims) and "userinfo_endpoint" in metadata:
            headers = {"Authorization": f"Bearer {access_token}"}
            more = await self._ask("GET", self._address(metadata, "userinfo_endpoint"), headers=headers)
            if more.get("sub") != claims["sub"]:
                raise IdentityRefused("the provider told of another user")
            claims = {**more, **claims}
        return claims

    async def _claims_of_exchanged(self, token: str, claims: Mapping[str, Any]) -> dict[str, Any]:
        """The claims of an access token that came with an ID token: it may be meant for others, but is of this user."""
        digest = claims.get("at_hash")
        if isinstance(digest, str):
            size = {"256": "sha256", "384": "sha384", "512": "sha512"}
            algorithm = head_of(token, self.settings.algorithms).algorithm
            whole = hashlib.new(size[algorithm[2:]], token.encode()).digest()
            expected = urlsafe_b64encode(whole[: len(whole) // 2]).rstrip(b"=").decode()
            if not hmac.compare_digest(expected, digest):
                raise IdentityRefused("the access token is not that of the ID token")
        found = await self.claims_of(token, Use.EXCHANGED)
        if found["sub"] != claims["sub"]:
            raise IdentityRefused("the access token is of another user")
        return found

    async def _exchange(
        self, metadata: Mapping[str, Any], code: str, verifier: str, redirect_uri: str
    ) -> dict[str, Any]:
        settings = self.settings
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
            "client_id": settings.client_id,
        }
        headers = {}
        if settings.client_secret_file is not None:
            secret = self._secret()
            if "client_secret_basic" in metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"]):
                pair = f"{quote(settings.client_id, safe='')}:{quote(secret, safe='')}"
                headers["Authorization"] = f"Basic {_base64(pair)}"
            else:
                form["client_secret"] = secret
        return await self._ask("POST", self._address(metadata, "token_endpoint"), headers=headers, form=form)

    def _secret(self) -> str:
        path = self.settings.client_secret_file
        assert path is not None
        try:
            with path.open("rb") as file:
                secret = file.read(SECRET_BYTES_MAX).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise IdentityUnavailable(f"client_secret_file of [[oidc]] {self.settings.name} cannot be read") from error
        if not secret:
            raise IdentityUnavailable(f"client_secret_file of [[oidc]] {self.settings.name} is empty")
        return secret

    async def _discover(self) -> dict[str, Any]:
        settings = self.settings
        async with self._discovery:
            if monotonic() - self._discovered_s < DISCOVERY_S:
                return self._metadata
            if monotonic() - self._failed_s < FAILED_S_MIN:
                raise IdentityUnavailable(f"the provider {settings.name} could not be asked a moment ago")
            self._failed_s = monotonic()
            metadata = await self._ask("GET", settings.issuer.rstrip("/") + DISCOVERY)
            if metadata.get("issuer") != settings.issuer:
                raise IdentityUnavailable(f"the provider {settings.name} calls itself otherwise than issuer says")
            self._metadata, self._discovered_s, self._failed_s = metadata, monotonic(), float("-inf")
            return metadata

    async def _fetch_keys(self) -> dict[str, Any]:
        return await self._ask("GET", self._address(await self._discover(), "jwks_uri"))

    def _address(self, metadata: Mapping[str, Any], name: str) -> str:
        """An address that the provider names: on no account without TLS if the provider has it."""
        address = metadata.get(name)
        scheme = urlsplit(self.settings.issuer).scheme
        if not isinstance(address, str) or urlsplit(address).scheme not in ("https", scheme):
            raise IdentityUnavailable(f"the provider {self.settings.name} has no {name} with {scheme}")
        return address

    async def _ask(
        self, method: str, address: str, headers: Mapping[str, str] | None = None, form: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The JSON object at an address. Raises IdentityUnavailable, and IdentityRefused when a form is refused."""
        import aiohttp  # takes a tenth of a second, which a server without providers need not spend

        settings = self.settings
        connector = aiohttp.TCPConnector(ssl=_context(settings))
        timeout = aiohttp.ClientTimeout(total=settings.timeout_s)
        headers = {"Accept": "application/json", **(headers or {})}
        try:
            async with (
                self._turns,
                # Requests are rare, so that nothing is kept open for the next one.
                aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
                session.request(method, address, headers=headers, data=form, allow_redirects=False) as response,
            ):
                body = b""
                while not response.content.at_eof() and len(body) < ANSWER_BYTES_MAX:
                    body += await response.content.read(ANSWER_BYTES_MAX - len(body))
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            what = str(error) or type(error).__name__
            raise IdentityUnavailable(f"the provider {settings.name} cannot be asked: {what}") from error
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if 400 <= status < 500 and form is not None:
            error_code = answer.get("error") if isinstance(answer, dict) else ""
            raise IdentityRefused(f"the provider refused the code: {_shown(error_code)}")
        if status != 200 or not isinstance(answer, dict):
            raise IdentityUnavailable(f"the provider {self.settings.name} answered with {status}, or not with JSON")
        return answer


def _context(settings: Oidc) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise IdentityUnavailable(f"ca_file of [[oidc]] {settings.name} cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _with_query(address: str, parameters: Mapping[str, str]) -> str:
    return f"{address}{'&' if '?' in address else '?'}{urlencode(parameters)}"


def _base64(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().replace("-", "+").replace("_", "/")


def _shown(error: object) -> str:
    """An error code of OAuth; another text could be written by anybody, and is not repeated."""
    return error if isinstance(error, str) and _ERROR.fullmatch(error) else "unknown error"
