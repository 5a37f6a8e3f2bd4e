"""Compares records of the ledger (tombstones, holds, corrections, the trash) with the index, by content, not by place.

Reads only; for the second copy of these records (`archive.lifecycle.ledger_copy`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from engine.index.apply.corrections import correction_key
from engine.index.apply.history import newest_stamp
from engine.index.apply.other_records import hold_key, tombstone_key, unpack_apart
from engine.index.apply.trash import trash_key
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn
from engine.index.format import keys
from engine.index.format.entry import Correction, Hold, LedgerItem, Tombstone
from engine.index.format.rows import scan_prefix
from engine.index.format.trash_record import TrashOperation, TrashRecord
from engine.index.query.instances import read_versions
from engine.index.query.listing import read_quarantined, read_rows
from engine.storage.record import Position


def is_known(environment: Environment, item: LedgerItem) -> bool:
    """Whether the record has been applied, at any place."""
    with environment.reading() as txn:
        if isinstance(item, Tombstone):
            table, row_key = environment.tombstones, tombstone_key(item)
        elif isinstance(item, Hold):
            table, row_key = environment.holds, hold_key(item)
        elif isinstance(item, TrashRecord):
            table, row_key = environment.trash_table, trash_key(item)
        else:
            table, row_key = environment.corrections, correction_key(item)
        return any(True for _ in scan_prefix(txn, table, row_key[: -keys.PLACE.size]))


def is_needed(environment: Environment, item: LedgerItem) -> bool:
    """Whether a record that the index does not know would change anything now.

    A tombstone would if a record that it names is alive, and so would a PUT; a hold if the index has no later record of
    its study; an EMPTY if its PUT is known. A correction and a RESTORE always would.
    """
    if isinstance(item, Hold):
        with environment.reading() as txn:
            newest = newest_stamp(txn, environment.holds, keys.bounded(item.study_instance_uid) + b"\0")
        return item.stamp > newest
    if isinstance(item, Correction):
        return True
    if isinstance(item, TrashRecord):
        if item.operation == TrashOperation.EMPTY:
            with environment.reading() as txn:
                prefix = keys.TRASH_RECORD + keys.U64_KEY.pack(item.settles)
                return any(True for _ in scan_prefix(txn, environment.trash_table, prefix))
        if not item.is_put:
            return True
        return any(
            version.stamp < item.stamp for uid in item.sop_instance_uids for version in read_versions(environment, uid)
        )
    return any(_would_kill(environment, item, uid) for uid in item.sop_instance_uids)


def _would_kill(environment: Environment, tombstone: Tombstone, sop_instance_uid: bytes) -> bool:
    stamps = {version.stamp for version in read_versions(environment, sop_instance_uid)}
    if tombstone.target_stamp:
        quarantined = (
            item.stamp for item in read_quarantined(environment) if item.sop_instance_uid == sop_instance_uid
        )
        return tombstone.target_stamp in stamps or tombstone.target_stamp in quarantined
    return any(stamp < tombstone.stamp for stamp in stamps)


def places(environment: Environment) -> Iterator[tuple[Position, ...]]:
    """The positions of each record of the ledger: several while a compaction has copied it."""

    def tombstone(txn: ReadTxn, key: bytes, value: bytes) -> tuple[bytes, Position]:
        del txn
        _, meta_length, key_length, _ = keys.TOMBSTONE.unpack(value)
        segment_id, offset = keys.PLACE.unpack(key[-keys.PLACE.size :])
        return _placeless(key), Position(segment_id, offset, key_length, meta_length, 0, 0)

    def apart(txn: ReadTxn, key: bytes, value: bytes) -> tuple[bytes, Position]:
        del txn
        return _placeless(key), unpack_apart(key, value)[1]

    tables = [
        read_rows(environment, environment.tombstones, tombstone),
        read_rows(environment, environment.holds, apart),
        read_rows(environment, environment.corrections, apart, keys.CORRECTION_RECORD),
    ]
    if environment.trash is not None:
        tables.append(read_rows(environment, environment.trash, apart, keys.TRASH_RECORD))
    for rows in tables:
        for _, copies in groupby(rows, key=lambda row: row[0]):
            yield tuple(position for _, position in copies)


def _placeless(key: bytes) -> bytes:
    """The key of a row without its place: the same for all copies of a record."""
    return key[: -keys.PLACE.size]
