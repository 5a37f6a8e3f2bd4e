"""The other records of a SOP Instance UID, beside its current one: the tables `history`, `versions` and `drops`.

Reads rows and decodes them to `UidRecord`s, on which the fold rule works. A UID may have thousands of records, most of
them dead: if you need few, read the table `versions` (only those kept aside), or select by the end of a key.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import IndexError_
from engine.index.apply.versions import State, UidRecord
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, Table
from engine.index.format import keys
from engine.index.format.entry import Entry, Tombstone
from engine.index.format.rows import scan_prefix
from engine.index.format.trash_record import TrashRecord
from engine.storage.record import Kind, Position


def record_of(entry: Entry) -> UidRecord:
    """A record that has not been applied yet."""
    position = entry.position
    return UidRecord(
        order_and_place(entry.stamp, position),
        None,
        Kind.INSTANCE,
        entry.flags,
        position,
        entry.transfer_syntax_uid,
        entry.pack_meta(),
    )


def record_of_tombstone(tombstone: Tombstone) -> UidRecord:
    """A tombstone without a target, as one of the records of its UIDs."""
    position = tombstone.position
    key = keys.ORDER_PLACE.pack(tombstone.stamp, 0, position.segment_id, position.offset)
    return UidRecord(key, None, Kind.TOMBSTONE, 0, position)


def record_of_trash(item: TrashRecord) -> UidRecord:
    """A record of the trash, as one of the records of its UIDs."""
    position = item.position
    key = keys.ORDER_PLACE.pack(item.stamp, item.settles, position.segment_id, position.offset)
    return UidRecord(key, None, Kind.TRASH, item.operation, position, target_stamp=item.settles)


def order_and_place(stamp: int, position: Position) -> bytes:
    """Order and place of a record."""
    segment_id, offset, _, _, payload_length, payload_crc = position
    return keys.ORDER_PLACE.pack(stamp, keys.tie_of(payload_length, payload_crc), segment_id, offset)


def pack_history(record: UidRecord, state: State, put_stamp: int = 0) -> bytes:
    """The row of `history` for a record. Leaves out the meta block of a deleted record: it is never needed again.

    `put_stamp`: for a record in the trash.
    """
    position = record.position
    head = keys.HISTORY.pack(
        state,
        record.kind,
        record.flags,
        position.payload_length,
        position.payload_crc,
        position.meta_length,
        position.key_length,
    )
    if state == State.DELETED:
        return head
    return head + record.meta + (keys.U64.pack(put_stamp) if state == State.TRASHED else b"")


def unpack_history(key: bytes, value: bytes) -> UidRecord:
    """The record of a row; `key` is order and place, the end of the row's key."""
    segment_id, offset = keys.PLACE.unpack_from(key, keys.ORDER_BYTES)
    state, kind, flags, payload_length, payload_crc, meta_length, key_length = keys.HISTORY.unpack_from(value)
    position = Position(segment_id, offset, key_length, meta_length, payload_length, payload_crc)
    if kind == Kind.TRASH:
        (target_stamp,) = keys.U64_KEY.unpack_from(key, 8)
        return UidRecord(key, State(state), kind, flags, position, target_stamp=target_stamp)
    meta = value[keys.HISTORY.size :]
    put_stamp = 0
    if state == State.TRASHED:
        meta, put_stamp = meta[: -keys.U64.size], keys.U64.unpack(meta[-keys.U64.size :])[0]
    syntax = Entry.unpack_meta(position, flags, 0, b"", meta).transfer_syntax_uid if meta else b""
    return UidRecord(key, State(state), kind, flags, position, syntax, meta, put_stamp=put_stamp)


def read_history(txn: ReadTxn, environment: Environment, sop_key: bytes) -> list[UidRecord]:
    """Every record of a UID except its current one, and the tombstones with a target; not in rank order."""
    prefix = sop_key + b"\0"
    start = len(prefix)
    records = [unpack_history(key[start:], value) for key, value in scan_prefix(txn, environment.history, prefix)]
    for key, _ in scan_prefix(txn, environment.drops, prefix):
        target, stamp, segment_id, offset = keys.ORDER_PLACE.unpack_from(key, start)
        place = Position(segment_id, offset, 0, 0, 0, 0)
        order = keys.ORDER_PLACE.pack(stamp, 0, segment_id, offset)
        records.append(UidRecord(order, State.TOMBSTONE, Kind.TOMBSTONE, 0, place, target_stamp=target))
    return records


def newest_stamp(txn: ReadTxn, table: Table, uid_key: bytes) -> int:
    """The highest stamp in the rows of `history` or `holds` of a UID; 0 without any."""
    prefix = uid_key + b"\0"
    with txn.cursor(db=table) as cursor:
        has_row = cursor.prev() if cursor.set_range(uid_key + b"\1") else cursor.last()
        if not has_row or not cursor.key().startswith(prefix):
            return 0
        return int(keys.ORDER_PLACE.unpack(cursor.key()[-keys.ORDER_PLACE.size :])[0])


def newest_drop(txn: ReadTxn, environment: Environment, sop_key: bytes) -> int:
    """The highest stamp of the tombstones with a target that a UID has; 0 without any."""
    rows = scan_prefix(txn, environment.drops, sop_key + b"\0")
    return max((keys.ORDER_PLACE.unpack(key[-keys.ORDER_PLACE.size :])[1] for key, _ in rows), default=0)


def read_kept_versions(
    txn: ReadTxn, environment: Environment, sop_key: bytes, tie: int | None = None
) -> Iterator[UidRecord]:
    """The versions of a UID that are kept aside, by stamp; with a tie only those that have it (reads all keys)."""
    prefix = sop_key + b"\0"
    start = len(prefix)
    tie_key = None if tie is None else keys.U64_KEY.pack(tie)
    for row_key, _ in scan_prefix(txn, environment.versions, prefix):
        if tie_key is None or row_key[start + 8 : start + keys.ORDER_BYTES] == tie_key:
            value = txn.get(row_key, db=environment.history)
            if value is None:
                raise IndexError_("a version that is kept aside has no record: the index is damaged; rebuild it")
            yield unpack_history(row_key[start:], value)
