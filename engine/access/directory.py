"""Directory: what is known now of the one who asks. `engine.accounts` has the real one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from engine.access.grant import Grant
from engine.access.principal import Kind, Principal

NO_ATTRIBUTES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({})


class Directory(Protocol):
    """Looked up at each decision, so that changes act at once: on open sessions and associations too.

    A look-up must be quick: it happens on the loop.
    """

    def is_valid(self, principal: Principal) -> bool:
        """Whether it may still be who it is: false when its session was revoked, its user locked, its key has expired,
        or when it shows no credential (`session` is "") and a login is needed."""

    def roles_of(self, principal: Principal) -> frozenset[str]:
        """The names of its roles."""

    def actions_of(self, principal: Principal) -> frozenset[str] | None:
        """The titles of the only actions that its credential is for, as an API key's; None: all that it may do."""

    def grants_of(self, principal: Principal) -> tuple[Grant, ...]:
        """The grants to its user, its share and its roles; `Policy` leaves out those that have ended."""

    def attributes_of(self, principal: Principal) -> Mapping[str, tuple[str, ...]]:
        """What "me" stands for in the rules of a role: the values by name (institution, department, referrer …)."""


class NoAccounts:
    """The directory of an archive without accounts: nobody logs in, and `http.allow` decides alone."""

    def is_valid(self, principal: Principal) -> bool:
        return principal.kind is not Kind.HTTP or not principal.session

    def roles_of(self, principal: Principal) -> frozenset[str]:
        return frozenset()

    def actions_of(self, principal: Principal) -> frozenset[str] | None:
        return None

    def grants_of(self, principal: Principal) -> tuple[Grant, ...]:
        return ()

    def attributes_of(self, principal: Principal) -> Mapping[str, tuple[str, ...]]:
        return NO_ATTRIBUTES
