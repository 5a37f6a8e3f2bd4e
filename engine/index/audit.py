"""What the index holds, row by row, for whoever compares it with the log: `archive.verify`.

Reads only, page by page, and keeps no read transaction between pages. Judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.index import keys
from engine.index.fold import read_history
from engine.index.search import read_instance
from engine.index.tables import Index
from engine.index.types import Instance
from engine.storage.record import Record

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
    environment = index.environment
    unknown = []
    with environment.reading() as txn:
        for record in records:
            sop_key = keys.bounded(record.key)
            where = txn.get(sop_key, db=environment.sop_uids)
            if where:
                row = txn.get(where, db=environment.instances)
                if row is not None and read_instance(txn, environment, where, row).position == record.position:
                    continue
            if any(told.position[:2] == record.position[:2] for told in read_history(txn, environment, sop_key)):
                continue
            unknown.append(record)
    return unknown
