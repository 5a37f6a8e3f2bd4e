"""The public keys of one provider (RFC 7517), fetched when a token needs them.

age up to REFRESH_S          used as they are
up to AGE_S_MAX              fetched anew; if that fails, the old ones are used
beyond                       nobody is let in until they can be fetched: a key may have been withdrawn meanwhile
a key id that is not there   fetched anew, once a minute at most, however many tokens name it
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, RSAKey

from engine import log
from engine.errors import IdentityRefused, IdentityUnavailable, for_log

if TYPE_CHECKING:
    from joserfc.jwk import Key

    from engine.identity.tokens import Head

logger = log.get("identity.keys")

REFRESH_S: Final = 900.0
AGE_S_MAX: Final = 3600.0
UNKNOWN_S_MIN: Final = 60.0
"""Between two fetches for a key id that is not there."""
FAILED_S_MIN: Final = 5.0
"""Between two attempts while there are no keys."""
KEYS_MAX: Final = 100
RSA_BITS_MIN: Final = 2048
CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


class ProviderKeys:
    """Used on the loop's thread."""

    def __init__(
        self, name: str, fetch: Callable[[], Awaitable[dict[str, Any]]], clock: Callable[[], float] = monotonic
    ) -> None:
        """`fetch` returns the key set as JSON. Raises IdentityUnavailable."""
        self._name = name
        self._fetch = fetch
        self._clock = clock
        self._keys: list[Key] = []
        self._fetched_s: float | None = None
        self._tried_s: float | None = None
        self._turn = asyncio.Lock()

    async def key_for(self, head: Head) -> Key:
        """The key that has signed a token with this header. Raises IdentityRefused, IdentityUnavailable."""
        if self._age_s() > REFRESH_S:
            await self._refresh(FAILED_S_MIN)
        if self._age_s() > AGE_S_MAX:
            raise IdentityUnavailable(f"the keys of the identity provider {self._name} cannot be fetched")
        key = self._find(head)
        if key is None:
            await self._refresh(UNKNOWN_S_MIN)
            key = self._find(head)
        if key is None:
            raise IdentityRefused("no key of the provider has signed the token")
        return key

    def _age_s(self) -> float:
        return float("inf") if self._fetched_s is None else self._clock() - self._fetched_s

    def _find(self, head: Head) -> Key | None:
        fitting = [key for key in self._keys if _fits(key, head.algorithm)]
        if head.key_id:
            fitting = [key for key in fitting if key.get("kid") == head.key_id]
        return fitting[0] if len(fitting) == 1 else None

    async def _refresh(self, pause_s: float) -> None:
        """Fetches the keys unless that was tried less than `pause_s` ago; all who need them wait for one fetch."""
        before = self._fetched_s
        async with self._turn:
            is_done = self._fetched_s != before
            is_too_soon = self._tried_s is not None and self._clock() - self._tried_s < pause_s
            if is_done or is_too_soon:
                return
            self._tried_s = self._clock()
            try:
                document = await self._fetch()
            except IdentityUnavailable as error:
                logger.warning(
                    "the keys of an identity provider cannot be fetched", provider=self._name, error=for_log(error)
                )
                return
            self._keys = keys_of(document)
            self._fetched_s = self._tried_s


def keys_of(document: dict[str, Any]) -> list[Key]:
    """The keys of a set that can verify signatures; others are left out, as a set may have keys for anything."""
    members = document.get("keys")
    keys: list[Key] = []
    for member in members[:KEYS_MAX] if isinstance(members, list) else ():
        if not isinstance(member, dict) or member.get("kty") not in ("RSA", "EC") or member.get("use", "sig") != "sig":
            continue
        if member["kty"] == "RSA" and len(str(member.get("n", ""))) < RSA_BITS_MIN // 6:
            continue
        # A provider that publishes a private key must not make us one who signs.
        public = {name: member[name] for name in ("kty", "kid", "alg", "n", "e", "crv", "x", "y") if name in member}
        try:
            key = JWKRegistry.import_key(public)
        except (JoseError, ValueError, TypeError):
            continue
        if isinstance(key, RSAKey) and key.public_key.key_size < RSA_BITS_MIN:
            continue
        keys.append(key)
    return keys


def _fits(key: Key, algorithm: str) -> bool:
    if key.get("alg", algorithm) != algorithm:
        return False
    if isinstance(key, ECKey):
        return bool(key.get("crv") == CURVES.get(algorithm))
    return isinstance(key, RSAKey) and algorithm[:2] in ("RS", "PS")
