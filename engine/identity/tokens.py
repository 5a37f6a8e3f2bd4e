"""Verifies signed tokens (RFC 7515, 7519): the signature by a key of the provider, and claims that make it ours.

    alg        one of the provider's algorithms, all with a public key; the key must be of its kind
    kid        names a key of the provider's set; without it the set has one key that fits
    jku, x5u, jwk, x5c    never followed: whoever writes a token would choose the key
    crit       refused (RFC 7515 4.1.11): nothing critical is understood
    iss, aud, exp, sub    mandatory; nbf and iat may not lie ahead
    ID token, access token, log-out token    each only where it belongs

Pure. The signature costs some 60 microseconds.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from engine.errors import IdentityRefused

if TYPE_CHECKING:
    from joserfc.jwk import Key

    from engine.identity.settings import Oidc

LENGTH_MAX: Final = 16 << 10
"""Characters of a token: what fits into a header. Keycloak's have one to four thousand."""

HEADER_BYTES_MAX: Final = 6 << 10
"""Some providers write a chain of certificates (x5c)."""

LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"

LOGOUT_AGE_S_MAX: Final = 600.0
"""A log-out token is used at once; an older one is a replay."""


class Use(Enum):
    """What a token is for."""

    ACCESS = "access token"
    LOGIN = "ID token"
    LOGOUT = "log-out token"
    EXCHANGED = "access token of a log-in"
    """It came straight from the provider beside an ID token, whoever it is meant for."""


_FOREIGN_TYPES: Final[Mapping[Use, frozenset[str]]] = {
    Use.ACCESS: frozenset({"id", "refresh", "offline", "logout", "logout+jwt", "id_token", "dpop+jwt"}),
    Use.LOGIN: frozenset({"bearer", "refresh", "offline", "logout", "at+jwt", "application/at+jwt", "logout+jwt"}),
    Use.EXCHANGED: frozenset({"id", "refresh", "offline", "logout", "logout+jwt"}),
    Use.LOGOUT: frozenset({"bearer", "id", "refresh", "offline", "at+jwt", "application/at+jwt"}),
}
"""What typ says of a token for something else: in the header (RFC 9068) or, with Keycloak, in a claim."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a token's header says, before anything is verified."""

    algorithm: str
    key_id: str
    """"": none."""
    type: str


def head_of(token: str, algorithms: Collection[str]) -> Head:
    """The header of a token. Raises IdentityRefused for one that no key could verify."""
    if len(token) > LENGTH_MAX or token.count(".") != 2 or not token.isascii():
        raise IdentityRefused("this is no signed token")
    try:
        text = token.partition(".")[0]
        header = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise IdentityRefused("the header of the token cannot be read") from error
    if not isinstance(header, dict) or "crit" in header:
        raise IdentityRefused("the header of the token asks for what is not understood")
    algorithm, key_id, kind = header.get("alg"), header.get("kid", ""), header.get("typ", "")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise IdentityRefused("the token is signed by an algorithm that is not allowed")
    if not isinstance(key_id, str) or not isinstance(kind, str):
        raise IdentityRefused("the header of the token cannot be read")
    return Head(algorithm, key_id, kind.lower())


def verified(token: str, key: Key, settings: Oidc, use: Use, now_s: float) -> dict[str, Any]:
    """The claims of a token that `key` has signed, for us and now. Raises IdentityRefused, which says what is wrong."""
    head = head_of(token, settings.algorithms)
    registry = JWSRegistry(algorithms=[head.algorithm], strict_check_header=False)
    registry.max_header_length = HEADER_BYTES_MAX
    try:
        payload = jws.deserialize_compact(token, key, algorithms=[head.algorithm], registry=registry).payload
        claims = json.loads(payload or b"", parse_constant=_no_constant)
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise IdentityRefused("the signature of the token is not right") from error
    if not isinstance(claims, dict):
        raise IdentityRefused("the token has no claims")
    kinds = {head.type, str(claims.get("typ", "")).lower()}
    if not kinds.isdisjoint(_FOREIGN_TYPES[use]) or (use is Use.ACCESS and ("at_hash" in claims or "events" in claims)):
        raise IdentityRefused(f"this is no {use.value}")
    _check_parties(claims, settings, use)
    _check_times(claims, settings.clock_skew_s, use, now_s)
    return claims


def _check_parties(claims: Mapping[str, Any], settings: Oidc, use: Use) -> None:
    if claims.get("iss") != settings.issuer:
        raise IdentityRefused("the token is of another issuer")
    if use is not Use.EXCHANGED:
        _check_audience(claims, settings, use)
    subject = claims.get("sub")
    if use is Use.LOGOUT and subject is None:
        return
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise IdentityRefused("the token has no subject")


def _check_audience(claims: Mapping[str, Any], settings: Oidc, use: Use) -> None:
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    accepted = settings.audiences if use is Use.ACCESS else (settings.client_id,)
    if not all(isinstance(each, str) for each in audiences) or not any(each in accepted for each in audiences):
        raise IdentityRefused("the token is for somebody else")
    if use is Use.LOGIN and (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != settings.client_id:
        raise IdentityRefused("the token was issued to another client")


def _check_times(claims: Mapping[str, Any], skew_s: float, use: Use, now_s: float) -> None:
    times = {name: _seconds(claims[name]) for name in ("exp", "nbf", "iat") if name in claims}
    if use is Use.LOGOUT:  # exp became mandatory later
        if now_s - times.get("iat", 0.0) > LOGOUT_AGE_S_MAX:
            raise IdentityRefused("the token is too old")
        times.setdefault("exp", now_s)
    if "exp" not in times:
        raise IdentityRefused("the token never ends")
    if now_s >= times["exp"] + skew_s:
        raise IdentityRefused("the token has expired")
    if any(now_s < times.get(name, now_s) - skew_s for name in ("nbf", "iat")):
        raise IdentityRefused("the token is not valid yet")


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e12:
        raise IdentityRefused("the token has a time that is none")
    return float(value)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")
