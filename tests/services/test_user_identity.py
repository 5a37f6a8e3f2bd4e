"""services.user_identity: what is taken for a proof, what is remembered of it, and what never is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from engine.access import Kind, Principal
from engine.config import Config, Peer, Tls
from engine.errors import AccountsError, LoginFailed, LoginLater, SecondFactorNeeded
from engine.services import user_identity
from engine.services.user_identity import NOBODY, Identity, IdentityType, Rejection, UserIdentities, identity_rules
from engine.ul.negotiation import AUTHENTICATION_FAILED, TEMPORARY_CONGESTION
from engine.ul.pdu import AssociateRQ, UserInformation
from engine.ul.user_information import UserIdentityRQ

TLS = Principal(Kind.PEER, "CT1", "10.0.0.1", certificate_names=frozenset({"san:ct1.hosp"}))
PLAIN = replace(TLS, certificate_names=None)


@dataclass(frozen=True)
class User:
    name: str = "anna"
    password: str = "$argon2id$1"
    is_disabled: bool = False
    must_change_password: bool = False
    has_second_factor: bool = False


@dataclass
class Accounts:
    """One user, whose password is "right"; counts the verifications."""

    anna: User | None = field(default_factory=User)
    verifications: int = 0
    error: Exception | None = None
    wait: Callable[[], Awaitable[None]] | None = None

    @property
    def directory(self) -> Accounts:
        return self

    def user(self, name: str) -> User | None:
        return self.anna if name == "anna" else None

    async def log_in(self, name: str, password: str, *, address: str) -> User:
        assert address
        self.verifications += 1
        if self.wait is not None:
            await self.wait()
        if self.error is not None:
            raise self.error
        user = self.user(name)
        if user is None or user.is_disabled or password != "right":
            raise LoginFailed("wrong")
        if user.has_second_factor:
            raise SecondFactorNeeded("a code")
        return user


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def item(kind: int, primary: bytes = b"anna", secondary: bytes = b"", *, asks: bool = False) -> UserIdentityRQ:
    return UserIdentityRQ(kind, asks, primary, secondary)


def passcode(word: bytes = b"right", name: bytes = b"anna") -> UserIdentityRQ:
    return item(IdentityType.PASSCODE, name, word)


def result(
    identities: UserIdentities,
    sent: UserIdentityRQ | None,
    principal: Principal = TLS,
    *,
    is_required: bool = False,
    trusts_names: bool = False,
) -> Identity | Rejection:
    """What becomes of a user identity, with its verification."""
    at_once = identities.judge(sent, principal, is_required=is_required, trusts_names=trusts_names)
    if at_once is not None or sent is None:
        assert at_once is not None
        return at_once
    return asyncio.run(identities.prove(sent, principal))


def rj(outcome: Identity | Rejection) -> object:
    assert isinstance(outcome, Rejection), outcome
    return outcome.rj


async def token(text: str) -> Identity:
    if text != "a.good.token":
        raise LoginFailed("the token is not valid")
    return Identity("otto", session="t-1", roles=frozenset({"radiologist"}))


@pytest.mark.parametrize(
    "sent",
    [None, item(IdentityType.NAME), item(IdentityType.KERBEROS), item(IdentityType.SAML), item(9), item(0)],
)
def test_what_proves_nothing_is_as_absent_and_not_enough_where_a_proof_is_required(sent: UserIdentityRQ | None) -> None:
    identities = UserIdentities(Accounts(), Clock())
    for principal in (TLS, PLAIN):
        assert result(identities, sent, principal) == NOBODY
        assert rj(result(identities, sent, principal, is_required=True)) == AUTHENTICATION_FAILED


def test_a_name_is_a_claim_of_a_trusted_peer_and_no_proof() -> None:
    identities = UserIdentities(Accounts(), Clock())
    claim = result(identities, item(IdentityType.NAME, b"anna \0"), PLAIN, trusts_names=True)
    assert claim == Identity(claim="anna") and claim.is_accepted
    required = result(identities, item(IdentityType.NAME), TLS, is_required=True, trusts_names=True)
    assert rj(required) == AUTHENTICATION_FAILED
    for bad in (b"\xff\xfe", b"x" * 257, b""):
        assert result(identities, item(IdentityType.NAME, bad), TLS, trusts_names=True) == NOBODY


def test_a_passcode_proves_a_user_over_tls() -> None:
    assert result(UserIdentities(Accounts(), Clock()), passcode()) == Identity("anna")


@pytest.mark.parametrize(
    "sent",
    [
        passcode(b"wrong"),
        passcode(name=b"nobody"),
        passcode(b""),
        passcode(name=b""),
        passcode(b"\xff"),
        passcode(b"x" * 65535),
        passcode(name=b"x" * 65535),
    ],
)
def test_a_wrong_passcode_is_rejected_for_good_and_the_reason_tells_nothing_of_it(sent: UserIdentityRQ) -> None:
    outcome = result(UserIdentities(Accounts(), Clock()), sent)
    assert rj(outcome) == AUTHENTICATION_FAILED
    assert "wrong" not in repr(sent) and "right" not in str(outcome)


@pytest.mark.parametrize("kind", [IdentityType.PASSCODE, IdentityType.JWT])
def test_a_secret_that_came_without_tls_is_rejected_even_if_it_is_right(kind: IdentityType) -> None:
    accounts = Accounts()
    identities = UserIdentities(accounts, Clock(), token)
    assert isinstance(result(identities, passcode()), Identity)  # and remembered
    sent = passcode() if kind == IdentityType.PASSCODE else item(kind, b"a.good.token")
    outcome = result(identities, sent, PLAIN)
    assert rj(outcome) == AUTHENTICATION_FAILED and accounts.verifications == 1


def test_a_user_with_a_second_factor_cannot_use_a_passcode_alone() -> None:
    identities = UserIdentities(Accounts(User(has_second_factor=True)), Clock())
    assert rj(result(identities, passcode())) == AUTHENTICATION_FAILED


def test_a_token_proves_a_user_where_a_provider_is_configured() -> None:
    identities = UserIdentities(Accounts(), Clock(), token)
    outcome = result(identities, item(IdentityType.JWT, b"a.good.token"))
    assert outcome == Identity("otto", session="t-1", roles=frozenset({"radiologist"}))
    assert rj(result(identities, item(IdentityType.JWT, b"a.bad.token"))) == AUTHENTICATION_FAILED
    assert rj(result(identities, item(IdentityType.JWT, b"\xff\xfe"))) == AUTHENTICATION_FAILED


def test_a_token_without_a_provider_is_as_absent() -> None:
    identities = UserIdentities(Accounts(), Clock())
    assert result(identities, item(IdentityType.JWT, b"a.good.token")) == NOBODY
    assert isinstance(result(identities, item(IdentityType.JWT, b"a.good.token"), is_required=True), Rejection)


# What is remembered ------------------------------------------------------------------------------


def test_a_passcode_is_verified_once_for_a_certificate_and_for_a_while() -> None:
    accounts, clock = Accounts(), Clock()
    identities = UserIdentities(accounts, clock)
    for _ in range(5):
        assert result(identities, passcode()) == Identity("anna")
    assert accounts.verifications == 1
    other = replace(TLS, certificate_names=frozenset({"san:ct2.hosp"}))
    assert result(identities, passcode(), other) == Identity("anna")
    assert accounts.verifications == 2
    clock.now_s += user_identity.REMEMBERED_S + 1
    assert result(identities, passcode()) == Identity("anna")
    assert accounts.verifications == 3


def test_without_certificates_the_address_stands_for_the_peer() -> None:
    accounts = Accounts()
    identities = UserIdentities(accounts, Clock())
    shown_none = replace(TLS, certificate_names=frozenset())
    for principal in (shown_none, shown_none, replace(shown_none, address="10.0.0.2")):
        assert result(identities, passcode(), principal) == Identity("anna")
    assert accounts.verifications == 2


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"password": "$argon2id$2"}, id="another password"),
        pytest.param({"is_disabled": True}, id="disabled"),
        pytest.param({"has_second_factor": True}, id="a second factor"),
        pytest.param({"must_change_password": True}, id="must be changed"),
        pytest.param(None, id="removed"),
    ],
)
def test_what_is_remembered_ends_with_a_change_of_the_user(changes: dict[str, object] | None) -> None:
    accounts = Accounts()
    identities = UserIdentities(accounts, Clock())
    assert result(identities, passcode()) == Identity("anna")
    accounts.anna = None if changes is None else replace(User(), **changes)  # type: ignore[arg-type]
    result(identities, passcode())
    assert accounts.verifications == 2
    if changes is None or "password" not in changes:
        assert isinstance(result(identities, passcode()), Rejection)


def test_a_wrong_passcode_is_not_remembered_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_identity, "REMEMBERED_MAX", 4)
    accounts = Accounts()
    identities = UserIdentities(accounts, Clock())
    for _ in range(3):
        assert isinstance(result(identities, passcode(b"wrong")), Rejection)
    assert accounts.verifications == 3 and not identities._remembered
    for number in range(10):
        result(identities, passcode(), replace(TLS, certificate_names=frozenset({f"san:ct{number}.hosp"})))
    assert len(identities._remembered) == 4
    assert b"right" not in repr(identities._remembered).encode()


def test_lengths_cannot_be_shifted_between_the_fields_that_are_remembered() -> None:
    identities = UserIdentities(Accounts(), Clock())
    assert result(identities, passcode()) == Identity("anna")
    assert isinstance(result(identities, passcode(b"aright", name=b"ann")), Rejection)


def test_associations_at_the_same_time_share_one_verification() -> None:
    """Otherwise a gateway with ten associations would look like somebody who guesses."""
    accounts = Accounts()
    identities = UserIdentities(accounts, Clock())

    async def several(sent: UserIdentityRQ) -> list[Identity | Rejection]:
        waiting, have_all_come = iter(range(9, -1, -1)), asyncio.Event()

        async def one() -> Identity | Rejection:
            if not next(waiting):
                have_all_come.set()
            return await identities.prove(sent, TLS)

        async def until_all_have_come() -> None:
            await have_all_come.wait()

        accounts.wait = until_all_have_come
        return list(await asyncio.gather(*(one() for _ in range(10))))

    assert asyncio.run(several(passcode())) == [Identity("anna")] * 10
    assert accounts.verifications == 1
    assert {rj(each) for each in asyncio.run(several(passcode(b"wrong")))} == {AUTHENTICATION_FAILED}
    assert accounts.verifications == 2 and not identities._verifications


@pytest.mark.unjittered("the loop begins tasks in their order")
def test_who_leaves_during_a_verification_ends_it_for_nobody_else() -> None:
    accounts, identities = _held_accounts()

    async def scene() -> Identity | Rejection:
        leaver = asyncio.ensure_future(identities.prove(passcode(), TLS))
        await asyncio.sleep(0)
        other = asyncio.ensure_future(identities.prove(passcode(), TLS))
        await asyncio.sleep(0)
        leaver.cancel()
        await asyncio.wait([leaver])
        accounts.gate.set()
        return await other

    assert asyncio.run(scene()) == Identity("anna")
    assert accounts.verifications == 1


class _HeldAccounts(Accounts):
    """Verifies when its gate opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        super().__init__(wait=self._pass)

    async def _pass(self) -> None:
        await self.gate.wait()


