"""The accounts in copies of an archive: backup, restore, replica, check."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from time import time

import pytest

from engine.accounts import dump, grants, keys, links, sessions, shares, throttle, users
from engine.accounts.database import FOLDER, Database
from engine.accounts.records import GrantRow, Key, Share, User
from engine.errors import AccountsError


def filled(data: Path) -> Database:
    data.mkdir(exist_ok=True)
    database = Database(data / FOLDER)
    user = users.add(database, User(name="Anna", roles=("full",), password="hash"))
    keys.add(database, Key(user="anna", name="k", until=time() + 60, created=time()), "anna")
    grants.add(database, GrantRow(holder_kind="user", holder="anna", actions=("query",), studies=("1.2",)))
    shares.add(database, Share(studies=("1.2",), until=time() + 60, created=time(), by="cli:x"))
    sessions.begin(database, user, method="password", lasts_s=60)
    links.make(database, user="anna")
    throttle.begin(database, "anna", "10.0.0.1", time())
    return database


def contents(database: Database) -> list[list[tuple[bytes, bytes]]]:
    with database.read() as txn:
        tables = (database.users, database.keys, database.grants, database.shares)
        return [list(table.raw_rows(txn)) for table in tables]


def test_a_copy_has_users_keys_grants_and_shares_and_nobody_is_logged_in(tmp_path: Path) -> None:
    source = filled(tmp_path / "a")
    expected = contents(source)
    text = dump.text_of(tmp_path / "a")  # beside a process that has it open
    (tmp_path / "b").mkdir()
    dump.restore(tmp_path / "b", text)
    copy = Database(tmp_path / "b" / FOLDER)
    assert contents(copy) == expected and all(expected)
    assert copy.secret == source.secret
    with copy.read() as txn:
        for table in (copy.sessions, copy.links, copy.failures, copy.used):
            assert table.count(txn) == 0
    copy.close()
    source.close()
    assert dump.text_of(tmp_path / "b") == text == dump.text_of(tmp_path / "a")


def test_an_archive_without_accounts_has_none_in_its_copies(tmp_path: Path) -> None:
    assert dump.text_of(tmp_path) == "" and dump.check(tmp_path) == []
    dump.restore(tmp_path, "")
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize(
    "text",
    [
        "x",
        base64.b64encode(b"x").decode(),
        base64.b64encode(zlib.compress(b"{}")).decode(),
        base64.b64encode(zlib.compress(b'{"format":9,"secret":""}')).decode(),
    ],
)
def test_a_text_that_cannot_be_read_changes_nothing(text: str, tmp_path: Path) -> None:
    database = filled(tmp_path / "a")
    before = contents(database)
    with pytest.raises(AccountsError):
        dump.restore(tmp_path / "a", text)
    assert contents(database) == before
    database.close()


def test_check_reads_every_row(tmp_path: Path) -> None:
    database = filled(tmp_path / "a")
    assert dump.check(tmp_path / "a") == []
    with database.write() as txn:
        txn.raw.put(b"broken", b"no JSON", db=database.users._handle)
    assert len(dump.check(tmp_path / "a")) == 1
    database.close()
    (tmp_path / "a" / FOLDER / "data.mdb").write_bytes(b"x" * 8192)
    (problem,) = dump.check(tmp_path / "a")
    assert "cannot be opened" in problem
