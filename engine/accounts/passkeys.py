"""Passkeys (WebAuthn): the browser's device signs a challenge, for this host name only, so that nothing can be phished.

    options     a challenge and a ticket: the challenge and its end, signed, so that nothing is stored for strangers
    register    the device's public key becomes one of the user's passkeys
    log in      a signature of a device over the challenge proves its user; the ticket is then used up

The device asks for its PIN or a finger (user verification), so that a passkey is two factors.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from hashlib import sha256
from time import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from engine.accounts import users
from engine.accounts.records import Passkey, Used, User
from engine.errors import AccountsRefused, LoginFailed

if TYPE_CHECKING:
    from engine.accounts.database import Database

LASTS_S: Final = 300.0
PASSKEYS_MAX: Final = 20
NAME_LENGTH_MAX: Final = 100
_WRONG: Final = "this passkey is not known here"


def new_ticket(database: Database, purpose: str) -> tuple[bytes, str]:
    """A challenge, and the ticket that must come back with its answer."""
    challenge = secrets.token_bytes(32)
    body = msgspec.json.encode([purpose, base64.b64encode(challenge).decode(), time() + LASTS_S])
    signature = hmac.new(database.secret, body, sha256).digest()
    return challenge, base64.urlsafe_b64encode(signature + body).decode()


def challenge_of(database: Database, ticket: str, purpose: str) -> bytes:
    """The challenge of a ticket. Raises AccountsRefused for one that is not ours, for something else, or too old."""
    try:
        raw = base64.urlsafe_b64decode(ticket.encode("ascii"))
        signature, body = raw[:32], raw[32:]
        if not hmac.compare_digest(signature, hmac.new(database.secret, body, sha256).digest()):
            raise ValueError
        for_what, challenge, until = msgspec.json.decode(body, type=tuple[str, str, float])
        if for_what != purpose or until <= time():
            raise ValueError
        return base64.b64decode(challenge)
    except ValueError:  # msgspec's and binascii's errors too
        raise AccountsRefused("this took too long: try again") from None


def creation_options(database: Database, user: User, host: str) -> tuple[dict[str, Any], str]:
    """What the browser needs to make a passkey, and the ticket."""
    from webauthn import generate_registration_options, options_to_json
    from webauthn.helpers.structs import (
        AuthenticatorSelectionCriteria,
        PublicKeyCredentialDescriptor,
        ResidentKeyRequirement,
        UserVerificationRequirement,
    )

    challenge, ticket = new_ticket(database, f"make:{users.key_of(user.name)}")
    options = generate_registration_options(
        rp_id=host,
        rp_name="Filmroom",
        user_id=_handle(database, user.name),
        user_name=user.name,
        user_display_name=user.full_name or user.name,
        challenge=challenge,
        exclude_credentials=[PublicKeyCredentialDescriptor(id=each.id) for each in user.passkeys],
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
        ),
    )
    return json.loads(options_to_json(options)), ticket


def add(
    database: Database, user: User, credential: dict[str, Any], ticket: str, name: str, *, host: str, origin: str
) -> Passkey:
    """Adds the passkey that the browser has made. Raises AccountsRefused."""
    from webauthn import verify_registration_response
    from webauthn.helpers.exceptions import WebAuthnException

    challenge = challenge_of(database, ticket, f"make:{users.key_of(user.name)}")
    try:
        verified = verify_registration_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=host,
            expected_origin=origin,
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise AccountsRefused(f"this passkey cannot be verified: {error}") from None
    if not (name.isprintable() and len(name) <= NAME_LENGTH_MAX):
        raise AccountsRefused(f"a passkey has a name of up to {NAME_LENGTH_MAX} printable characters")
    passkey = Passkey(
        id=verified.credential_id,
        public_key=verified.credential_public_key,
        sign_count=verified.sign_count,
        name=name or "passkey",
        created=time(),
    )
    with database.write() as txn:
        current = users.of(database, txn, user.name)
        if len(current.passkeys) >= PASSKEYS_MAX:
            raise AccountsRefused(f"this user has {PASSKEYS_MAX} passkeys already")
        if any(each.id == passkey.id for _, other in database.users.rows(txn) for each in other.passkeys):
            raise AccountsRefused("this passkey belongs to a user already")
        changed = replace(current, passkeys=(*current.passkeys, passkey))
        database.users.put(txn, users.row_of(users.key_of(user.name)), changed)
    return passkey


def request_options(database: Database, host: str) -> tuple[dict[str, Any], str]:
    """What the browser needs to show the passkeys that it has for us, and the ticket."""
    from webauthn import generate_authentication_options, options_to_json
    from webauthn.helpers.structs import UserVerificationRequirement

    challenge, ticket = new_ticket(database, "log in")
    options = generate_authentication_options(
        rp_id=host, challenge=challenge, user_verification=UserVerificationRequirement.REQUIRED
    )
    return json.loads(options_to_json(options)), ticket


def log_in(database: Database, credential: dict[str, Any], ticket: str, *, host: str, origin: str) -> User:
    """The user whose passkey has signed the challenge. Raises LoginFailed, AccountsRefused."""
    from webauthn import verify_authentication_response
    from webauthn.helpers import base64url_to_bytes
    from webauthn.helpers.exceptions import WebAuthnException

    challenge = challenge_of(database, ticket, "log in")
    with database.write() as txn:
        try:
            identifier = base64url_to_bytes(credential["id"])
        except (KeyError, ValueError, TypeError, AttributeError):
            raise LoginFailed(_WRONG) from None
        owner = next(
            (
                (user, passkey)
                for _, user in database.users.rows(txn)
                for passkey in user.passkeys
                if passkey.id == identifier
            ),
            None,
        )
        if owner is None or owner[0].is_disabled:
            raise LoginFailed(_WRONG)
        user, passkey = owner
        try:
            verified = verify_authentication_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=host,
                expected_origin=origin,
                credential_public_key=passkey.public_key,
                credential_current_sign_count=passkey.sign_count,
                require_user_verification=True,
            )
        except (WebAuthnException, ValueError, KeyError, TypeError):
            raise LoginFailed(_WRONG) from None
        _use_up(database, txn, challenge)
        current = replace(passkey, sign_count=verified.new_sign_count)
        passkeys = tuple(current if each.id == passkey.id else each for each in user.passkeys)
        user = replace(user, passkeys=passkeys)
        database.users.put(txn, users.row_of(users.key_of(user.name)), user)
    return user


def remove(database: Database, name: str, identifier: str) -> bool:
    """Removes the passkey whose id in hexadecimal begins so; returns whether there was one."""
    with database.write() as txn:
        user = users.of(database, txn, name)
        kept = tuple(each for each in user.passkeys if id_of(each) != identifier)
        if len(kept) == len(user.passkeys):
            return False
        database.users.put(txn, users.row_of(users.key_of(name)), replace(user, passkeys=kept))
    return True


def id_of(passkey: Passkey) -> str:
    """Its public name in lists."""
    return sha256(passkey.id).hexdigest()[:24]


def _use_up(database: Database, txn: Any, challenge: bytes) -> None:
    now = time()
    key = sha256(b"passkey" + challenge).digest()
    if database.used.get(txn, key) is not None:
        raise LoginFailed(_WRONG)
    for old in [key for key, used in database.used.rows(txn) if used.until <= now]:
        database.used.delete(txn, old)
    database.used.put(txn, key, Used(until=now + LASTS_S))


def _handle(database: Database, name: str) -> bytes:
    """The user as devices know it: tells nothing to who finds the device."""
    return hmac.new(database.secret, b"user" + users.key_of(name).encode(), sha256).digest()
