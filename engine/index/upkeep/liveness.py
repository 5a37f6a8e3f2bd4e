"""Decides which records of a segment must survive its compaction. Reads only.

    instance      the current one, kept versions, and those in the trash. A dead one too, as long as other records might
                  be alive without it (`apply.needed`): the remaining log must give the same index as the whole
                  log
    tombstone     as long as a record that it killed is in another segment, and always for TOMBSTONE_KEEP_S
    trash         a PUT while instances wait under it, or if any were restored; else as a tombstone, whose time is that
                  of the EMPTY. An EMPTY while its PUT is in the log, and for TOMBSTONE_KEEP_S. A RESTORE: forever
    hold          the one that counts, of each study
    quarantined   until a tombstone names it
    correction    forever, undone or not: it is the audit trail
    shredded      never: its study's key was destroyed, and nobody can read it
    unknown       every record that has not been applied

Of copies of one record only the last survives: a relocated record is not needed at its old place. An answer is valid
only until something is applied, so check again before you remove a file. Segments without needed records may be removed
at once, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import IndexError_
from engine.index.apply.corrections import correction_key
from engine.index.apply.history import order_and_place, read_history
from engine.index.apply.needed import is_needed
from engine.index.apply.other_records import hold_key, quarantine_key, tombstone_key, unpack_apart
from engine.index.apply.trash import trash_key, trash_of_row
from engine.index.apply.versions import State, UidRecord, in_order
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn
from engine.index.format import keys
from engine.index.format.entry import TOMBSTONE_KEEP_S, Correction, Hold, Quarantined, Tombstone
from engine.index.format.rows import read_name, scan_prefix
from engine.index.format.trash_record import TrashOperation, TrashRecord
from engine.storage.record import SHREDDED, Kind, Position, Record


def alive(txn: ReadTxn, environment: Environment, records: Sequence[Record], now_ns: int) -> list[bool]:
    """For each record, whether it must survive."""
    needed: dict[tuple[bytes, int], bool] = {}
    return [_is_alive(txn, environment, record, now_ns, needed) for record in records]


def _is_alive(
    txn: ReadTxn, environment: Environment, record: Record, now_ns: int, needed: dict[tuple[bytes, int], bool]
) -> bool:
    if record.kind == Kind.INSTANCE:
        return _is_instance_alive(txn, environment, record, needed)
    try:
        if record.kind == SHREDDED:
            return False
        if record.kind == Kind.TOMBSTONE:
            return _is_tombstone_alive(txn, environment, Tombstone.unpack(record), now_ns)
        if record.kind == Kind.HOLD:
            row_key = hold_key(Hold.unpack(record))
            value = txn.get(row_key, db=environment.holds)
            return value is None or bool(unpack_apart(row_key, value)[0])
        if record.kind == Kind.QUARANTINED:
            row_key = quarantine_key(Quarantined.unpack(record))
            value = txn.get(row_key, db=environment.quarantine)
            return value is None or unpack_apart(row_key, value)[0] == State.QUARANTINED
        if record.kind == Kind.CORRECTION:
            value = txn.get(correction_key(Correction.unpack(record)), db=environment.corrections)
            return value is None or bool(value[0])
        if record.kind == Kind.TRASH:
            return _is_trash_alive(txn, environment, TrashRecord.unpack(record), now_ns)
    except IndexError_:
        return True  # from a later version of this engine
    return True


def _is_instance_alive(
    txn: ReadTxn, environment: Environment, record: Record, needed: dict[tuple[bytes, int], bool]
) -> bool:
    sop_key = keys.bounded(record.key)
    position = record.position
    where = txn.get(sop_key, db=environment.sop_uids)
    if where is None:
        return True
    row = txn.get(where, db=environment.instances) if where else b""
    current = _current(row) if row else None
    if current is not None and current.position[:2] == position[:2]:
        return True
    key = order_and_place(record.stamp, position)
    value = txn.get(sop_key + b"\0" + key, db=environment.history)
    if value is None or value[0] in (State.VERSION, State.TRASHED):
        return True
    if value[0] in (State.DELETED, State.EMPTIED):
        return False
    if current is not None and current.order == key[: keys.ORDER_BYTES]:
        return False  # see `is_copied`
    group = sop_key, position.segment_id
    if group not in needed:  # one answer for all dead records that a UID has in a segment: there may be thousands
        records = read_history(txn, environment, sop_key)
        if current is not None and row:
            current.transfer_syntax_uid = read_name(txn, environment, keys.INSTANCE.unpack_from(row)[11])
            records.append(current)
        needed[group] = is_needed(in_order(records), position.segment_id)
    return needed[group]


def is_copied(txn: ReadTxn, environment: Environment, sop_key: bytes, key: bytes) -> bool:
    """Whether the current record of a UID is a copy of the record with this key, on which nothing then depends."""
    where = txn.get(sop_key, db=environment.sop_uids)
    row = txn.get(where, db=environment.instances) if where else None
    return row is not None and _current(row).order == key[: keys.ORDER_BYTES]


def _current(row: bytes) -> UidRecord:
    """The current record with the fields that the fold rule uses, but without its transfer syntax."""
    fields = keys.INSTANCE.unpack_from(row)
    position = Position(fields[1], fields[2], fields[8], fields[7], fields[3], fields[6])
    return UidRecord(order_and_place(fields[0], position), State.CURRENT, Kind.INSTANCE, fields[9], position)


def _is_tombstone_alive(txn: ReadTxn, environment: Environment, tombstone: Tombstone, now_ns: int) -> bool:
    value = txn.get(tombstone_key(tombstone), db=environment.tombstones)
    if value is None:
        return True
    if not value[0]:
        return False
    if tombstone.deleted_ns > now_ns - TOMBSTONE_KEEP_S * 1_000_000_000:
        return True
    return any(
        segment_id != tombstone.position.segment_id
        for uid in tombstone.sop_instance_uids
        for segment_id in killed_by(txn, environment, keys.bounded(uid), tombstone.stamp, tombstone.target_stamp)
    )


def _is_trash_alive(txn: ReadTxn, environment: Environment, item: TrashRecord, now_ns: int) -> bool:
    table = environment.trash_table
    value = txn.get(trash_key(item), db=table)
    if value is None:
        return True
    if not value[0]:
        return False
    if item.operation not in (TrashOperation.PUT, TrashOperation.EMPTY):
        return True
    young_ns = now_ns - TOMBSTONE_KEEP_S * 1_000_000_000
    if item.made_ns > young_ns:
        return True
    if item.operation == TrashOperation.EMPTY:
        puts = scan_prefix(txn, table, keys.TRASH_RECORD + keys.U64_KEY.pack(item.settles))
        return any(trash_of_row(*row).is_put for row in puts)
    stamp = keys.U64_KEY.pack(item.stamp)
    if txn.get(keys.TRASH_ENTRY + stamp, db=table) is not None:
        return True
    for key, operation in scan_prefix(txn, table, keys.TRASH_SETTLED + stamp):
        if operation[0] != TrashOperation.EMPTY:
            return True
        records = scan_prefix(txn, table, keys.TRASH_RECORD + key[-keys.TRASH_END.size :])
        if any(trash_of_row(*row).made_ns > young_ns for row in records):
            return True
    return any(
        segment_id != item.position.segment_id
        for uid in item.sop_instance_uids
        for segment_id in killed_by(txn, environment, keys.bounded(uid), item.stamp, 0)
    )


def killed_by(txn: ReadTxn, environment: Environment, sop_key: bytes, stamp: int, target_stamp: int) -> list[int]:
    """The segments that contain records of a UID which a tombstone with this stamp and target keeps dead."""
    positions = []
    prefix = sop_key + b"\0"
    if target_stamp:
        prefix += target_stamp.to_bytes(8, "big")
        for key, _ in scan_prefix(txn, environment.quarantine, prefix):
            positions.append(keys.PLACE.unpack(key[-keys.PLACE.size :])[0])
    for key, value in scan_prefix(txn, environment.history, prefix):
        if value[1] == Kind.INSTANCE:
            order_stamp, _, segment_id, _ = keys.ORDER_PLACE.unpack(key[-keys.ORDER_PLACE.size :])
            if order_stamp >= stamp:
                break
            positions.append(segment_id)
    return positions
