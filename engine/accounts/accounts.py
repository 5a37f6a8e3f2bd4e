"""`Accounts`: the accounts of one archive, as the fronts of one process use them on the event loop.

    look-ups    at once, by `directory`: rows of a small database that is in memory
    changes     in one thread, since each waits for the disk (`run`)
    passwords   in threads of their own (`passwords`)

A process of an archive that it cannot write, without a database, has no accounts: nobody can log in there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Final, TypeVar

from engine import log
from engine.accounts import database as databases
from engine.accounts import sessions, users
from engine.accounts.database import Database
from engine.accounts.directory import AccountDirectory, Proof
from engine.accounts.passwords import Passwords
from engine.errors import AccountsError, LoginFailed

if TYPE_CHECKING:
    from engine.accounts.records import User
    from engine.config import Config

logger = log.get("accounts")

Result = TypeVar("Result")

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
    def database(self) -> Database:
        """For changes, in `run`. Raises AccountsError if this archive can have no accounts."""
        if self._database is None:
            raise AccountsError("this archive has no accounts, and cannot be written")
        return self._database

    @property
    def is_login_needed(self) -> bool:
        """Whether clients of the HTTP port must log in."""
        return self.directory.is_login_needed

    async def log_in(self, name: str, password: str) -> User:
        """The user with this name and password. Raises LoginFailed, LoginLater."""
        user = self.directory.user(name) if len(name) <= users.NAME_LENGTH_MAX else None
        is_right = await self._passwords.matches(user.password if user is not None else "", password)
        if user is None or not is_right or user.is_disabled:
            raise LoginFailed(WRONG)
        return user

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

    def use(self, proof: Proof) -> None:
        """Keeps a session from ending for want of use."""
        now = time()
        if self.directory.note_use(proof, now, sessions.TOUCH_S) and not self.database.read_only:
            self._threads.submit(self._touch, proof.digest, now)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Makes a change in the thread for changes. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Finishes changes that have begun, and closes the database."""
        self._passwords.close()
        self._threads.shutdown(wait=True)
        if self._database is not None:
            self._database.close()

    def _touch(self, digest: bytes, now: float) -> None:
        try:
            sessions.touch(self.database, digest, now)
        except AccountsError as error:
            logger.warning("the last use of a session cannot be recorded", error=str(error))
