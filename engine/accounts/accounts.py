"""`Accounts`: the accounts of one archive, as the fronts of one process use them on the event loop.

    look-ups    at once, by `directory`: rows of a small database that is in memory
    changes     in one thread, since each waits for the disk (`run`)
    passwords   in threads of their own (`passwords`)

A log-in: the attempt is counted (`throttle`), the password is verified, then the code of a second factor; if all is
right, the attempt is taken back. A process of an archive that it cannot write, without a database, has no accounts:
nobody can log in there.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Final, TypeVar

from engine import log
from engine.accounts import database as databases
from engine.accounts import passwords, second_factor, sessions, shares, throttle, tokens, users
from engine.accounts.database import Database
from engine.accounts.directory import AccountDirectory
from engine.accounts.passwords import Passwords
from engine.errors import AccountsError, AccountsRefused, LoginFailed, SecondFactorNeeded, for_log

if TYPE_CHECKING:
    from engine.accounts.proof import Proof
    from engine.accounts.records import User
    from engine.config import Config

logger = log.get("accounts")

Result = TypeVar("Result")

SHARE_PASSWORD_LENGTH_MIN: Final = 6
"""Beside the link, which nobody guesses."""
WRONG: Final = "the user name, the password or the code is wrong"


class Accounts:
    """Used on the loop's thread."""

    def __init__(self, database: Database | None, config: Callable[[], Config]) -> None:
        """`database`: None if the archive has no accounts. `config`: returns the current configuration."""
        self._database = database
        self._config = config
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="accounts")
        self._passwords = Passwords()
        self.directory = AccountDirectory(database, config)

    @classmethod
    def open(cls, data: Path, config: Callable[[], Config], *, read_only: bool = False) -> Accounts:
        """The accounts of an archive. Raises AccountsError."""
        folder = data / databases.FOLDER
        if read_only and not (folder / databases.FILE).exists():
            return cls(None, config)
        return cls(Database(folder, read_only=read_only), config)

    @property
    def secret(self) -> bytes:
        """The secret of the accounts; b"": there are none."""
        return b"" if self._database is None else self._database.secret

    @property
    def database(self) -> Database:
        """For changes, in `run`. Raises AccountsError if this archive can have no accounts."""
        if self._database is None:
            raise AccountsError("this archive has no accounts, and cannot be written")
        return self._database

    def users(self) -> list[User]:
        """All users, by name; none if this archive has no accounts. Blocks."""
        return [] if self._database is None else users.listed(self._database)

    @property
    def is_login_needed(self) -> bool:
        """Whether clients of the HTTP port must log in."""
        return self.directory.is_login_needed

    # -- log in -----------------------------------------------------------------------------------

    async def log_in(self, name: str, password: str, *, code: str = "", address: str = "") -> User:
        """The user with this name, password, and code if the account needs one.

        Raises SecondFactorNeeded when only the code is missing, LoginFailed, LoginLater.
        """
        key = users.key_of(name)
        await self._begin_attempt(key, address)
        user = self.directory.user(name) if len(name) <= users.NAME_LENGTH_MAX else None
        is_right = await self._passwords.matches(user.password if user is not None else "", password)
        if user is None or not is_right or user.is_disabled:
            raise LoginFailed(WRONG)
        if user.has_second_factor:
            if not code:
                await self._end_attempt(key, address, is_right=False)
                raise SecondFactorNeeded("a code is needed too")
            if not await self.run(partial(second_factor.accept, self.database, user, code, time())):
                raise LoginFailed(WRONG)
        await self._end_attempt(key, address, is_right=True)
        return user

    async def by_secret(self, work: Callable[[], Result], *, address: str) -> Result:
        """What `work` finds by a secret that is no password. Whoever guesses has to wait: raises LoginLater."""
        key = f"secret {secrets.token_hex(8)}"  # nobody guesses one: only how often an address tries counts
        await self._begin_attempt(key, address)
        result = await self.run(work)
        await self._end_attempt(key, address, is_right=True)
        return result

    async def open_share(self, token: str, password: str, *, address: str, agent: str) -> str:
        """Opens a share; returns the token of the visitor's session.

        Raises NoSuchAccount, LoginFailed if its password is another one, LoginLater.
        """
        key = f"share {tokens.id_of(tokens.digest_of(token))}"
        await self._begin_attempt(key, address)
        share = await self.run(partial(shares.show, self.database, token))
        if share.password and not await self._passwords.matches(share.password, password):
            raise LoginFailed("this link needs its password" if not password else "this is not the password")
        work = partial(
            shares.open_session,
            self.database,
            token,
            lasts_s=self._config().accounts.session_s,
            address=address,
            agent=agent,
        )
        session_token = await self.run(work)
        await self._end_attempt(key, address, is_right=True)
        return session_token

    async def begin_session(self, user: User, method: str, **facts: str) -> str:
        """Begins a session; returns its token. `facts`: as of `sessions.begin`. Raises AccountsError."""
        work = partial(
            sessions.begin,
            self.database,
            user,
            method=method,
            lasts_s=self._config().accounts.session_s,
            **facts,
        )
        return await self.run(work)

    async def password_hash(self, password: str, name: str) -> str:
        """The hash of a new password. Raises AccountsRefused if it is too easy to guess, LoginLater."""
        passwords.check_rules(password, name, self._config().accounts.password_length_min)
        return await self._passwords.hash_of(password)

    async def share_password_hash(self, password: str) -> str:
        """The hash of a password for a share. Raises AccountsRefused, LoginLater."""
        if not SHARE_PASSWORD_LENGTH_MIN <= len(password) <= passwords.LENGTH_MAX:
            raise AccountsRefused(f"the password of a share has at least {SHARE_PASSWORD_LENGTH_MIN} characters")
        return await self._passwords.hash_of(password)

    async def _begin_attempt(self, key: str, address: str) -> None:
        await self.run(partial(throttle.begin, self.database, key, address, time()))

    async def _end_attempt(self, key: str, address: str, *, is_right: bool) -> None:
        await self.run(partial(throttle.take_back, self.database, key, address, is_right=is_right))

    # -- sessions ---------------------------------------------------------------------------------

    def use(self, proof: Proof) -> None:
        """Keeps a session from ending for want of use."""
        now = time()
        if self.directory.note_use(proof, now, sessions.TOUCH_S) and not self.database.read_only:
            self._threads.submit(self._touch, proof.digest, now)

    def _touch(self, digest: bytes, now: float) -> None:
        try:
            sessions.touch(self.database, digest, now)
        except AccountsError as error:
            logger.warning("the last use of a session cannot be recorded", error=for_log(error))

    # -- changes ----------------------------------------------------------------------------------

    async def run(self, work: Callable[[], Result]) -> Result:
        """Makes a change in the thread for changes. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Finishes changes that have begun, and closes the database."""
        self._passwords.close()
        self._threads.shutdown(wait=True)
        if self._database is not None:
            self._database.close()
