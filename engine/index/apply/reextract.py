"""Applies attributes that have been extracted again from stored records, after a change of the extra attributes.

A record keeps its position and its stamp, and so its order; only its attributes change. The index ends up as if the
record had always had them.

    it is the current one, under the same statement     its row in `instances` gets the new blob
    it is the current one, under another statement      the same, and the row moves to the new statement;
                                                        `Entities.refresh` recomputes series, study and patient
    it is in `history`, with a meta block               the row gets the new meta block, in case it becomes current
    anything else: deleted, moved, unknown              nothing

Every study and series that is touched gets its keys of `search` written, also where no attribute changes: an attribute
that becomes searchable had none. Keys of attributes that are no longer searchable are removed at the end
(`drop_unsearched`). A row of `amended` records the progress in a segment: AMENDED, the digest of the set, and the
offset before which every record has been done. Call this within batches of the writer. `archive.lifecycle.reindex`
extracts the attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.errors import IndexError_
from engine.index.apply.history import order_and_place
from engine.index.apply.versions import State
from engine.index.database.transactions import WriteTxn
from engine.index.format import keys
from engine.index.format.entry import Entry

if TYPE_CHECKING:
    from engine.index.apply.writer import Writer
    from engine.index.database.environment import Environment

_COMMON_AT = keys.INSTANCE.size - keys.INSTANCE_END.size


def replace_attributes(writer: Writer, txn: WriteTxn, entries: Sequence[Entry]) -> int:
    """Applies the new attributes of instances. Returns how many current instances and kept versions have changed."""
    entities = writer.entities
    entities.search_keys.puts_all = True
    try:
        count = 0
        for entry in entries:
            count += _restate(writer, txn, entry)
        if entities.needs_refresh:
            entities.refresh(txn)
    finally:
        entities.search_keys.puts_all = False
    return count


def _restate(writer: Writer, txn: WriteTxn, entry: Entry) -> bool:
    environment = writer.environment
    sop_key = keys.bounded(entry.sop_instance_uid)
    where = txn.get(sop_key, db=environment.sop_uids)
    row = txn.get(where, db=environment.instances) if where else None
    if where and row is not None and _is_at(row, entry):
        return _restate_current(writer, txn, where, row, entry)
    key = sop_key + b"\0" + order_and_place(entry.stamp, entry.position)
    value = txn.get(key, db=environment.history)
    if value is None or len(value) == keys.HISTORY.size:
        return False
    end = value[-keys.U64.size :] if value[0] == State.TRASHED else b""
    new = value[: keys.HISTORY.size] + entry.pack_meta() + end
    txn.put(key, new, db=environment.history)
    return bool(new != value)


def _is_at(row: bytes, entry: Entry) -> bool:
    stamp, segment_id, offset = keys.INSTANCE.unpack_from(row)[:3]
    return (stamp, segment_id, offset) == (entry.stamp, *entry.position[:2])


def _restate_current(writer: Writer, txn: WriteTxn, where: bytes, row: bytes, entry: Entry) -> bool:
    series, _, common = writer.place_for(txn, entry)
    new = row[:_COMMON_AT] + common + entry.instance
    if series.prefix != where[:4]:
        raise IndexError_("the attributes extracted again name another series than the instance's own")
    txn.put(where, new, db=writer.environment.instances)
    writer.entities.touch_series(where[:4], series.counts_key[:4])
    return bool(new != row)


# progress ----------------------------------------------------------------------------------------------


def write_progress(environment: Environment, txn: WriteTxn, segment_id: int, digest: bytes, amended_bytes: int) -> None:
    """Notes that the records of a segment before an offset have the attributes of a set."""
    txn.put(keys.U64_KEY.pack(segment_id), keys.AMENDED.pack(digest, amended_bytes), db=environment.amended)


def read_progress(environment: Environment) -> dict[int, tuple[bytes, int]]:
    """For each segment the digest of the set, and the offset before which all records have its attributes."""
    with environment.reading() as txn, txn.cursor(db=environment.amended) as cursor:
        return {keys.U64_KEY.unpack(key)[0]: keys.AMENDED.unpack(value) for key, value in cursor}


def drop_unsearched(environment: Environment, txn: WriteTxn, count_max: int) -> bool:
    """Removes keys of `search` for attributes that are not searched. Returns whether there may be more."""
    with txn.cursor(db=environment.search) as cursor:
        has_row = cursor.first()
        while has_row:
            tag = int.from_bytes(cursor.key()[:4], "big")
            if tag in environment.schema.searched:
                has_row = cursor.set_range((tag + 1).to_bytes(4, "big"))
                continue
            if not count_max:
                return True
            count_max -= 1
            cursor.delete(True)
            has_row = bool(cursor.key())
    return False
