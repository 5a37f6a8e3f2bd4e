"""Lists everything that is not a current instance: holds, the quarantine, kept versions, known damage.

Reads only, page by page: no read transaction is open while a caller handles a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from engine.index.apply.history import unpack_history
from engine.index.apply.other_records import is_set, unpack_apart
from engine.index.apply.versions import State
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, Table, present
from engine.index.format import keys
from engine.index.format.entry import Hold, Quarantined
from engine.index.format.rows import scan_prefix
from engine.index.format.types import DamageRow, Instance
from engine.index.query.instances import instance_of
from engine.storage.record import Kind, Position, Record

PAGE = 500

Row = TypeVar("Row")


def read_rows(
    environment: Environment, table: Table, read: Callable[[ReadTxn, bytes, bytes], Row | None], prefix: bytes = b""
) -> Iterator[Row]:
    """The results of `read` for each row of a table, from the transaction, key and value; None is left out.

    With a prefix, only of the rows whose key begins with it.
    """
    after = b""
    while True:
        page: list[tuple[bytes, bytes]] = []
        with environment.reading() as txn:
            with txn.cursor(db=table) as cursor:
                has_row = cursor.set_range(after + b"\0" if after else prefix)
                while has_row and len(page) < PAGE and cursor.key().startswith(prefix):
                    page.append((cursor.key(), cursor.value()))
                    has_row = cursor.next()
            rows = [read(txn, key, value) for key, value in page]
        yield from (row for row in rows if row is not None)
        if len(page) < PAGE:
            return
        after = page[-1][0]


def read_holds(environment: Environment) -> list[Hold]:
    """The studies on hold, in the order of their UIDs."""

    def read(txn: ReadTxn, key: bytes, value: bytes) -> Hold | None:
        del txn
        counts, position, uid, meta = unpack_apart(key, value)
        return Hold.unpack(_record(Kind.HOLD, key, position, uid, meta)) if counts and is_set(key) else None

    return list(read_rows(environment, environment.holds, read))


def is_held(environment: Environment, study_instance_uid: bytes) -> bool:
    """Whether a study is on hold."""
    prefix = keys.bounded(study_instance_uid) + b"\0"
    with environment.reading() as txn:
        return any(value[0] and is_set(key) for key, value in scan_prefix(txn, environment.holds, prefix))


def read_quarantined(environment: Environment) -> Iterator[Quarantined]:
    """The records in quarantine, in the order of the claimed UIDs."""

    def read(txn: ReadTxn, key: bytes, value: bytes) -> Quarantined | None:
        del txn
        state, position, uid, meta = unpack_apart(key, value)
        if state != State.QUARANTINED:
            return None
        return Quarantined.unpack(_record(Kind.QUARANTINED, key, position, uid, meta))

    return read_rows(environment, environment.quarantine, read)


def list_kept_versions(environment: Environment) -> Iterator[Instance]:
    """Every kept version, in the order of the UIDs."""

    def read(txn: ReadTxn, key: bytes, value: bytes) -> Instance:
        del value
        record = unpack_history(key[-keys.ORDER_PLACE.size :], present(txn.get(key, db=environment.history)))
        return instance_of(record.entry(b""))

    return read_rows(environment, environment.versions, read)


def read_damage(environment: Environment) -> list[DamageRow]:
    """Known damage, in the order of places."""

    def read(txn: ReadTxn, key: bytes, value: bytes) -> DamageRow:
        del txn
        found_ns, uid_length = keys.DAMAGE.unpack_from(value)
        end = keys.DAMAGE.size + uid_length
        what = value[end:].decode("utf-8", "replace")
        segment_id, offset = keys.PLACE.unpack(key)
        return DamageRow(segment_id, offset, value[keys.DAMAGE.size : end], what, found_ns)

    return list(read_rows(environment, environment.damage, read))


def _record(kind: int, row_key: bytes, position: Position, key: bytes, meta: bytes) -> Record:
    stamp = keys.ORDER_PLACE.unpack(row_key[-keys.ORDER_PLACE.size :])[0]
    return Record(position, kind, 0, stamp, 0, 0, key, meta)
