"""Providers against a small one of the tests: keys, bearer tokens, and log-ins that somebody tampers with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from engine.errors import IdentityRefused, IdentityUnavailable
from engine.identity import key_set
from engine.identity.attempt import LASTS_S, Attempt
from engine.identity.claims import Person
from engine.identity.key_set import AGE_S_MAX, REFRESH_S, UNKNOWN_S_MIN, ProviderKeys
from engine.identity.provider import Provider
from engine.identity.providers import CHECK_S, Providers
from engine.identity.settings import Oidc
from engine.identity.tokens import Head
from tests.identity.small_provider import AUDIENCE, CLIENT, KEYCLOAK, SmallProvider, make_key, small_provider

BACK = "https://pacs.example/api/oidc/hospital/callback"


@pytest.fixture
def small() -> Iterator[SmallProvider]:
    with small_provider() as provider:
        yield provider


def settings_of(small: SmallProvider, **more: Any) -> Oidc:
    roles = {"pacs-radiologist": "radiologist"}
    defaults = {
        "name": "hospital",
        "issuer": small.issuer,
        "client_id": CLIENT,
        "audiences": (AUDIENCE,),
        "roles": roles,
    }
    return Oidc(**{**defaults, **more})


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# keys --------------------------------------------------------------------------------------------


class Source:
    """A provider's key set, in memory."""

    def __init__(self, *kids: str) -> None:
        self.kids = list(kids)
        self.count = 0
        self.is_down = False
        self._keys = {kid: make_key(kid) for kid in ("a", "b")}

    async def fetch(self) -> dict[str, Any]:
        self.count += 1
        await asyncio.sleep(0)
        if self.is_down:
            raise IdentityUnavailable("down")
        return {"keys": [self._keys[kid].as_dict(private=False) for kid in self.kids]}


def head(kid: str) -> Head:
    return Head("ES256", kid, "")


def test_keys_are_fetched_once_for_all_who_wait_and_unknown_ones_once_a_minute() -> None:
    async def run() -> None:
        source, clock = Source("a"), Clock()
        keys = ProviderKeys("p", source.fetch, clock)
        found = await asyncio.gather(*(keys.key_for(head("a")) for _ in range(20)))
        assert {key.kid for key in found} == {"a"} and source.count == 1
        for _ in range(50):  # a flood of invented key ids
            with pytest.raises(IdentityRefused):
                await keys.key_for(head("b"))
        assert source.count == 1, "they were fetched a moment ago"
        source.kids = ["a", "b"]  # the provider has a new key
        clock.now += UNKNOWN_S_MIN
        assert (await keys.key_for(head("b"))).kid == "b" and source.count == 2

    asyncio.run(run())


def test_a_key_that_the_provider_withdraws_counts_no_more_and_old_keys_end() -> None:
    async def run() -> None:
        source, clock = Source("a", "b"), Clock()
        keys = ProviderKeys("p", source.fetch, clock)
        await keys.key_for(head("b"))
        source.kids = ["a"]
        clock.now += REFRESH_S + 1
        with pytest.raises(IdentityRefused):
            await keys.key_for(head("b"))
        source.is_down = True
        clock.now += REFRESH_S + 1
        assert (await keys.key_for(head("a"))).kid == "a", "for a while the old keys do"
        clock.now += AGE_S_MAX
        with pytest.raises(IdentityUnavailable):
            await keys.key_for(head("a"))
        source.is_down = False
        clock.now += key_set.FAILED_S_MIN
        assert (await keys.key_for(head("a"))).kid == "a"

    asyncio.run(run())


def test_a_provider_that_is_down_is_not_asked_for_each_token() -> None:
    async def run() -> None:
        source = Source("a")
        source.is_down = True
        keys = ProviderKeys("p", source.fetch, Clock())
        for _ in range(20):
            with pytest.raises(IdentityUnavailable):
                await keys.key_for(head("a"))
        assert source.count == 1

    asyncio.run(run())


def test_without_a_key_id_one_key_must_fit() -> None:
    async def run() -> None:
        source = Source("a")
        assert (await ProviderKeys("p", source.fetch, Clock()).key_for(head(""))).kid == "a"
        source.kids = ["a", "b"]
        with pytest.raises(IdentityRefused):
            await ProviderKeys("p", source.fetch, Clock()).key_for(head(""))

    asyncio.run(run())


