"""Passwords cost little in tests: argon2id as small as it can be, in this process and in those that `template` forks.

As the product has it, a hash takes 20 ms of a core, and a log-in waits for it on purpose. What a hash costs is tested
with `AS_RELEASED` (accounts/test_defences.py); servers with an interpreter of their own, and the wheel's, have it too.
"""

from __future__ import annotations

from argon2 import PasswordHasher

from engine.accounts import passwords

AS_RELEASED = passwords.HASHER
"""What the product uses."""


def install() -> None:
    """For this process and those that it forks."""
    passwords.HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)  # type: ignore[misc]
