"""One log-in under way: what was sent with the browser to the provider, and must come back from it.

    state       ties the answer to the browser that asked (RFC 6749 10.12)
    nonce       ties the ID token to this attempt (OpenID Connect Core 3.1.2.1)
    verifier    ties the code to us: only its digest goes through the browser's address (PKCE, RFC 7636, S256)

All of it is kept in a cookie of that browser, HttpOnly and for ten minutes, so that strangers cannot fill a table of
attempts, and any worker can go on. A code is worth nothing without the cookie, and the cookie nothing without a code.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Final

import msgspec

from engine.errors import IdentityRefused

LASTS_S: Final = 600
TEXT_LENGTH_MAX: Final = 2048
PLACE_LENGTH_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class Attempt:
    """The secrets of one log-in."""

    provider: str
    state: str
    nonce: str
    verifier: str
    begun_s: float
    place: str = ""
    """Where on the page the user was: what stood behind #."""

    @classmethod
    def begin(cls, provider: str, now_s: float, place: str = "") -> Attempt:
        """A new one, of random secrets."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(provider, state, nonce, verifier, now_s, place if len(place) <= PLACE_LENGTH_MAX else "")

    @property
    def challenge(self) -> str:
        """The digest of the verifier, for the provider."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def check_state(self, state: str, provider: str, now_s: float) -> None:
        """Raises IdentityRefused unless an answer with this state belongs to the attempt."""
        if provider != self.provider or not hmac.compare_digest(state.encode(), self.state.encode()):
            raise IdentityRefused("this log-in was not begun in this browser")
        if not self.begun_s <= now_s + 60 <= self.begun_s + 60 + LASTS_S:
            raise IdentityRefused("the log-in took too long; begin again")

    def to_text(self) -> str:
        """For the cookie."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()

    @classmethod
    def from_text(cls, text: str) -> Attempt:
        """What `to_text` wrote. Raises IdentityRefused for anything else."""
        try:
            if not 0 < len(text) <= TEXT_LENGTH_MAX:
                raise ValueError
            return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=cls)
        except (ValueError, binascii.Error, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise IdentityRefused("no log-in was begun in this browser") from error