# bearer tokens -----------------------------------------------------------------------------------


def with_providers(
    script: Callable[[Providers, SimpleNamespace], Awaitable[None]],
    *settings: Oidc,
    now_s: Callable[[], float] | None = None,
) -> None:
    async def run() -> None:
        config = SimpleNamespace(oidc=settings)
        providers = Providers(lambda: config, **({"now_s": now_s} if now_s else {}))  # type: ignore[arg-type, return-value]
        await script(providers, config)

    asyncio.run(run())


def test_a_bearer_token_says_who_shows_it_and_is_verified_once_a_minute(small: SmallProvider) -> None:
    clock = Clock()
    clock.now = time.time()

    async def script(providers: Providers, config: SimpleNamespace) -> None:
        token = small.token()
        assert providers.remembered(token) is None
        person = await providers.person_of(token)
        assert (person.user, person.subject, person.roles) == ("alice", "u-1", {"radiologist"})
        assert providers.remembered(token) == person
        assert small.count("/keys") == 1
        clock.now += CHECK_S
        assert providers.remembered(token) is None
        assert await providers.person_of(token) == person
        config.oidc = (settings_of(small, roles={}),)  # a reload
        assert providers.remembered(token) is None
        assert (await providers.person_of(token)).roles == frozenset()
        clock.now += 400
        with pytest.raises(IdentityRefused, match="expired"):
            await providers.person_of(token)

    with_providers(script, settings_of(small), now_s=clock)


def test_a_token_of_a_strange_issuer_asks_nobody(small: SmallProvider) -> None:
    async def script(providers: Providers, _: SimpleNamespace) -> None:
        for token in (small.token({"iss": "http://127.0.0.1:1"}), small.token({"iss": None}), "a.b.c", "x", "é.é.é"):
            with pytest.raises(IdentityRefused):
                await providers.person_of(token)
        assert small.requests == []

    with_providers(script, settings_of(small))


def test_when_keys_cannot_be_had_nobody_is_let_in(small: SmallProvider) -> None:
    async def script(providers: Providers, _: SimpleNamespace) -> None:
        small.is_down = True
        with pytest.raises(IdentityUnavailable):
            await providers.person_of(small.token())

    with_providers(script, settings_of(small))


@pytest.mark.parametrize(
    "metadata",
    [{"issuer": "https://evil.example"}, {"jwks_uri": "file:///etc/passwd"}, {"jwks_uri": None}, {"jwks_uri": 7}],
)
def test_a_discovery_that_contradicts_the_configuration_is_not_followed(
    small: SmallProvider, metadata: dict[str, Any]
) -> None:
    async def script(providers: Providers, _: SimpleNamespace) -> None:
        small.metadata = metadata
        with pytest.raises(IdentityUnavailable):
            await providers.person_of(small.token())
        assert small.count("/keys") == 0

    with_providers(script, settings_of(small))


def test_a_provider_with_https_is_never_asked_without() -> None:
    provider = Provider(Oidc(name="p", issuer="https://sso.example", client_id="x"))
    with pytest.raises(IdentityUnavailable):
        provider._address({"token_endpoint": "http://sso.example/token"}, "token_endpoint")


# log-ins -----------------------------------------------------------------------------------------


def log_in(small: SmallProvider, tamper: Callable[[dict[str, str]], object] | None = None, **more: Any) -> Person:
    """A whole log-in, but for the browser; `tamper` changes with what it comes back."""

    async def run() -> Person:
        provider = Provider(settings_of(small, **more))
        attempt = Attempt.from_text(Attempt.begin("hospital", provider._now_s()).to_text())
        query = dict(parse_qsl(urlsplit(await provider.authorization_url(attempt, BACK)).query))
        assert query["code_challenge_method"] == "S256" and attempt.verifier not in query.values()
        answer = dict(parse_qsl(urlsplit(small.authorize(query)).query))
        if tamper is not None:
            tamper(answer)
        person, _ = await provider.person_for(attempt, BACK, answer)
        with pytest.raises(IdentityRefused, match="invalid_grant"):  # the same code again
            await provider.person_for(attempt, BACK, answer)
        return person

    return asyncio.run(run())


