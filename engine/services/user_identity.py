"""The user identity of an A-ASSOCIATE-RQ (PS3.7 D.3.3.7): who uses the peer, and how that is proven.

    type            over TLS                                      without TLS
    1 name          a claim for the audit, from a peer with trust_user_name; else as absent
    2 passcode      the password of a user of this archive        rejected: everybody on the way has read it
    3, 4            as absent                                     as absent
    5 JWT           a token of an identity provider               rejected
    none            rejected where identity = "required"

    proven    the association has its peer's rights and the user's: only what both may do
    wrong     A-ASSOCIATE-RJ, permanent, by the service provider (ACSE)
    asked     a positive response is empty (59H), and is sent only where an identity was accepted

A password costs 50 ms of a core, so it is verified off the loop and remembered for a while: many modalities open an
association for each image. What is remembered is no password: a keyed hash of it, the certificate that it came with,
and the stored hash that it matched, which a new password replaces.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from engine import log
from engine.errors import (
    AccountsError,
    IdentityRefused,
    IdentityUnavailable,
    LoginFailed,
    LoginLater,
    SecondFactorNeeded,
)
from engine.identity.holder import holder_of
from engine.ul.negotiation import AUTHENTICATION_FAILED, TEMPORARY_CONGESTION
from engine.ul.user_information import UserIdentityAC

if TYPE_CHECKING:
    from engine.access import Principal
    from engine.accounts.accounts import Accounts
    from engine.accounts.records import User
    from engine.config import Config
    from engine.identity.providers import Providers
    from engine.ul.negotiation import Accepted
    from engine.ul.pdu import AssociateRJ, AssociateRQ
    from engine.ul.user_information import UserIdentityRQ

logger = log.get("services.user_identity")

TIMEOUT_S: Final = 10.0
"""The longest wait for a verification: an identity provider may not answer. Requestors wait 30 s or so."""

RETRY_S: Final = 5.0

REMEMBERED_S: Final = 300.0
REMEMBERED_MAX: Final = 1024

NAME_BYTES_MAX: Final = 256
PASSCODE_BYTES_MAX: Final = 1024


class IdentityType(IntEnum):
    """PS3.7 Table D.3-14."""

    NAME = 1
    PASSCODE = 2
    KERBEROS = 3
    SAML = 4
    JWT = 5


@dataclass(frozen=True, slots=True)
class Identity:
    """What was accepted of a user identity."""

    user: str = ""
    """The user that was proven; "": none."""
    claim: str = ""
    """The user that a trusted peer claims; "": none."""
    session: str = ""
    until_s: float | None = None
    roles: frozenset[str] = frozenset()
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What a token states; see `access.Principal`."""

    @property
    def is_accepted(self) -> bool:
        """Whether a positive response is due, if the requestor asked for one."""
        return bool(self.user or self.claim)


