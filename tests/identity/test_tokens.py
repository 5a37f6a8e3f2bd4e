"""Forged, foreign, early and late tokens: each is refused, and the reason is the one that was meant."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from joserfc import jws
from msgspec.structs import replace

from engine.errors import IdentityRefused
from engine.identity import key_set, tokens
from engine.identity.settings import Oidc
from engine.identity.tokens import Use
from tests.identity.small_provider import AUDIENCE, CLIENT, SmallProvider, make_key

ISSUER = "https://sso.example/realms/pacs"
RSA, EC = make_key("rsa", "RSA"), make_key("ec")
PROVIDER = SmallProvider(issuer=ISSUER, keys=[RSA, EC])
SETTINGS = Oidc(name="hospital", issuer=ISSUER, client_id=CLIENT, audiences=(AUDIENCE,))
KEYS = key_set.keys_of({"keys": [key.as_dict(private=False) for key in PROVIDER.keys]})


def verify(token: str, use: Use = Use.ACCESS, settings: Oidc = SETTINGS, now_s: float | None = None) -> dict[str, Any]:
    head = tokens.head_of(token, settings.algorithms)
    fitting = [key for key in KEYS if key.kid == head.key_id and key_set._fits(key, head.algorithm)]
    if not fitting:
        raise IdentityRefused("no key")
    return tokens.verified(token, fitting[0], settings, use, time.time() if now_s is None else now_s)


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("key", [RSA, EC])
def test_a_token_of_the_provider_for_us_is_accepted(key: Any) -> None:
    assert verify(PROVIDER.token(key=key))["preferred_username"] == "alice"
    assert verify(PROVIDER.token({"aud": ["other", AUDIENCE]}, key=key))["sub"] == "u-1"


def none() -> str:
    _, payload, _ = PROVIDER.token().split(".")
    return f"{encoded({'alg': 'none', 'kid': 'rsa'})}.{payload}."


def symmetric() -> str:
    """HS256 with the public key as the secret: what everybody can read would sign."""
    _, payload, _ = PROVIDER.token().split(".")
    text = f"{encoded({'alg': 'HS256', 'kid': 'rsa'})}.{payload}"
    digest = hmac.digest(RSA.as_pem(private=False), text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def own_key_beside() -> str:
    attacker = make_key("rsa", "RSA")
    return PROVIDER.token(key=attacker, jwk=attacker.as_dict(private=False))


def pointing_elsewhere() -> str:
    attacker = make_key("attacker", "RSA")
    return PROVIDER.token(key=attacker, jku="https://attacker.example/keys", x5u="https://attacker.example/chain")


def changed() -> str:
    header, payload, signature = PROVIDER.token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return f"{header}.{encoded({**claims, 'preferred_username': 'admin'})}.{signature}"


def key_of_another_kind() -> str:
    _, payload, signature = PROVIDER.token(key=RSA).split(".")
    return f"{encoded({'alg': 'ES256', 'kid': 'rsa'})}.{payload}.{signature}"


@pytest.mark.parametrize(
    "forged",
    [
        none, symmetric, own_key_beside, pointing_elsewhere, changed, key_of_another_kind,
        lambda: PROVIDER.token(kid="../../../../dev/null"),
        lambda: PROVIDER.token(kid="rsa' or '1'='1"),
        lambda: PROVIDER.token().rpartition(".")[0] + ".",
        lambda: PROVIDER.token() + "A",
        lambda: PROVIDER.token()[:-3] + "AAA",
        lambda: "", lambda: "..", lambda: "a.b", lambda: "a.b.c.d.e", lambda: "ü.b.c", lambda: "x" * 20_000,
        lambda: f"{encoded([])}.{encoded({})}.AA", lambda: f"{encoded({'alg': ['RS256']})}.{encoded({})}.AA",
        lambda: f"{encoded({'alg': 'RS256', 'kid': 7})}.{encoded({})}.AA",
        lambda: f"{encoded({'alg': 'RS256', 'kid': 'rsa', 'crit': ['b64'], 'b64': False})}.x.AA",
        lambda: f"{base64.urlsafe_b64encode(b'[' * 9000).decode()}.x.AA",
    ],
)  # fmt: skip
def test_a_forged_token_is_refused(forged: Callable[[], str]) -> None:
    with pytest.raises(IdentityRefused):
        verify(forged())


def test_an_algorithm_that_was_not_agreed_is_refused_though_the_key_fits_and_the_signature_is_right() -> None:
    _, payload, _ = PROVIDER.token().split(".")
    registry = jws.JWSRegistry(algorithms=["PS256"])
    content = base64.urlsafe_b64decode(payload + "==")
    token = jws.serialize_compact({"alg": "PS256", "kid": "rsa"}, content, RSA, ["PS256"], registry)
    assert verify(token)["sub"] == "u-1"
    with pytest.raises(IdentityRefused, match="not allowed"):
        verify(token, settings=replace(SETTINGS, algorithms=("RS256",)))


NOW = int(time.time())


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "https://sso.example/realms/other"}, "another issuer"),
        ({"iss": ISSUER + "/"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"iss": [ISSUER]}, "another issuer"),
        ({"aud": "account"}, "somebody else"),
        ({"aud": CLIENT}, "somebody else"),
        ({"aud": None}, "somebody else"),
        ({"aud": []}, "somebody else"),
        ({"aud": [7, AUDIENCE]}, "somebody else"),
        ({"aud": {AUDIENCE: 1}}, "somebody else"),
        ({"exp": NOW - 31}, "expired"),
        ({"exp": None}, "never ends"),
        ({"exp": "2099"}, "time that is none"),
        ({"exp": True}, "time that is none"),
        ({"exp": 1e300}, "time that is none"),
        ({"nbf": NOW + 86_400}, "not valid yet"),
        ({"iat": NOW + 86_400}, "not valid yet"),
        ({"sub": None}, "no subject"),
        ({"sub": 7}, "no subject"),
        ({"sub": "x" * 256}, "no subject"),
        ({"typ": "ID"}, "no access token"),
        ({"typ": "Refresh"}, "no access token"),
        ({"at_hash": "x"}, "no access token"),
        ({"events": {tokens.LOGOUT_EVENT: {}}}, "no access token"),
    ],
)
def test_a_token_for_others_or_another_time_or_use_is_refused(claims: dict[str, Any], why: str) -> None:
    with pytest.raises(IdentityRefused, match=why):
        verify(PROVIDER.token(claims))


@pytest.mark.parametrize("end", ["NaN", "Infinity", "1e999"])
def test_a_number_that_is_none_never_lets_a_token_live_for_ever(end: str) -> None:
    payload = f'{{"iss": "{ISSUER}", "sub": "u", "aud": "{AUDIENCE}", "exp": {end}}}'
    with pytest.raises(IdentityRefused):
        verify(jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, payload, RSA))


def test_clocks_may_differ_a_little() -> None:
    token = PROVIDER.token({"exp": NOW, "nbf": NOW, "iat": NOW})
    for difference, is_accepted in ((-29, True), (29, True), (-31, False), (31, False)):
        if is_accepted:
            assert verify(token, now_s=NOW + difference)
        else:
            with pytest.raises(IdentityRefused):
                verify(token, now_s=NOW + difference)


def test_an_id_token_is_for_log_ins_only_and_an_access_token_for_requests_only() -> None:
    id_token = PROVIDER.token({"aud": CLIENT, "nonce": "n"})
    assert verify(id_token, Use.LOGIN)["nonce"] == "n"
    with pytest.raises(IdentityRefused):
        verify(PROVIDER.token({"aud": CLIENT}, typ="at+jwt"), Use.LOGIN)
    with pytest.raises(IdentityRefused):
        verify(PROVIDER.token(), Use.LOGIN)
    for azp in (None, "other"):
        with pytest.raises(IdentityRefused, match="another client"):
            verify(PROVIDER.token({"aud": [CLIENT, "other"], "azp": azp}), Use.LOGIN)
    assert verify(PROVIDER.token({"aud": [CLIENT, "other"], "azp": CLIENT}), Use.LOGIN)


def test_without_audiences_no_bearer_token_is_accepted() -> None:
    settings = Oidc(name="hospital", issuer=ISSUER, client_id=CLIENT)
    with pytest.raises(IdentityRefused, match="somebody else"):
        verify(PROVIDER.token(), settings=settings)


def test_keys_that_cannot_verify_are_left_out_and_private_parts_are_not_kept() -> None:
    small = {"kty": "RSA", "kid": "small", "n": "AQAB" * 20, "e": "AQAB"}
    members = [
        RSA.as_dict(private=True), {**EC.as_dict(private=False), "use": "enc"}, small, {"kty": "oct", "k": "AQAB"},
        {"kty": "RSA"}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "text", None, {"kty": "OKP"},
    ]  # fmt: skip
    (key,) = key_set.keys_of({"keys": members})
    assert key.kid == "rsa" and not key.is_private
    for nothing in ({}, {"keys": None}, {"keys": {}}, {"keys": "x"}):
        assert key_set.keys_of(nothing) == []
