"""The accounts as one text, for copies of the archive: a backup has it in each manifest, a replica as its database.

    {"format": 1, "secret": …, "users": [[key, row], …], "keys": …, "grants": …, "shares": …}, deflated, in base64

Sessions, links that work once, and counts of wrong attempts stay out: a restored archive must let nobody in who had to
go, and a link must not work twice.
"""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.accounts.database import FILE, FOLDER, Database, Table
from engine.errors import AccountsError

FORMAT: Final = 1
TEXT_BYTES_MAX: Final = 256 << 20
"""Of the deflated text: a million users have less."""


class _Dump(msgspec.Struct):
    format: int
    secret: bytes
    users: list[tuple[bytes, msgspec.Raw]] = []
    keys: list[tuple[bytes, msgspec.Raw]] = []
    grants: list[tuple[bytes, msgspec.Raw]] = []
    shares: list[tuple[bytes, msgspec.Raw]] = []


def text_of(data: Path) -> str:
    """The accounts of the archive in this folder; "" if it has none. Raises AccountsError."""
    if not (data / FOLDER / FILE).exists():
        return ""
    database = Database(data / FOLDER, read_only=True)
    try:
        with database.read() as txn:
            tables = {
                name: [(key, msgspec.Raw(raw)) for key, raw in table.raw_rows(txn)] for name, table in _tables(database)
            }
        dump = _Dump(FORMAT, database.secret, **tables)
    finally:
        database.close()
    return base64.b64encode(zlib.compress(msgspec.json.encode(dump), 6)).decode("ascii")


def restore(data: Path, text: str) -> None:
    """Makes the accounts of the archive in this folder those of the text. Raises AccountsError: nothing changes."""
    if not text:
        return
    dump = _decoded(text)
    database = Database(data / FOLDER)
    try:
        with database.write() as txn:
            database.replace_secret(txn, dump.secret)
            for name, table in _tables(database):
                table.replace_all(txn, [(key, bytes(raw)) for key, raw in getattr(dump, name)])
            for volatile in (database.sessions, database.links, database.failures, database.used):
                volatile.replace_all(txn, [])
            database.note_rights(txn)
    finally:
        database.close()


def check(data: Path) -> list[str]:
    """What is wrong with the accounts of the archive in this folder: every row is read."""
    if not (data / FOLDER / FILE).exists():
        return []
    try:
        database = Database(data / FOLDER, read_only=True)
    except AccountsError as error:
        return [str(error)]
    findings = []
    try:
        for table in database.tables:
            try:
                with database.read() as txn:
                    for _ in table.rows(txn):
                        pass
            except AccountsError as error:
                findings.append(str(error))
    finally:
        database.close()
    return findings


def _decoded(text: str) -> _Dump:
    try:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(base64.b64decode(text, validate=True), TEXT_BYTES_MAX)
        if inflater.unconsumed_tail:
            raise ValueError("it is too long")
        dump = msgspec.json.decode(raw, type=_Dump)
        if dump.format != FORMAT or len(dump.secret) < 32:
            raise ValueError("it has a format that this version does not know")
    except (ValueError, zlib.error) as error:  # msgspec's and binascii's errors too
        raise AccountsError(f"the accounts of the copy cannot be read: {error}") from None
    return dump


def _tables(database: Database) -> list[tuple[str, Table[Any]]]:
    return [
        ("users", database.users),
        ("keys", database.keys),
        ("grants", database.grants),
        ("shares", database.shares),
    ]
