"""DATA/accounts: the LMDB environment, its tables, and its transactions.

    data.mdb, lock.mdb      LMDB's; every commit is synced, so that kill -9 and power cuts leave the last commit
    meta                    "format" → 1, "secret" → 32 random bytes, "rights" → changed with each grant and share
    users                   key of the user         → User
    sessions                SHA-256 of its token    → Session
    keys                    SHA-256 of its token    → Key
    links                   SHA-256 of its token    → Link
    grants                  12 random bytes         → GrantRow
    shares                  SHA-256 of its token    → Share
    failures                digest of who and where → Failures
    used                    digest of what          → Used

`version` is the number of the last commit of any process: what was looked up is in force while it stays the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import lmdb
import msgspec

from engine.accounts.records import Failures, GrantRow, Key, Link, Session, Share, Used, User
from engine.environments import SharedEnvironment
from engine.errors import AccountsError

FOLDER: Final = "accounts"
FILE: Final = "data.mdb"
FORMAT: Final = b"1"
MAP_BYTES: Final = 1 << 30
"""Room for a million rows. It takes neither memory nor disk before there are any."""

Row = TypeVar("Row")


class Transaction:
    """A snapshot, or changes that become visible together."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw


class Table(Generic[Row]):
    """Rows of one type, in the order of their keys."""

    def __init__(self, handle: Any, row: type[Row]) -> None:
        self._handle = handle
        self._decoder = msgspec.json.Decoder(row)

    def get(self, txn: Transaction, key: bytes) -> Row | None:
        """The row; None if there is none. Raises AccountsError."""
        raw = txn.raw.get(key, db=self._handle) if key else None
        return None if raw is None else self._decode(raw)

    def put(self, txn: Transaction, key: bytes, row: Row) -> None:
        """Adds or replaces a row."""
        txn.raw.put(key, msgspec.json.encode(row), db=self._handle)

    def delete(self, txn: Transaction, key: bytes) -> bool:
        """Removes a row; returns whether there was one."""
        return bool(txn.raw.delete(key, db=self._handle))

    def count(self, txn: Transaction) -> int:
        """The number of rows."""
        return int(txn.raw.stat(self._handle)["entries"])

    def find(self, txn: Transaction, prefix: bytes) -> tuple[bytes, Row] | None:
        """The first row whose key begins with `prefix`."""
        return next(self.rows(txn, prefix), None)

    def rows(self, txn: Transaction, prefix: bytes = b"") -> Iterator[tuple[bytes, Row]]:
        """The rows whose keys begin with `prefix`. The table must not be changed meanwhile."""
        with txn.raw.cursor(db=self._handle) as cursor:
            if not (cursor.set_range(prefix) if prefix else cursor.first()):
                return
            for key, raw in cursor.iternext():
                if not key.startswith(prefix):
                    return
                yield bytes(key), self._decode(raw)

    def raw_rows(self, txn: Transaction) -> Iterator[tuple[bytes, bytes]]:
        """The rows as they are stored."""
        with txn.raw.cursor(db=self._handle) as cursor:
            for key, raw in cursor.iternext():
                yield bytes(key), bytes(raw)

    def replace_all(self, txn: Transaction, rows: list[tuple[bytes, bytes]]) -> None:
        """Replaces all rows, by rows as they are stored. Raises AccountsError for one that cannot be read."""
        txn.raw.drop(self._handle, delete=False)
        for key, raw in rows:
            self._decode(raw)
            txn.raw.put(key, raw, db=self._handle)

    def _decode(self, raw: bytes) -> Row:
        try:
            return self._decoder.decode(raw)
        except msgspec.MsgspecError as error:
            raise AccountsError(f"a row of the accounts database cannot be read: {error}") from error


class Database:
    """A handle; thread-safe. All handles of a process share one environment."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Opens the database, and creates it if there is none. Raises AccountsError."""
        self.folder = folder
        self.read_only = read_only
        try:
            if not read_only:
                folder.mkdir(mode=0o700, exist_ok=True)
            self._shared = SharedEnvironment(folder, map_bytes=MAP_BYTES, read_only=read_only)
        except (lmdb.Error, OSError) as error:
            raise AccountsError(f"the accounts in {folder} cannot be opened: {error}") from error
        self._environment = self._shared.lmdb
        try:
            self._open_tables(read_only)
            if not read_only:
                self._environment.reader_check()
        except (lmdb.Error, AccountsError) as error:
            self.close()
            raise AccountsError(f"the accounts in {folder} cannot be opened: {error}") from error

    def _open_tables(self, read_only: bool) -> None:
        names = ("meta", "users", "sessions", "keys", "links", "grants", "shares", "failures", "used")
        environment = self._environment
        handles = {name: environment.open_db(name.encode(), create=not read_only) for name in names}
        with environment.begin(write=not read_only) as txn:
            found = txn.get(b"format", db=handles["meta"])
            if found is None and not read_only:
                txn.put(b"format", FORMAT, db=handles["meta"])
                txn.put(b"secret", secrets.token_bytes(32), db=handles["meta"])
            elif found != FORMAT:
                raise AccountsError(f"the accounts in {self.folder} have a format that this version does not know")
            self.secret = bytes(txn.get(b"secret", b"", db=handles["meta"]))
            if len(self.secret) < 32:
                raise AccountsError(f"the accounts in {self.folder} have no secret: they were not written whole")
        self._meta = handles["meta"]
        self.users = Table(handles["users"], User)
        self.sessions = Table(handles["sessions"], Session)
        self.keys = Table(handles["keys"], Key)
        self.links = Table(handles["links"], Link)
        self.grants = Table(handles["grants"], GrantRow)
        self.shares = Table(handles["shares"], Share)
        self.failures = Table(handles["failures"], Failures)
        self.used = Table(handles["used"], Used)

    @property
    def version(self) -> int:
        """The number of the last commit of any process."""
        with self._environment.begin() as txn:
            return int(txn.id())

    def rights_version(self, txn: Transaction) -> bytes:
        """Changes with each grant and share."""
        return bytes(txn.raw.get(b"rights", b"", db=self._meta))

    @property
    def tables(self) -> tuple[Table[Any], ...]:
        """All tables."""
        durable = (self.users, self.sessions, self.keys, self.links, self.grants, self.shares)
        return (*durable, self.failures, self.used)

    def replace_secret(self, txn: Transaction, secret: bytes) -> None:
        """Replaces the secret, in a copy; a process that has it open keeps the old one."""
        txn.raw.put(b"secret", secret, db=self._meta)

    def note_rights(self, txn: Transaction) -> None:
        """To be called with each change of grants and shares."""
        txn.raw.put(b"rights", secrets.token_bytes(8), db=self._meta)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A snapshot. Raises AccountsError."""
        try:
            with self._environment.begin() as txn:
                yield Transaction(txn)
        except lmdb.Error as error:
            raise AccountsError(f"the accounts cannot be read: {error}") from error

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Changes, which are on disk when the context ends without an error. Raises AccountsError."""
        try:
            with self._environment.begin(write=True) as txn:
                yield Transaction(txn)
        except (lmdb.Error, OSError) as error:
            raise AccountsError(f"the accounts cannot be written: {error}") from error

    def close(self) -> None:
        """Closes it. No transaction may be open."""
        self._shared.close()
