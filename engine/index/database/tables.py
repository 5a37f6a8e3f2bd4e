"""Opens or creates the tables of the index, and checks their format. `format.keys` draws their contents."""

from __future__ import annotations

from typing import Any

import lmdb

from engine.errors import IndexError_, IndexOutdated
from engine.index.database import commits
from engine.index.database.transactions import ReadTxn, Table
from engine.index.format import keys


class Tables:
    """The handles of the tables, valid in every transaction of this process."""

    instances: Table
    sop_uids: Table
    history: Table
    versions: Table
    drops: Table
    tombstones: Table
    deletions: Table | None
    holds: Table
    quarantine: Table
    damage: Table
    counts: Table
    series: Table
    series_uids: Table
    series_statements: Table
    studies: Table
    study_uids: Table
    study_statements: Table
    patients: Table
    patient_keys: Table
    patient_studies: Table
    search: Table
    access: Table | None
    first_senders: Table | None
    texts: Table
    corrections: Table
    trash: Table | None
    amended: Table
    names: Table
    segments: Table
    meta: Table

    @property
    def trash_table(self) -> Table:
        """The table of the trash. Every index that may be written has it."""
        if self.trash is None:
            raise IndexError_("this index was made before there was a trash, and is open for reading only")
        return self.trash

    @property
    def access_table(self) -> Table:
        """The table of what scopes ask. Every index that may be written has it."""
        if self.access is None:
            raise IndexError_("this index was made before scopes had keys, and is open for reading only")
        return self.access

    @property
    def first_senders_table(self) -> Table:
        """The table of the first sender of each series. Every index that may be written has it."""
        if self.first_senders is None:
            raise IndexError_("this index was made before it had the first senders, and is open for reading only")
        return self.first_senders


TABLES = tuple(Tables.__annotations__)

_ADDED = ("deletions", "trash", "access", "first_senders")
"""Tables that an index of this format may lack. A read-only handle of such an index has None."""

_SEVERAL = frozenset(("search", "access"))
"""Tables with several values for each key, all ids of four bytes: `dupsort` and `dupfixed`."""


def open_tables(environment: Any, tables: Tables, directory: str, *, read_only: bool) -> None:
    """Opens the tables of an LMDB environment, and creates missing ones. Takes LMDB's write lock.

    Raises IndexOutdated for another format, IndexError_ when a table is missing and `read_only` is set, or lmdb.Error.
    """
    is_missing = False
    # Each in a transaction of its own, which commits: a handle opened in a read transaction ends with it.
    for name in TABLES:
        several = name in _SEVERAL
        try:
            handle = environment.open_db(name.encode(), create=False, dupsort=several, dupfixed=several)
            setattr(tables, name, handle)
        except lmdb.NotFoundError:
            if name in _ADDED and read_only:
                setattr(tables, name, None)
            else:
                is_missing = True
    if hasattr(tables, "meta"):
        with environment.begin() as txn:
            _check_format(txn, tables, directory)
    if not is_missing:
        return
    if read_only:
        raise IndexError_(f"there is no index in {directory}")
    _create_tables(environment, tables)
    with environment.begin() as txn:
        _check_format(txn, tables, directory)


def _create_tables(environment: Any, tables: Tables) -> None:
    with environment.begin(write=True) as txn:
        for name in TABLES:
            several = name in _SEVERAL
            handle = environment.open_db(name.encode(), txn=txn, dupsort=several, dupfixed=several)
            setattr(tables, name, handle)
        if txn.get(keys.META_FORMAT, db=tables.meta) is None:
            commits.note(txn, tables.meta)
            txn.put(keys.META_FORMAT, keys.U32.pack(keys.FORMAT), db=tables.meta)
            txn.put(keys.META_ACCESS, keys.ACCESS_FILL.pack(keys.ACCESS_VERSION, keys.ACCESS_FILLED), db=tables.meta)


def _check_format(txn: ReadTxn, tables: Tables, directory: str) -> None:
    stored_format = txn.get(keys.META_FORMAT, db=tables.meta)
    if stored_format != keys.U32.pack(keys.FORMAT):
        number = keys.U32.unpack(stored_format)[0] if stored_format and len(stored_format) == 4 else "none"
        raise IndexOutdated(f"the index in {directory} has format {number}, this engine has {keys.FORMAT}: rebuild it")
