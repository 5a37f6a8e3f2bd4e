"""What the index holds, row by row, for whoever compares it with the log: `archive.verify`.

Reads only, page by page, and keeps no read transaction between pages. Judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine.index import keys
from engine.index.environment import Environment
from engine.index.query.search import read_instance
from engine.index.relocation import rows_in, rows_of
from engine.index.tables import Index
from engine.index.types import Instance
from engine.storage.record import Kind, Record

PAGE = 500


def current_instances(index: Index) -> Iterator[Instance]:
    """Every current instance, by series."""
    environment = index.environment
    after = b""
    while True:
        with environment.reading() as txn, txn.cursor(db=environment.instances) as cursor:
            page: list[Instance] = []
            found = cursor.set_range(after + b"\0") if after else cursor.first()
            while found and len(page) < PAGE:
                after = bytes(cursor.key())
                page.append(read_instance(txn, environment, after, cursor.value()))
                found = cursor.next()
        yield from page
        if len(page) < PAGE:
            return


def unknown_records(index: Index, records: Sequence[Record]) -> list[Record]:
    """Those of `records` that the index has never been told of, at their positions."""
    with index.environment.reading() as txn:
        return [record for record in records if not _is_known(txn, index.environment, record)]


def tables_by_offset(index: Index, segment_id: int) -> dict[int, str]:
    """Where records of a segment begin that are no current instances, and the table that knows each; reads all rows."""
    places = ((key[-keys.PLACE.size :], table) for table, key in rows_in(index.environment, segment_id))
    return {keys.PLACE.unpack(place)[1]: table for place, table in places}


def _is_known(txn: Any, environment: Environment, record: Record) -> bool:
    if record.kind == Kind.INSTANCE:
        where = txn.get(keys.bounded(record.key), db=environment.sop_uids)
        row = txn.get(where, db=environment.instances) if where else None
        if row is not None and keys.INSTANCE.unpack_from(row)[1:3] == record.position[:2]:
            return True
    rows = rows_of([record])
    if not rows:
        return False
    table, key = rows[0]
    return txn.get(key, db=getattr(environment, table)) is not None
