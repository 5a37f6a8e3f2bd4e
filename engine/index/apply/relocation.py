"""Applies a compaction to the index: records have moved, and a segment is gone.

    relocate   the copy is one more record of its UID, with the same stamp. By the fold rule the last of two copies
               counts: it takes the state of the older one, and the older one becomes a dead duplicate. A rebuild that
               finds both gives the same result. A record that has died meanwhile is dead at its new place too
    forget     removes the rows of the segment, whose records are dead and not needed. If another record depends on one
               of them after all, the fold rule is applied again, so the index matches the remaining log

Statements keep their orders: an order names no place, and a copy has the order of its record. For the same reason the
caches of all processes stay valid.

Call this within batches of the writer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from engine.errors import IndexError_
from engine.index.apply.corrections import correction_key
from engine.index.apply.history import order_and_place, pack_history, record_of, record_of_tombstone, record_of_trash
from engine.index.apply.other_records import deletion_key, drop_key, hold_key, quarantine_key, tombstone_key
from engine.index.apply.trash import put_deletion_key, trash_key
from engine.index.apply.versions import KILLED, State, UidRecord
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, WriteTxn, present
from engine.index.format import keys
from engine.index.format.entry import Correction, Entry, Hold, Item, Quarantined, Tombstone, unpack_record
from engine.index.format.rows import Segment, scan_prefix
from engine.index.format.trash_record import TrashRecord
from engine.index.upkeep.liveness import is_copied, killed_by
from engine.storage.record import Kind, Position, Record

if TYPE_CHECKING:
    from engine.index.apply.writer import Writer

PAGE = 2000
"""Rows in one transaction."""

Row = tuple[str, bytes]
"""Table and key."""


def relocate(writer: Writer, txn: WriteTxn, moves: Sequence[tuple[Record, Position]]) -> int:
    """Applies copies of records. Returns how many are new and alive at their new place."""
    count = 0
    others: list[Item] = []
    for record, position in moves:
        if record.kind == Kind.INSTANCE:
            count += _relocate_instance(writer, txn, record, position)
        else:
            others.append(unpack_record(record._replace(position=position)))
    writer.add_items(txn, others)
    return count + len(others)


def _relocate_instance(writer: Writer, txn: WriteTxn, record: Record, position: Position) -> bool:
    environment = writer.environment
    old = record.position
    sop_key = keys.bounded(record.key)
    where = txn.get(sop_key, db=environment.sop_uids)
    row = txn.get(where, db=environment.instances) if where else None
    if where and row is not None:
        stamp, *place = keys.INSTANCE.unpack_from(row)[:3]
        if stamp == record.stamp and tuple(place) == old[:2] and old < position:
            key = order_and_place(stamp, old)
            old_record = UidRecord(key, State.CURRENT, record.kind, record.flags, old, meta=record.meta)
            writer.relocate_current(txn, where, position)
            row = pack_history(old_record, State.DUPLICATE)
            txn.put(sop_key + b"\0" + key, row, db=environment.history)
            writer.accounts.change(txn, old, State.CURRENT, State.DUPLICATE)
            writer.accounts.change(txn, position, None, State.CURRENT)
            writer.accounts.cover(txn, position)
            return True
    copy = record_of(Entry.unpack(record._replace(position=position)))
    copy.meta = record.meta
    return writer.apply_copy(txn, sop_key, copy)


# forget --------------------------------------------------------------------------------------------


def check_dead(environment: Environment, segment_id: int) -> None:
    """Raises IndexError_ when a record of a segment is alive."""
    with environment.reading() as txn:
        segment = Segment(txn.get(keys.U64_KEY.pack(segment_id), db=environment.segments))
    if segment.live_count:
        raise IndexError_(f"{segment.live_count} records of segment {segment_id:016x} are alive: it is not forgotten")


def rows_of(records: Iterable[Record]) -> list[Row]:
    """The rows of records; instances before tombstones and the trash, since these may depend on them."""
    rows: list[Row] = []
    last: list[Row] = []
    for record in records:
        if record.kind == Kind.INSTANCE:
            rows.append(("history", keys.bounded(record.key) + b"\0" + order_and_place(record.stamp, record.position)))
            continue
        try:
            item = unpack_record(record)
        except IndexError_:
            continue  # never applied
        if isinstance(item, Hold):
            rows.append(("holds", hold_key(item)))
        elif isinstance(item, Quarantined):
            rows.append(("quarantine", quarantine_key(item)))
        elif isinstance(item, Correction):
            rows.append(("corrections", correction_key(item)))
        elif isinstance(item, Tombstone):
            last.append(("tombstones", tombstone_key(item)))
            if (key := deletion_key(item)) is not None:
                last.append(("deletions", key))
            for uid in item.sop_instance_uids:
                sop_key = keys.bounded(uid)
                if item.target_stamp:
                    last.append(("drops", drop_key(item, sop_key)))
                else:
                    last.append(("history", sop_key + b"\0" + record_of_tombstone(item).key))
        elif isinstance(item, TrashRecord):
            last.append(("trash", trash_key(item)))
            if (key := put_deletion_key(item)) is not None:
                last.append(("deletions", key))
            end = b"\0" + record_of_trash(item).key
            last += [("history", keys.bounded(uid) + end) for uid in item.sop_instance_uids]
    return rows + last


def rows_in(environment: Environment, segment_id: int) -> list[Row]:
    """The same for a segment whose file is gone: reads every row of the tables, page by page."""
    rows: list[Row] = []
    last: list[Row] = []
    ends = segment_id.to_bytes(8, "big")
    for table in ("history", "holds", "quarantine", "corrections", "tombstones", "deletions", "drops", "trash"):
        after = b""
        while True:
            with environment.reading() as txn, txn.cursor(db=getattr(environment, table)) as cursor:
                has_row = cursor.set_range(after + b"\0") if after else cursor.first()
                for _ in range(PAGE):
                    if not has_row:
                        break
                    after = cursor.key()
                    if table in ("corrections", "trash") and not after.startswith(keys.CORRECTION_RECORD):
                        has_row = False
                        break  # the remaining rows have no place
                    if after[-keys.PLACE.size : -8] == ends:
                        is_killer = table in ("tombstones", "deletions", "drops", "trash") or (
                            table == "history" and cursor.value()[1] != Kind.INSTANCE
                        )
                        (last if is_killer else rows).append((table, after))
                    has_row = cursor.next()
            if not has_row:
                break
    return rows + last


def forget_rows(writer: Writer, rows: Sequence[Row], txn: WriteTxn) -> None:
    """Removes rows of a segment, and applies the fold rule to what remains."""
    environment = writer.environment
    touched: dict[bytes, bool] = {}
    for table, key in rows:
        if table == "history":
            _forget_history(writer, txn, key, touched)
        elif table == "drops":
            sop_key = key[: -keys.ORDER_PLACE.size - 1]
            target_stamp, stamp, _, _ = keys.ORDER_PLACE.unpack(key[-keys.ORDER_PLACE.size :])
            others = list(scan_prefix(txn, environment.drops, key[:-24]))
            if len(others) > 1 or not killed_by(txn, environment, sop_key, stamp, target_stamp):
                txn.delete(key, db=environment.drops)
            touched.setdefault(sop_key, False)
        elif table == "corrections":
            writer.corrections.forget(txn, key)
        elif table == "trash":
            writer.trash.forget(txn, key)
        else:
            value = txn.pop(key, db=getattr(environment, table))
            if table == "tombstones":
                writer.other_records.last_of_copies(txn, key)
            elif table == "quarantine":
                if value is not None and value[0] == State.DROPPED:
                    writer.accounts.count(keys.META_DELETED, -1)
                touched.setdefault(key[: -keys.ORDER_PLACE.size - 1], False)
    for sop_key, must_fold in touched.items():
        where = txn.get(sop_key, db=environment.sop_uids)
        if must_fold and where is not None:
            writer.apply_record(txn, sop_key, None)
            where = txn.get(sop_key, db=environment.sop_uids)
        if where == b"" and not any(
            True for table in (environment.history, environment.drops) for _ in scan_prefix(txn, table, sop_key + b"\0")
        ):
            txn.delete(sop_key, db=environment.sop_uids)


def _forget_history(writer: Writer, txn: WriteTxn, key: bytes, touched: dict[bytes, bool]) -> None:
    environment = writer.environment
    value = txn.get(key, db=environment.history)
    if value is None:
        return
    sop_key = key[: -keys.ORDER_PLACE.size - 1]
    state = value[0]
    if state == State.TOMBSTONE:
        stamp = keys.ORDER_PLACE.unpack(key[-keys.ORDER_PLACE.size :])[0]
        if killed_by(txn, environment, sop_key, stamp, 0) and not _others_kill(txn, environment, key, stamp):
            return  # its instances must stay deleted
    elif state in KILLED:
        writer.accounts.count(keys.META_DELETED, -1)
    txn.delete(key, db=environment.history)
    is_plain = (
        state == State.DELETED
        or (state == State.TOMBSTONE and value[1] == Kind.TOMBSTONE)
        or is_copied(txn, environment, sop_key, key[-keys.ORDER_PLACE.size :])
    )
    touched[sop_key] = touched.get(sop_key, False) or not is_plain


def _others_kill(txn: ReadTxn, environment: Environment, key: bytes, stamp: int) -> bool:
    """Whether another tombstone, or a copy of this record of the trash, does the same to the same instances."""
    prefix = key[: -keys.ORDER_PLACE.size]
    kind = present(txn.get(key, db=environment.history))[1]
    if kind == Kind.TRASH:
        prefix = key[: -keys.PLACE.size]
        return any(
            other != key and value[1] == Kind.TRASH for other, value in scan_prefix(txn, environment.history, prefix)
        )
    return any(
        other != key and value[1] == Kind.TOMBSTONE and keys.ORDER_PLACE.unpack(other[len(prefix) :])[0] >= stamp
        for other, value in scan_prefix(txn, environment.history, prefix)
    )