NOBODY: Final = Identity()


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an association is rejected for its user identity."""

    reason: str
    """For the log."""
    rj: AssociateRJ = AUTHENTICATION_FAILED


VerifyToken = Callable[[str], Awaitable[Identity]]
"""Raises LoginFailed, LoginLater."""


def identity_rules(config: Config, principal: Principal, rq: AssociateRQ) -> tuple[UserIdentityRQ | None, bool, bool]:
    """The user identity that counts, whether one is required, and whether a claimed name is trusted."""
    peer = config.peer(principal.name)
    item = rq.user_information.user_identity_rq
    if peer is None:
        return item, principal.certificate_names is not None and config.tls.identity == "required", False
    if peer.identity == "ignored":
        return None, False, False
    is_required = principal.certificate_names is not None and config.tls.identity == "required"
    return item, is_required or peer.identity == "required", peer.trust_user_name


def as_used_by(principal: Principal, identity: Identity) -> Principal:
    """The peer, used by that user."""
    return replace(
        principal,
        user=identity.user,
        claimed_user=identity.claim,
        session=identity.session,
        until_s=identity.until_s,
        roles=identity.roles,
        attributes=identity.attributes,
    )


def answer_identity(rq: AssociateRQ, accepted: Accepted, identity: Identity) -> Accepted:
    """The answer with a positive response, if one was asked for and is due."""
    item = rq.user_information.user_identity_rq
    if item is None or not (item.positive_response_requested and identity.is_accepted):
        return accepted
    information = replace(accepted.ac.user_information, user_identity_ac=UserIdentityAC())
    return replace(accepted, ac=replace(accepted.ac, user_information=information))


def token_verifier(identities: Providers, accounts: Accounts) -> VerifyToken:
    """Verifies tokens of identity providers as the HTTP port does."""

    async def verify(token: str) -> Identity:
        try:
            person = await identities.person_of(token)
            holder = holder_of(token, person, accounts.directory)
        except IdentityRefused as error:
            raise LoginFailed(str(error)) from error
        except IdentityUnavailable as error:
            raise LoginLater(str(error), RETRY_S) from error
        return Identity(
            holder.user,
            session=holder.session,
            until_s=holder.until_s,
            roles=holder.roles,
            attributes=holder.attributes,
        )

    return verify


class UserIdentities:
    """Verifies user identities, for all associations of one process."""

    def __init__(
        self,
        accounts: Accounts,
        clock_s: Callable[[], float],
        verify_token: VerifyToken | None = None,
        accepts_tokens: Callable[[], bool] = lambda: True,
    ) -> None:
        """`verify_token`: None: there are no identity providers. `accepts_tokens`: whether any of theirs count now."""
        self._accounts = accounts
        self._clock_s = clock_s
        self._verify_token = verify_token
        self._accepts_tokens = accepts_tokens
        self._key = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes, tuple[str, str, float]] = OrderedDict()
        """Keyed hash → user, stored hash, and until when it counts."""
        self._verifications: dict[bytes, asyncio.Task[Identity]] = {}
        """Those in progress, by keyed hash."""

    def judge(
        self, item: UserIdentityRQ | None, principal: Principal, *, is_required: bool, trusts_names: bool
    ) -> Identity | Rejection | None:
        """What can be said at once; None: `prove` finds it out."""
        kind = 0 if item is None else item.identity_type
        if item is not None and kind in (IdentityType.PASSCODE, IdentityType.JWT):
            if principal.certificate_names is None:
                what = "a passcode" if kind == IdentityType.PASSCODE else "a token"
                return Rejection(f"{what} without TLS: use the TLS port, or switch it off at the device")
            if kind == IdentityType.PASSCODE:
                return self._remembered_user(item, principal)
            if self._verify_token is not None and self._accepts_tokens():
                return None
        if is_required:
            return Rejection("no user identity that proves a user: a passcode or a token is needed")
        if item is not None and kind == IdentityType.NAME and trusts_names:
            return Identity(claim=_name(item.primary_field))
        return NOBODY

    async def prove(self, item: UserIdentityRQ, principal: Principal) -> Identity | Rejection:
        """Verifies a passcode or a token."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if item.identity_type == IdentityType.PASSCODE:
                    return await self._log_in(item, principal)
                assert self._verify_token is not None
                return await self._verify_token(item.primary_field.decode("ascii", "replace"))
        except LoginFailed as error:
            return Rejection(str(error))
        except (LoginLater, AccountsError) as error:
            return Rejection(str(error), TEMPORARY_CONGESTION)
        except TimeoutError:
            return Rejection("the user identity could not be verified in time", TEMPORARY_CONGESTION)

    # -- passcodes --------------------------------------------------------------------------------

    async def _log_in(self, item: UserIdentityRQ, principal: Principal) -> Identity:
        """Verifies a passcode once for all associations that bring it at the same time."""
        key = self._hash(item, principal)
        task = self._verifications.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._verify(item, principal, key))
            self._verifications[key] = task
            task.add_done_callback(lambda task: self._verified(key, task))
        return await asyncio.shield(task)

    async def _verify(self, item: UserIdentityRQ, principal: Principal, key: bytes) -> Identity:
        name, passcode = _name(item.primary_field), _text(item.secondary_field, PASSCODE_BYTES_MAX)
        if not name or not passcode:
            raise LoginFailed("a user name or passcode that is empty, too long or not in UTF-8")
        try:
            user = await self._accounts.log_in(name, passcode, address=principal.address)
        except SecondFactorNeeded as error:
            raise LoginFailed("this user has a second factor, which a user identity cannot carry") from error
        if user.must_change_password:
            raise LoginFailed("the password must be changed first")
        self._remembered[key] = (user.name, user.password, self._clock_s() + REMEMBERED_S)
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return Identity(user.name)

    def _verified(self, key: bytes, task: asyncio.Task[Identity]) -> None:
        del self._verifications[key]
        if not task.cancelled():
            task.exception()  # all who waited may be gone

    def _remembered_user(self, item: UserIdentityRQ, principal: Principal) -> Identity | None:
        key = self._hash(item, principal)
        name, password, until_s = self._remembered.get(key, ("", "", 0.0))
        user = self._accounts.directory.user(name) if self._clock_s() < until_s else None
        if user is None or user.password != password or not _is_usable(user):
            self._remembered.pop(key, None)
            return None
        return Identity(user.name)

    def _hash(self, item: UserIdentityRQ, principal: Principal) -> bytes:
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        certificate = "\n".join(sorted(principal.certificate_names or ()))
        # Without a certificate the address stands for the peer.
        for part in (certificate or principal.address, item.primary_field, item.secondary_field):
            data = part.encode() if isinstance(part, str) else part
            digest.update(len(data).to_bytes(4, "big") + data)
        return digest.digest()


def _is_usable(user: User) -> bool:
    """Whether a passcode alone opens this account."""
    return not (user.is_disabled or user.must_change_password or user.has_second_factor)


def _name(field: bytes) -> str:
    return _text(field, NAME_BYTES_MAX).strip()


def _text(field: bytes, bytes_max: int) -> str:
    """A field as text, without the padding of some senders; "" if it is none."""
    try:
        return field.rstrip(b"\0").decode() if len(field) <= bytes_max else ""
    except UnicodeDecodeError:
        return ""
