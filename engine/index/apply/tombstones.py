"""Applies tombstones to instances: thousands at once, in key order, without the fold rule in the simple case.

A tombstone that is later than every record of a UID deletes them all: their rows become DELETED and the instance is
removed, with nothing to fold. Nearly every deletion is like that. If a record is as late or later, and for tombstones
with a target, the fold rule decides (`apply_record`). Both ways give the same result.

Call this within a batch of the writer; `Entities.refresh` updates series, studies and patients at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from engine.index.apply.accounts import Accounts
from engine.index.apply.entities import Entities
from engine.index.apply.history import pack_history, record_of_tombstone, unpack_history
from engine.index.apply.other_records import OtherRecords, drop_key
from engine.index.apply.versions import State, UidRecord
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, WriteTxn
from engine.index.format import keys
from engine.index.format.entry import Tombstone
from engine.storage.record import Kind, record_bytes_of

_unpack_instance = keys.INSTANCE.unpack_from
_history = keys.HISTORY.pack
_order_place = keys.ORDER_PLACE.pack

_Fields: TypeAlias = tuple[Any, ...]
"""A row of `instances`, unpacked."""


class Tombstones:
    """Applies tombstones."""

    def __init__(
        self,
        environment: Environment,
        entities: Entities,
        accounts: Accounts,
        other_records: OtherRecords,
        apply_record: Callable[[WriteTxn, bytes, UidRecord | None], object],
    ) -> None:
        self._environment = environment
        self._entities = entities
        self._accounts = accounts
        self._other_records = other_records
        self._apply_record = apply_record
        """Applies the fold rule to one UID: `Writer.apply_record`."""

    def apply(self, txn: WriteTxn, tombstones: Sequence[Tombstone]) -> None:
        """Applies tombstones. They may have been applied before."""
        plain: dict[bytes, UidRecord] = {}
        for tombstone in tombstones:
            if not self._other_records.note_tombstone(txn, tombstone):
                continue
            if tombstone.target_stamp:
                for uid in tombstone.sop_instance_uids:
                    self._drop(txn, keys.bounded(uid), tombstone)
                continue
            record = record_of_tombstone(tombstone)
            for uid in tombstone.sop_instance_uids:
                if plain.setdefault(keys.bounded(uid), record) is not record:
                    self._apply_record(txn, keys.bounded(uid), record)
        if plain:
            self._apply_plain(txn, dict(sorted(plain.items())))

    def _drop(self, txn: WriteTxn, sop_key: bytes, tombstone: Tombstone) -> None:
        """Applies a tombstone with a target to one UID."""
        environment = self._environment
        txn.put(drop_key(tombstone, sop_key), b"", db=environment.drops)
        self._other_records.settle_quarantine(txn, sop_key, tombstone.target_stamp)
        self._apply_record(txn, sop_key, None)

    def _apply_plain(self, txn: WriteTxn, plain: dict[bytes, UidRecord]) -> None:
        environment = self._environment
        with txn.cursor(db=environment.sop_uids) as cursor:
            current = {sop_key: where for sop_key, where in cursor.getmulti(plain) if where}
        wheres = sorted(current.values())
        with txn.cursor(db=environment.instances) as cursor:
            instances = {where: _unpack_instance(row) for where, row in cursor.getmulti(wheres)}
        rows: list[tuple[bytes, bytes]] = []
        late: list[bytes] = []
        # The UIDs of a tombstone share one UidRecord: ask it for its stamp once.
        unique = {id(tombstone): tombstone for tombstone in plain.values()}.values()
        stamps = {tombstone.key[:8]: tombstone.stamp for tombstone in unique}
        for sop_key, history in self._histories(txn, plain):
            where = current.get(sop_key)
            stamp = plain[sop_key].key[:8]
            if (where is not None and instances[where][0] >= stamps[stamp]) or any(
                value[1] == Kind.INSTANCE and key[:8] >= stamp for key, value in history
            ):
                late.append(sop_key)
            elif history:
                self._delete_history(txn, sop_key, history)
        for sop_key in late:
            self._apply_record(txn, sop_key, plain.pop(sop_key))
            where = current.pop(sop_key, None)
            if where is not None:
                del instances[where]
        self._delete_current(current, instances, rows)
        for tombstone, sop_keys in _by_tombstone(plain):
            value = pack_history(tombstone, State.TOMBSTONE)
            rows += [(sop_key + b"\0" + tombstone.key, value) for sop_key in sop_keys]
        rows.sort()
        with txn.cursor(db=environment.history) as cursor:
            cursor.putmulti(rows)
        with txn.cursor(db=environment.sop_uids) as cursor:
            cursor.putmulti([(sop_key, b"") for sop_key in plain])
        self._remove(txn, instances)

    def _histories(
        self, txn: ReadTxn, plain: dict[bytes, UidRecord]
    ) -> Iterator[tuple[bytes, list[tuple[bytes, bytes]]]]:
        """The rows of `history` of each UID, without the UID in their keys."""
        with txn.cursor(db=self._environment.history) as cursor:
            is_over = not cursor.first()
            for sop_key in list(plain):
                history: list[tuple[bytes, bytes]] = []
                prefix = sop_key + b"\0"
                has_row = not is_over and cursor.set_range(prefix)
                is_over = not has_row
                while has_row:
                    key, value = cursor.item()
                    if not key.startswith(prefix):
                        break
                    history.append((key[len(prefix) :], value))
                    has_row = cursor.next()
                yield sop_key, history

    def _delete_history(self, txn: WriteTxn, sop_key: bytes, history: Sequence[tuple[bytes, bytes]]) -> None:
        environment = self._environment
        records: list[UidRecord] = []
        for key, value in history:
            if value[0] in (State.DELETED, State.TOMBSTONE):
                continue
            record = unpack_history(key, value)
            records.append(record)
            row_key = sop_key + b"\0" + key
            txn.put(row_key, pack_history(record, State.DELETED), db=environment.history)
            if record.state == State.VERSION:
                txn.delete(row_key, db=environment.versions)
            self._accounts.change(txn, record.position, record.state, State.DELETED)
        self._accounts.count_trash(records, {})

    def _delete_current(
        self, current: dict[bytes, bytes], instances: dict[bytes, _Fields], rows: list[tuple[bytes, bytes]]
    ) -> None:
        """Adds the rows of `history` for instances that were current."""
        for sop_key, where in current.items():
            (stamp, segment_id, offset, payload_length, _, _, payload_crc, meta_length, key_length, flags,
             _, _, _, _, _) = instances[where]  # fmt: skip
            order_and_place = _order_place(stamp, payload_crc << 32 | payload_length & 0xFFFFFFFF, segment_id, offset)
            head = _history(State.DELETED, Kind.INSTANCE, flags, payload_length, payload_crc, meta_length, key_length)
            rows.append((sop_key + b"\0" + order_and_place, head))

    def _remove(self, txn: WriteTxn, instances: dict[bytes, _Fields]) -> None:
        """Removes instances from their series, and counts their bytes as dead."""
        by_series: dict[bytes, list[int]] = {}
        by_segment: dict[int, list[int]] = {}
        for where, fields in instances.items():
            _, segment_id, _, payload_length, _, _, _, meta_length, key_length = fields[:9]
            by_series.setdefault(where[:4], []).append(payload_length)
            record_bytes = record_bytes_of(key_length, meta_length, payload_length)
            by_segment.setdefault(segment_id, []).append(record_bytes)
        with txn.cursor(db=self._environment.instances) as cursor:
            has_row = False
            for where in sorted(instances):
                if not has_row or cursor.key() != where:
                    cursor.set_key(where)
                has_row = cursor.delete()
        for series_id, lengths in by_series.items():
            self._entities.lost_instances(txn, series_id, len(lengths), sum(lengths))
        for segment_id, lengths in by_segment.items():
            self._accounts.kill(txn, segment_id, len(lengths), sum(lengths))


def _by_tombstone(plain: dict[bytes, UidRecord]) -> Iterator[tuple[UidRecord, list[bytes]]]:
    """The UIDs of each tombstone."""
    groups: dict[bytes, tuple[UidRecord, list[bytes]]] = {}
    for sop_key, tombstone in plain.items():
        groups.setdefault(tombstone.key, (tombstone, []))[1].append(sop_key)
    yield from groups.values()
