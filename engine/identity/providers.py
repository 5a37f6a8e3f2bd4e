"""All providers of one process, as its fronts use them: bearer tokens, and who offers a log-in.

A verified token is remembered until it expires, CHECK_S at most: a key that its provider withdraws counts no more soon
after, and a client that asks thousands of times costs one verification a minute.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from time import time
from typing import TYPE_CHECKING, Final

from engine.errors import IdentityRefused
from engine.identity import claims
from engine.identity.claims import Person
from engine.identity.provider import Provider
from engine.identity.tokens import LENGTH_MAX, Use

if TYPE_CHECKING:
    from engine.config import Config
    from engine.identity.settings import Oidc

CHECK_S: Final = 60.0
REMEMBERED_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class _Remembered:
    person: Person
    settings: Oidc
    checked_s: float


class Providers:
    """Used on the loop's thread."""

    def __init__(self, config: Callable[[], Config], now_s: Callable[[], float] = time) -> None:
        """`config`: returns the current configuration."""
        self._config = config
        self._now_s = now_s
        self._providers: dict[str, Provider] = {}
        self._remembered: dict[bytes, _Remembered] = {}

    @property
    def offered(self) -> list[tuple[str, str]]:
        """Names and labels of the providers with which people can log in."""
        return [(each.name, each.label or each.name) for each in self._config().oidc if each.login]

    @property
    def accepts_tokens(self) -> bool:
        """Whether the tokens of any provider are accepted as bearer tokens."""
        return any(each.audiences for each in self._config().oidc)

    @property
    def of_tokens(self) -> Provider | None:
        """The first provider whose tokens are accepted as bearer tokens."""
        settings = next((each for each in self._config().oidc if each.audiences), None)
        return None if settings is None else self._provider_of(settings)

    def provider(self, name: str) -> Provider | None:
        """The provider with this name, by the settings in force."""
        settings = next((each for each in self._config().oidc if each.name == name), None)
        return None if settings is None else self._provider_of(settings)

    async def person_of(self, token: str) -> Person:
        """Who shows this bearer token. Raises IdentityRefused, IdentityUnavailable."""
        if (person := self.remembered(token)) is not None:
            return person
        issuer = _claimed_issuer(token)
        candidates = [each for each in self._config().oidc if each.issuer == issuer and each.audiences]
        error = IdentityRefused("the token is of no provider whose tokens are accepted")
        for settings in candidates:
            try:
                found = await self._provider_of(settings).claims_of(token, Use.ACCESS)
            except IdentityRefused as refusal:
                error = refusal
                continue
            person = claims.person_of(settings, found)
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.pop(next(iter(self._remembered)))
            self._remembered[_digest(token)] = _Remembered(person, settings, self._now_s())
            return person
        raise error

    def remembered(self, token: str) -> Person | None:
        """Who shows a token that was verified a moment ago; None: `person_of` must verify it."""
        known = self._remembered.get(_digest(token))
        if known is None:
            return None
        now_s = self._now_s()
        is_in_force = 0 <= now_s - known.checked_s < CHECK_S and now_s < known.person.until_s
        if is_in_force and any(known.settings is each for each in self._config().oidc):
            return known.person
        del self._remembered[_digest(token)]
        return None

    def _provider_of(self, settings: Oidc) -> Provider:
        provider = self._providers.get(settings.name)
        if provider is None or provider.settings != settings:
            provider = self._providers[settings.name] = Provider(settings, self._now_s)
        return provider


def looks_signed(token: str) -> bool:
    """Whether a bearer token may be a signed token, and no key of ours."""
    return token.count(".") == 2


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def _claimed_issuer(token: str) -> str:
    """The issuer that a token names, unverified: only to choose the provider that verifies it."""
    if len(token) > LENGTH_MAX or not looks_signed(token) or not token.isascii():
        raise IdentityRefused("this is no signed token")
    payload = token.split(".")[1]
    try:
        claimed = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise IdentityRefused("the token cannot be read") from error
    issuer = claimed.get("iss") if isinstance(claimed, dict) else None
    return issuer if isinstance(issuer, str) else ""
