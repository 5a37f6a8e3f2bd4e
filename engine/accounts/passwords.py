"""Passwords: their rules, and argon2id in a few threads of their own.

    check_rules     long enough, not the user's name, and none that everybody tries first (NIST SP 800-63B 3.1.1)
    Passwords       hashes and verifies off the event loop: two at once, QUEUE_MAX waiting, further ones are refused

One hash takes 19 MiB and some 50 ms of a core (RFC 9106 and OWASP: m = 19 MiB, t = 2, p = 1). A user who does not exist
costs the same time as one who does.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from engine.errors import AccountsRefused, LoginLater

Result = TypeVar("Result")

HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
THREADS: Final = 2
QUEUE_MAX: Final = 8
BUSY_S: Final = 2.0
LENGTH_MAX: Final = 1024
"""Characters; a longer password costs memory for nothing."""

_COMMON: Final = (
    "password", "passwort", "123456", "qwert", "azerty", "letmein", "welcome", "willkommen", "iloveyou",
    "administrator", "filmroom", "hospital", "krankenhaus", "radiology", "radiologie", "changeme", "secret", "geheim",
)  # fmt: skip
"""What a password may contain, but not consist of, together with digits and signs."""


def check_rules(password: str, user: str, length_min: int) -> None:
    """Raises AccountsRefused with the reason for a password that is too easy to guess."""
    if len(password) > LENGTH_MAX:
        raise AccountsRefused(f"a password has at most {LENGTH_MAX} characters")
    if len(password) < length_min:
        raise AccountsRefused(f"a password has at least {length_min} characters")
    if len(set(password)) < 5:
        raise AccountsRefused("this password repeats a few characters: everybody can guess it")
    rest = password.casefold()
    for word in (user.casefold(), *_COMMON):
        if len(word) > 2:
            rest = rest.replace(word, "")
    if sum(1 for character in rest if character.isalpha()) < 3 and len(rest) < length_min:
        raise AccountsRefused("this password is among those that everybody tries first")


def hash_of(password: str) -> str:
    """The argon2id hash, with its salt and parameters."""
    return HASHER.hash(_normal(password))


def matches(stored: str, password: str) -> bool:
    """Whether the password has this hash; takes the same time if there is no hash ("")."""
    is_real = bool(stored) and len(password) <= LENGTH_MAX
    try:
        HASHER.verify(stored if is_real else _nobody(), _normal(password[:LENGTH_MAX]))
    except (VerificationError, InvalidHashError):
        return False
    return is_real


def _normal(password: str) -> bytes:
    """One form for the same characters, however a keyboard composes them (RFC 8265)."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


_nobody_hash: list[str] = []


def _nobody() -> str:
    """The hash of a password that nobody has."""
    if not _nobody_hash:
        _nobody_hash.append(HASHER.hash("nobody"))
    return _nobody_hash[0]


class Passwords:
    """The threads of one process."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="passwords")
        self._unfinished = 0

    async def hash_of(self, password: str) -> str:
        """See the function. Raises LoginLater when too many wait."""
        return await self._run(partial(hash_of, password))

    async def matches(self, stored: str, password: str) -> bool:
        """See the function. Raises LoginLater when too many wait."""
        return await self._run(partial(matches, stored, password))

    def close(self) -> None:
        """Accepts no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._unfinished >= THREADS + QUEUE_MAX:
            raise LoginLater("too many people are logging in", BUSY_S)
        self._unfinished += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._finished)
        return await future

    def _finished(self, future: asyncio.Future[Result]) -> None:
        self._unfinished -= 1