def test_a_log_in_says_who_it_is(small: SmallProvider) -> None:
    person = log_in(small)
    assert (person.user, person.roles, person.provider_session) == ("alice", {"radiologist"}, "a-session-there")


def test_roles_that_keycloak_writes_into_the_access_token_only_are_read_there(small: SmallProvider) -> None:
    small.access_claims = {"aud": "account", "realm_access": KEYCLOAK["realm_access"]}
    del small.claims["realm_access"]
    assert log_in(small).roles == {"radiologist"}
    small.access_claims = {**small.access_claims, "sub": "u-2"}
    assert log_in(small).roles == frozenset(), "of another user nothing is taken"


def test_claims_that_only_userinfo_has_are_asked_for(small: SmallProvider) -> None:
    small.claims = {}
    small.userinfo = {"preferred_username": "bob", "roles": ["pacs-radiologist"]}
    person = log_in(small)
    assert (person.user, person.roles) == ("bob", {"radiologist"})
    small.userinfo["sub"] = "u-2"
    with pytest.raises(IdentityRefused, match="another user"):
        log_in(small)


def test_a_client_with_a_secret_proves_itself(small: SmallProvider, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    small.secret = "s3cret"
    secret.write_text("s3cret\n")
    assert log_in(small, client_secret_file=secret).user == "alice"
    secret.write_text("wrong")
    with pytest.raises(IdentityRefused, match="invalid_grant"):
        log_in(small, client_secret_file=secret)
    secret.unlink()
    with pytest.raises(IdentityUnavailable, match="cannot be read"):
        log_in(small, client_secret_file=secret)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": "x"}, "not begun in this browser"),
        ({"state": ""}, "not begun in this browser"),
        ({"state": "é"}, "not begun in this browser"),
        ({"code": "stolen"}, "invalid_grant"),
        ({"code": ""}, "no code"),
        ({"code": "x" * 5000}, "no code"),
        ({"iss": "https://evil.example"}, "another provider"),
        ({"error": "access_denied"}, "access_denied"),
        ({"error": "<script>"}, "unknown error"),
    ],
)
def test_an_answer_that_somebody_changed_begins_no_session(
    small: SmallProvider, change: dict[str, str], why: str
) -> None:
    with pytest.raises(IdentityRefused, match=why):
        log_in(small, lambda answer: answer.update(change))


def test_an_answer_without_the_issuer_that_was_promised_is_refused(small: SmallProvider) -> None:
    with pytest.raises(IdentityRefused, match="another provider"):
        log_in(small, lambda answer: answer.pop("iss"))


def test_the_id_token_must_be_of_this_attempt_and_of_the_context_that_is_demanded(small: SmallProvider) -> None:
    small.nonce = "of another log-in"
    with pytest.raises(IdentityRefused, match="another log-in"):
        log_in(small)
    small.nonce = None
    with pytest.raises(IdentityRefused, match="acr_values"):
        log_in(small, acr_values=("phr",))
    small.claims["acr"] = "phr"
    assert log_in(small, acr_values=("phr",)).user == "alice"


def test_an_attempt_ends_and_belongs_to_one_provider() -> None:
    attempt = Attempt.begin("hospital", 1000.0)
    attempt.check_state(attempt.state, "hospital", 1000.0 + LASTS_S)
    for provider, now_s in (("hospital", 1001.0 + LASTS_S), ("hospital", 900.0), ("other", 1000.0)):
        with pytest.raises(IdentityRefused):
            attempt.check_state(attempt.state, provider, now_s)


@pytest.mark.parametrize("text", ["", "x", "e30", "bnVsbA", "é", "x" * 3000, "W1tbW1tbW1tbW1tb"])
def test_a_cookie_that_is_none_of_ours_is_no_attempt(text: str) -> None:
    with pytest.raises(IdentityRefused):
        Attempt.from_text(text)


def test_two_attempts_share_nothing_and_a_long_place_is_dropped() -> None:
    first, second = Attempt.begin("p", 0.0, "x" * 600), Attempt.begin("p", 0.0, "/study/1.2")
    assert not {first.state, first.nonce, first.verifier} & {second.state, second.nonce, second.verifier}
    assert (first.place, second.place) == ("", "/study/1.2")
    assert min(len(first.state), len(first.nonce), len(first.verifier)) >= 43
