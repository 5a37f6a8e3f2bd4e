"""Rows of records that may lie in the log more than once, since a compaction copies them: the last copy counts.

    key      what names the record, then `keys.PLACE`: the place of this copy
    value    `other_records.pack_apart`: whether it counts, position, name, meta

A copy that counts has the share of bytes that its kind has (`accounts`); the others are dead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.index.apply.accounts import Accounts, Share
from engine.index.apply.other_records import pack_apart, unpack_apart
from engine.index.format import keys
from engine.index.format.rows import scan_prefix

if TYPE_CHECKING:
    from engine.index.database.transactions import Table, WriteTxn
    from engine.storage.record import Position


class Copies:
    """The rows of one kind of record."""

    def __init__(self, accounts: Accounts, share: Share) -> None:
        """`share`: that of a copy which counts."""
        self._accounts = accounts
        self._share = share

    def add(
        self, txn: WriteTxn, table: Table, row_key: bytes, position: Position, name: bytes, meta: bytes
    ) -> int | None:
        """Adds the row of a copy. Returns the number of other copies; None: this one has a row already."""
        self._accounts.cover(txn, position)
        if txn.get(row_key, db=table) is not None:
            return None
        copies = list(scan_prefix(txn, table, row_key[: -keys.PLACE.size]))
        is_last = not copies or copies[-1][0] < row_key
        if copies and is_last:
            self._count(txn, table, *copies[-1], counts=False)
        txn.put(row_key, pack_apart(is_last, position, name, meta), db=table)
        self._accounts.move(txn, position, None, self._share if is_last else Share.DEAD)
        return len(copies)

    def remove(self, txn: WriteTxn, table: Table, row_key: bytes) -> bytes | None:
        """Removes the row of a copy that is gone. Returns its value if it was the last copy of its record."""
        value = txn.pop(row_key, db=table)
        copies = list(scan_prefix(txn, table, row_key[: -keys.PLACE.size]))
        if not copies:
            return value
        if not copies[-1][1][0]:
            self._count(txn, table, *copies[-1], counts=True)
        return None

    def _count(self, txn: WriteTxn, table: Table, key: bytes, value: bytes, *, counts: bool) -> None:
        _, position, name, meta = unpack_apart(key, value)
        txn.put(key, pack_apart(counts, position, name, meta), db=table)
        before, after = (Share.DEAD, self._share) if counts else (self._share, Share.DEAD)
        self._accounts.move(txn, position, before, after)
