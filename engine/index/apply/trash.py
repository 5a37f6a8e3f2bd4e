"""Applies records of the trash: instances are put into it, restored, or gone for good when it is emptied.

    a record    has a row once it has been applied; of its copies (compaction) the last one counts
    a PUT       names its study or series as deleted, as a tombstone does
    each UID    has one more record, and the fold rule (`versions`) decides what is current, waits or is gone
    an entry    a PUT under which instances wait; `accounts` counts them. `query.trash` lists entries

A RESTORE is never forgotten, nor its PUT: without it the instances would wait again. Call this within a batch of the
writer.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.index.apply.accounts import Accounts, Share
from engine.index.apply.history import record_of_trash
from engine.index.apply.other_records import deletion_prefix, pack_apart, unpack_apart
from engine.index.apply.versions import UidRecord
from engine.index.database.environment import Environment
from engine.index.database.transactions import WriteTxn
from engine.index.format import keys
from engine.index.format.rows import scan_prefix
from engine.index.format.trash_record import TrashRecord
from engine.index.format.types import Level
from engine.storage.record import Kind, Record


def trash_key(item: TrashRecord) -> bytes:
    """The key of its row in `trash`."""
    position = item.position
    return keys.TRASH_RECORD + _stamp_and_digest(item) + keys.PLACE.pack(position.segment_id, position.offset)


def put_deletion_key(item: TrashRecord) -> bytes | None:
    """The key of its row in `deletions`; None for single instances, and for records that delete nothing."""
    if not item.is_put or item.level not in (Level.STUDY, Level.SERIES):
        return None
    return deletion_prefix(Level(item.level), item.uid) + trash_key(item)[len(keys.TRASH_RECORD) :]


def trash_of_row(row_key: bytes, value: bytes) -> TrashRecord:
    """The record of a row of `trash`."""
    _, position, key, meta = unpack_apart(row_key, value)
    (stamp,) = keys.U64_KEY.unpack_from(row_key, len(keys.TRASH_RECORD))
    return TrashRecord.unpack(Record(position, Kind.TRASH, 0, stamp, 0, 0, key, meta))


class Trash:
    """Adds records of the trash to the index, and takes them out of it."""

    def __init__(
        self,
        environment: Environment,
        accounts: Accounts,
        apply_record: Callable[[WriteTxn, bytes, UidRecord | None], object],
    ) -> None:
        self._environment = environment
        self._accounts = accounts
        self._apply_record = apply_record
        """Applies the fold rule to one UID: `Writer.apply_record`."""

    def apply(self, txn: WriteTxn, item: TrashRecord) -> None:
        """Applies a record, or a copy of one."""
        environment, accounts, position = self._environment, self._accounts, item.position
        table = environment.trash_table
        row_key = trash_key(item)
        accounts.cover(txn, position)
        if txn.get(row_key, db=table) is not None:
            return
        copies = list(scan_prefix(txn, table, row_key[: -keys.PLACE.size]))
        is_last = not copies or copies[-1][0] < row_key
        if copies and is_last:
            self._count_copy(txn, *copies[-1], counts=False)
        txn.put(row_key, pack_apart(is_last, position, item.uid, item.pack_meta()), db=table)
        accounts.move(txn, position, None, Share.NEEDED if is_last else Share.DEAD)
        if not item.is_put:
            txn.put(_settled_key(item), bytes((item.operation,)), db=table)
        deletion = put_deletion_key(item)
        if deletion is not None and environment.deletions is not None:
            txn.put(deletion, b"", db=environment.deletions)
        record = record_of_trash(item)
        for sop_key in sorted(map(keys.bounded, item.sop_instance_uids)):
            self._apply_record(txn, sop_key, record)

    def forget(self, txn: WriteTxn, row_key: bytes) -> None:
        """Removes the row of a record that is gone; the last of the remaining copies counts."""
        table = self._environment.trash_table
        value = txn.pop(row_key, db=table)
        copies = list(scan_prefix(txn, table, row_key[: -keys.PLACE.size]))
        if copies:
            if not copies[-1][1][0]:
                self._count_copy(txn, *copies[-1], counts=True)
        elif value is not None:
            item = trash_of_row(row_key, value)
            if not item.is_put:
                txn.delete(_settled_key(item), db=table)

    def _count_copy(self, txn: WriteTxn, key: bytes, value: bytes, *, counts: bool) -> None:
        _, position, name, meta = unpack_apart(key, value)
        txn.put(key, pack_apart(counts, position, name, meta), db=self._environment.trash_table)
        before, after = (Share.DEAD, Share.NEEDED) if counts else (Share.NEEDED, Share.DEAD)
        self._accounts.move(txn, position, before, after)


def _stamp_and_digest(item: TrashRecord) -> bytes:
    return keys.TRASH_END.pack(item.stamp, keys.digest_of(item.uid, item.pack_meta()))


def _settled_key(item: TrashRecord) -> bytes:
    return keys.TRASH_SETTLED + keys.U64_KEY.pack(item.settles) + _stamp_and_digest(item)
