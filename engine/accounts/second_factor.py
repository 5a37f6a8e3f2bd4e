"""Codes beside the password: of an authenticator (TOTP, RFC 6238), or for once when it is lost.

A code counts once: the time step of the last one is stored, in the transaction that accepts it.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256
from typing import Final

import pyotp
from msgspec.structs import replace

from engine.accounts import users
from engine.accounts.database import Database
from engine.accounts.records import User

STEP_S: Final = 30
STEPS_ASIDE: Final = 1
"""A clock may be so many steps wrong."""
RECOVERY_CODES: Final = 10
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
"""Without letters that look like digits."""


def new_secret() -> str:
    """A secret for an authenticator."""
    return pyotp.random_base32()


def address_of(secret: str, user: str, issuer: str) -> str:
    """What an authenticator reads, as a QR code for example: otpauth://…"""
    return pyotp.TOTP(secret).provisioning_uri(name=user, issuer_name=issuer)


def step_of(secret: str, code: str, after: int, now: float) -> int | None:
    """The time step of a code that is valid now and later than `after`; None: it is not valid."""
    digits = code.replace(" ", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) == 6):
        return None
    current = int(now) // STEP_S
    totp = pyotp.TOTP(secret)
    for step in range(current - STEPS_ASIDE, current + STEPS_ASIDE + 1):
        if step > after and hmac.compare_digest(totp.at(step * STEP_S), digits):
            return step
    return None


def accept(database: Database, user: User, code: str, now: float) -> bool:
    """Whether the code is right; from then on it is not any more."""
    with database.write() as txn:
        current = users.of(database, txn, user.name)
        step = step_of(current.totp_secret, code, current.totp_used, now) if current.totp_secret else None
        if step is not None:
            changed = replace(current, totp_used=step)
        elif (digest := recovery_digest(code)) in current.recovery_codes:
            changed = replace(current, recovery_codes=tuple(each for each in current.recovery_codes if each != digest))
        else:
            return False
        database.users.put(txn, users.row_of(users.key_of(user.name)), changed)
    return True


def new_recovery_codes() -> list[str]:
    """Codes that each work once."""
    return [
        "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(3)) for _ in range(RECOVERY_CODES)
    ]


def recovery_digest(code: str) -> str:
    """As it is stored. The codes are random, so that a plain digest tells nothing."""
    return sha256("".join(code.lower().replace("-", "").split()).encode("utf-8", "replace")).hexdigest()