def _held_accounts() -> tuple[_HeldAccounts, UserIdentities]:
    accounts = _HeldAccounts()
    return accounts, UserIdentities(accounts, Clock())


# What cannot be verified now ---------------------------------------------------------------------


def test_too_many_at_once_are_rejected_for_the_moment() -> None:
    for error in (LoginLater("too many", 2.0), AccountsError("the database cannot be read")):
        assert rj(result(UserIdentities(Accounts(error=error), Clock()), passcode())) == TEMPORARY_CONGESTION


def test_a_verification_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_identity, "TIMEOUT_S", 0.01)

    async def never() -> None:
        await asyncio.Event().wait()

    assert rj(result(UserIdentities(Accounts(wait=never), Clock()), passcode())) == TEMPORARY_CONGESTION


# Rules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "listener", "principal", "rules"),
    [
        (None, "optional", TLS, (True, False, False)),
        (None, "required", TLS, (True, True, False)),
        (None, "required", PLAIN, (True, False, False)),
        (Peer(aet="CT1"), "required", TLS, (True, True, False)),
        (Peer(aet="CT1", tls="required", identity="required"), "optional", TLS, (True, True, False)),
        (Peer(aet="CT1", identity="ignored"), "required", TLS, (False, False, False)),
        (Peer(aet="CT1", trust_user_name=True), "optional", PLAIN, (True, False, True)),
    ],
)
def test_the_peer_and_the_listener_say_what_is_required(
    peer: Peer | None, listener: str, principal: Principal, rules: tuple[bool, bool, bool]
) -> None:
    config = Config(peers=() if peer is None else (peer,), tls=Tls(identity=listener))  # type: ignore[arg-type]
    rq = AssociateRQ("PACS", "CT1", (), UserInformation(user_identity_rq=passcode()))
    counts, is_required, trusts_names = identity_rules(config, principal, rq)
    assert (counts is not None, is_required, trusts_names) == rules


def test_a_proof_can_be_required_of_a_peer_over_tls_only() -> None:
    with pytest.raises(ValueError, match="over TLS only"):
        Peer(aet="CT1", identity="required")
