"""What the accounts know now: who a token belongs to, and what `engine.access` asks of a principal.

Look-ups are kept until any process commits a change (`Database.version`), so that most cost a look into a dictionary,
and a change acts at the next question.

    Principal.session   s-ID    a session of a user
                        t-…     a front end has verified a token by itself, whose roles and patient count; its user may
                                exist here or not
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING, Final

from engine.access import Kind
from engine.access.launch import grants_of_launch
from engine.accounts import tokens, users

if TYPE_CHECKING:
    from engine.access import Grant, Principal
    from engine.accounts.database import Database
    from engine.accounts.records import Session, User
    from engine.config import Config

CACHE_MAX: Final = 4096
"""Rows that are kept; what strangers ask for must not fill the memory."""

SESSION: Final = "s-"
TOKEN: Final = "t-"


@dataclass(frozen=True, slots=True)
class Proof:
    """A credential that was valid when it was looked up."""

    user: User
    digest: bytes
    """The key of its row."""
    session: Session

    @property
    def identifier(self) -> str:
        """As in `Principal.session`."""
        return SESSION + tokens.id_of(self.digest)


class AccountDirectory:
    """The `access.Directory` of one process. Used on the loop's thread."""

    def __init__(self, database: Database | None, config: Callable[[], Config]) -> None:
        """`database`: None if the archive has no accounts. `config`: returns the current configuration."""
        self._database = database
        self._config = config
        self._version = -1
        self._has_users = False
        self._users: dict[str, User | None] = {}
        self._by_digest: dict[bytes, Proof | None] = {}
        self._by_identifier: dict[str, Proof | None] = {}
        self._used: dict[bytes, float] = {}
        """When sessions were used in this process, as long as the database has an earlier time."""

    # -- `access.Directory` -----------------------------------------------------------------------

    def is_valid(self, principal: Principal) -> bool:
        """Whether its credential holds; without one, whether none is needed."""
        if principal.session.startswith(SESSION):
            proof = self._proof(principal.session)
            return proof is not None and self.is_alive(proof)
        if name := _name_of(principal):
            user = self.user(name)
            return not user.is_disabled if user is not None else bool(principal.session)
        return principal.kind is not Kind.HTTP or not self.is_login_needed

    def roles_of(self, principal: Principal) -> frozenset[str]:
        """The roles of its user; of a token those that it states."""
        user = None if principal.session.startswith(TOKEN) else self.user(_name_of(principal))
        return principal.roles if user is None else frozenset(user.roles)

    def grants_of(self, principal: Principal) -> tuple[Grant, ...]:
        """The grants to its user and to its roles; of a SMART token that to its patient alone."""
        if (launched := grants_of_launch(principal)) is not None:
            return launched
        return ()

    def attributes_of(self, principal: Principal) -> Mapping[str, tuple[str, ...]]:
        """Those of its user, and what its token states."""
        user = self.user(_name_of(principal))
        return principal.attributes if user is None else {**principal.attributes, **user.attributes}

    # -- look-ups ---------------------------------------------------------------------------------

    @property
    def is_login_needed(self) -> bool:
        """Whether clients of the HTTP port must log in."""
        config = self._config()
        login = config.http.login
        return login == "required" or (login == "auto" and (self.has_users or bool(config.oidc)))

    @property
    def has_users(self) -> bool:
        """Whether there is any user."""
        self._look()
        return self._has_users

    def user(self, name: str) -> User | None:
        """The user with this name, disabled or not."""
        self._look()
        if name not in self._users:
            self._users[name] = self._read_user(users.key_of(name))
        return self._users[name]

    def session(self, token: str) -> Proof | None:
        """The session of a token; None: there is none, it has ended, or its user is disabled."""
        self._look()
        if len(token) > tokens.TOKEN_LENGTH_MAX:
            return None
        digest = tokens.digest_of(token)
        if digest not in self._by_digest:
            self._by_digest[digest] = self._read_session(digest)
        proof = self._by_digest[digest]
        return proof if proof is not None and self.is_alive(proof) else None

    def is_alive(self, proof: Proof) -> bool:
        """Whether a session has not ended by itself."""
        now, used = time(), max(proof.session.used, self._used.get(proof.digest, 0.0))
        return now < proof.session.until and now < used + self._config().accounts.session_idle_s

    def note_use(self, proof: Proof, now: float, after_s: float) -> bool:
        """Notes that a session is used; returns whether its last known use is at least `after_s` ago."""
        if now - max(proof.session.used, self._used.get(proof.digest, 0.0)) < after_s:
            return False
        if len(self._used) >= CACHE_MAX:
            self._used.clear()
        self._used[proof.digest] = now
        return True

    # -- inside -----------------------------------------------------------------------------------

    def _look(self) -> None:
        """Forgets what was looked up if anything has changed since."""
        if self._database is None:
            return
        version = self._database.version
        if version == self._version and len(self._users) + len(self._by_digest) < CACHE_MAX:
            return
        self._users.clear()
        self._by_digest.clear()
        self._by_identifier.clear()
        with self._database.read() as txn:
            self._has_users = self._database.users.count(txn) > 0
        self._version = version

    def _proof(self, identifier: str) -> Proof | None:
        self._look()
        if identifier not in self._by_identifier:
            self._by_identifier[identifier] = self._find_session(identifier.removeprefix(SESSION))
        return self._by_identifier[identifier]

    def _find_session(self, identifier: str) -> Proof | None:
        prefix = tokens.prefix_of(identifier)
        if self._database is None or prefix is None:
            return None
        with self._database.read() as txn:
            digest = next((digest for digest, _ in self._database.sessions.rows(txn, prefix)), None)
        return None if digest is None else self._read_session(digest)

    def _read_user(self, key: str) -> User | None:
        if self._database is None:
            return None
        with self._database.read() as txn:
            return self._database.users.get(txn, users.row_of(key))

    def _read_session(self, digest: bytes) -> Proof | None:
        if self._database is None:
            return None
        with self._database.read() as txn:
            session = self._database.sessions.get(txn, digest)
            user = None if session is None else self._database.users.get(txn, users.row_of(session.user))
        if session is None or user is None or user.is_disabled:
            return None
        return Proof(user, digest, session)


def _name_of(principal: Principal) -> str:
    """The name of its user; "": it is none."""
    return principal.name if principal.kind is Kind.HTTP else principal.user
