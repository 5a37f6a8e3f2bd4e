"""What the accounts know now: whom a token belongs to, and what `engine.access` asks of a principal.

Look-ups are kept until any process commits a change (`Database.version`), so that most cost a look into a dictionary,
and a change acts at the next question.

    Principal.session   s-ID    a session of a user, or of a visitor with a share
                        k-ID    an API key
                        c-…     a client certificate that stands for a user
                        t-…     a front end has verified a token by itself, whose roles and patient count; its user may
                                exist here or not
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from engine.access import Holder, Kind
from engine.access.launch import grants_of_launch
from engine.accounts import grants, keys, shares, tokens, users
from engine.accounts.proof import KEY, SESSION, Proof

if TYPE_CHECKING:
    from engine.access import Grant, Principal
    from engine.accounts.database import Database, Transaction
    from engine.accounts.records import User
    from engine.config import Config

CACHE_MAX: Final = 4096
"""Rows that are kept; what strangers ask for must not fill the memory."""

TOKEN: Final = "t-"
CERTIFICATE: Final = "c-"
NOTHING: Final[frozenset[str]] = frozenset()


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
        self._by_certificate: dict[frozenset[str], User | None] = {}
        self._rights_version = b"-"
        self._grants: dict[tuple[Holder, str], tuple[Grant, ...]] = {}
        self._used: dict[bytes, float] = {}
        """When sessions were used in this process, as long as the database has an earlier time."""

    # -- `access.Directory` -----------------------------------------------------------------------

    def is_valid(self, principal: Principal) -> bool:
        """Whether its credential holds; without one, whether none is needed."""
        if principal.session.startswith((SESSION, KEY)):
            proof = self._proof(principal.session)
            return proof is not None and self.is_alive(proof)
        if name := _name_of(principal):
            user = self.user(name)
            if principal.session.startswith(CERTIFICATE):
                shown = principal.certificate_names or NOTHING
                return user is not None and not user.is_disabled and not shown.isdisjoint(user.certificates)
            return not user.is_disabled if user is not None else bool(principal.session)
        return principal.kind is not Kind.HTTP or not self.is_login_needed

    def roles_of(self, principal: Principal) -> frozenset[str]:
        """The roles of its user; of a token those that it states, of a key those that it is for."""
        user = None if principal.session.startswith(TOKEN) else self.user(_name_of(principal))
        if user is None:
            return principal.roles
        if principal.session.startswith(KEY) and (proof := self._proof(principal.session)) and proof.key:
            return frozenset(user.roles) & frozenset(proof.key.roles or user.roles)
        return frozenset(user.roles)

    def actions_of(self, principal: Principal) -> frozenset[str] | None:
        """The names of the only actions that its credential is for; None: all that its roles and grants allow."""
        if principal.session.startswith((SESSION, KEY)) and (proof := self._proof(principal.session)):
            if proof.key is not None and proof.key.actions:
                return frozenset(proof.key.actions)
            if proof.key is None and proof.user is not None and proof.user.must_change_password:
                return NOTHING
        return None

    def grants_of(self, principal: Principal) -> tuple[Grant, ...]:
        """The grants to its share, or to its user and roles; of a SMART token that to its patient alone."""
        if (launched := grants_of_launch(principal)) is not None:
            return launched
        self._look()
        if principal.share:
            return self._grants.get((Holder.SHARE, principal.share), ())
        name = _name_of(principal)
        own = self._grants.get((Holder.USER, users.key_of(name)), ()) if name else ()
        by_role = [self._grants.get((Holder.ROLE, role), ()) for role in self.roles_of(principal)]
        return (*own, *(grant for each in by_role for grant in each)) if any(by_role) else own

    def attributes_of(self, principal: Principal) -> Mapping[str, tuple[str, ...]]:
        """Those of its user, and what its token states."""
        user = self.user(_name_of(principal))
        if user is None:
            return principal.attributes
        return MappingProxyType({**principal.attributes, **user.attributes})

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
        if not name or self._database is None:
            return None
        if name not in self._users:
            with self._database.read() as txn:
                self._users[name] = self._database.users.get(txn, users.row_of(users.key_of(name)))
        return self._users[name]

    def user_names(self) -> list[str]:
        """The names of all users, sorted."""
        if self._database is None:
            return []
        with self._database.read() as txn:
            return sorted(user.name for _, user in self._database.users.rows(txn))

    def user_of_certificate(self, names: frozenset[str]) -> User | None:
        """The user for whom a client certificate stands that says this of itself."""
        self._look()
        if not names or self._database is None:
            return None
        if names not in self._by_certificate:
            if len(self._by_certificate) >= CACHE_MAX:
                self._by_certificate.clear()
            with self._database.read() as txn:
                rows = self._database.users.rows(txn)
                user = next((user for _, user in rows if not names.isdisjoint(user.certificates)), None)
            self._by_certificate[names] = user
        return self._by_certificate[names]

    def proof(self, token: str) -> Proof | None:
        """What a token of ours proves; None: it is none, has ended, or its user is disabled."""
        self._look()
        if self._database is None or len(token) > tokens.TOKEN_LENGTH_MAX:
            return None
        digest = tokens.digest_of(token)
        if digest not in self._by_digest:
            with self._database.read() as txn:
                is_key = token.startswith(keys.PREFIX)
                self._by_digest[digest] = self._read_key(txn, digest) if is_key else self._read_session(txn, digest)
        proof = self._by_digest[digest]
        return proof if proof is not None and self.is_alive(proof) else None

    def is_alive(self, proof: Proof) -> bool:
        """Whether it has not ended by itself."""
        now = time()
        if proof.session is None or now >= proof.until:
            return now < proof.until
        used = max(proof.session.used, self._used.get(proof.digest, 0.0))
        return now < used + self._config().accounts.session_idle_s

    def note_use(self, proof: Proof, now: float, after_s: float) -> bool:
        """Notes that a session is used; returns whether its last known use is at least `after_s` ago."""
        if proof.session is None or now - max(proof.session.used, self._used.get(proof.digest, 0.0)) < after_s:
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
        self._by_certificate.clear()
        with self._database.read() as txn:
            self._has_users = self._database.users.count(txn) > 0
            rights_version = self._database.rights_version(txn)
            if rights_version != self._rights_version:
                self._grants = self._read_grants(txn)
                self._rights_version = rights_version
        self._version = version

    def _read_grants(self, txn: Transaction) -> dict[tuple[Holder, str], tuple[Grant, ...]]:
        assert self._database is not None
        now = time()
        found: dict[tuple[Holder, str], list[Grant]] = {}
        for key, row in self._database.grants.rows(txn):
            if row.until is None or row.until > now:
                grant = grants.grant_of(key.hex(), row)
                found.setdefault((grant.holder_kind, grant.holder), []).append(grant)
        for digest, share in self._database.shares.rows(txn):
            if shares.is_open(share, now):
                grant = shares.grant_of(tokens.id_of(digest), share)
                found[grant.holder_kind, grant.holder] = [grant]
        return {holder: tuple(each) for holder, each in found.items()}

    def _proof(self, identifier: str) -> Proof | None:
        self._look()
        if identifier not in self._by_identifier:
            if len(self._by_identifier) >= CACHE_MAX:
                self._by_identifier.clear()
            self._by_identifier[identifier] = self._find(identifier)
        return self._by_identifier[identifier]

    def _find(self, identifier: str) -> Proof | None:
        prefix = tokens.prefix_of(identifier[len(SESSION) :])
        if self._database is None or prefix is None:
            return None
        with self._database.read() as txn:
            if identifier.startswith(KEY):
                key_row = self._database.keys.find(txn, prefix)
                return None if key_row is None else self._read_key(txn, key_row[0])
            row = self._database.sessions.find(txn, prefix)
            return None if row is None else self._read_session(txn, row[0])

    def _read_session(self, txn: Transaction, digest: bytes) -> Proof | None:
        assert self._database is not None
        session = self._database.sessions.get(txn, digest)
        if session is None:
            return None
        if session.share:
            row = self._database.shares.find(txn, tokens.prefix_of(session.share) or b"-")
            if row is None or not shares.is_open(row[1], time()):
                return None
            return Proof(digest, min(session.until, row[1].until), session=session, share=row[1])
        user = self._database.users.get(txn, users.row_of(session.user))
        return None if user is None or user.is_disabled else Proof(digest, session.until, user, session)

    def _read_key(self, txn: Transaction, digest: bytes) -> Proof | None:
        assert self._database is not None
        key = self._database.keys.get(txn, digest)
        user = None if key is None else self._database.users.get(txn, users.row_of(key.user))
        if key is None or user is None or user.is_disabled:
            return None
        return Proof(digest, key.until, user, key=key)


def _name_of(principal: Principal) -> str:
    """The name of its user; "": it is none."""
    return principal.name if principal.kind is Kind.HTTP else principal.user
