"""Applies records of the trash: instances are put into it, restored, or gone for good when it is emptied.

    a record    has a row once it has been applied; of its copies the last one counts (`copies`)
    a PUT       names its study or series as deleted, as a tombstone does
    each UID    has one more record, and the fold rule (`versions`) decides what is current, waits or is gone
    an entry    a PUT under which instances wait; `accounts` counts them. `query.trash` lists entries

A RESTORE is never forgotten, nor its PUT: without it the instances would wait again. Call this within a batch of the
writer.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.index.apply.accounts import Accounts, Share
from engine.index.apply.copies import Copies
from engine.index.apply.history import record_of_trash
from engine.index.apply.other_records import deletion_prefix, unpack_apart
from engine.index.apply.versions import UidRecord
from engine.index.database.environment import Environment
from engine.index.database.transactions import WriteTxn
from engine.index.format import keys
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
        self._copies = Copies(accounts, Share.NEEDED)
        self._apply_record = apply_record
        """Applies the fold rule to one UID: `Writer.apply_record`."""

    def apply(self, txn: WriteTxn, item: TrashRecord) -> None:
        """Applies a record, or a copy of one."""
        environment = self._environment
        table = environment.trash_table
        if self._copies.add(txn, table, trash_key(item), item.position, item.uid, item.pack_meta()) is None:
            return
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
        value = self._copies.remove(txn, table, row_key)
        if value is not None:
            item = trash_of_row(row_key, value)
            if not item.is_put:
                txn.delete(_settled_key(item), db=table)


def _stamp_and_digest(item: TrashRecord) -> bytes:
    return keys.TRASH_END.pack(item.stamp, keys.digest_of(item.uid, item.pack_meta()))


def _settled_key(item: TrashRecord) -> bytes:
    return keys.TRASH_SETTLED + keys.U64_KEY.pack(item.settles) + _stamp_and_digest(item)
