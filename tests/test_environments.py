"""Shared environments: one for all handles of a process, and none left behind."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from engine.environments import SharedEnvironment
from engine.errors import OrdersError
from engine.orders import database, tables

MAP_BYTES = 1 << 20


def test_handles_share_an_environment_until_the_last_one_is_closed(tmp_path: Path) -> None:
    first = SharedEnvironment(tmp_path, map_bytes=MAP_BYTES)
    second = SharedEnvironment(tmp_path / "." / "", map_bytes=MAP_BYTES)
    assert first.lmdb is second.lmdb
    first.close()
    with second.lmdb.begin(write=True) as txn:
        txn.put(b"key", b"value")
    second.close()
    with pytest.raises(lmdb.Error):
        second.lmdb.begin()
    third = SharedEnvironment(tmp_path, map_bytes=MAP_BYTES, read_only=True)
    with third.lmdb.begin() as txn:
        assert txn.get(b"key") == b"value"
    with pytest.raises(lmdb.ReadonlyError):
        SharedEnvironment(tmp_path, map_bytes=MAP_BYTES)
    third.close()


def test_orders_that_cannot_be_opened_keep_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, environment: object) -> None:
        raise lmdb.Error("no table")

    with monkeypatch.context() as context:
        context.setattr(tables.Tables, "__init__", refuse)
        with pytest.raises(OrdersError, match="no table"):
            database.Database(tmp_path)
    reader = SharedEnvironment(tmp_path, map_bytes=MAP_BYTES, read_only=True)
    assert reader.lmdb.flags()["readonly"], "a handle that was left behind would share its own"
    reader.close()
