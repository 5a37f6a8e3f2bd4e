"""Notes each commit of an engine that keeps every table right, so that those of an earlier engine are found.

An earlier engine opens an index of this format too, but it does not know the tables that came later (`tables._ADDED`),
and leaves their rows as they are. `access` may then name studies that have left a scope: its fill begins again.

    meta "commit of VERSION"    u64: the id of the transaction that wrote it. LMDB numbers all commits, of any engine

The word has the version, so that each engine finds the commits of another one, earlier or later.
"""

from __future__ import annotations

from engine.index.database.transactions import ReadTxn, Table, WriteTxn
from engine.index.format import keys


def note(txn: WriteTxn, meta: Table) -> None:
    """Notes a commit of this engine; call it first in each write transaction."""
    number = txn.id()
    if txn.get(keys.META_COMMIT, db=meta) != keys.U64.pack(number - 1):
        txn.delete(keys.META_ACCESS, db=meta)
    txn.put(keys.META_COMMIT, keys.U64.pack(number), db=meta)


def is_noted(txn: ReadTxn, meta: Table) -> bool:
    """Whether this engine, or one like it, made the last commit."""
    return txn.get(keys.META_COMMIT, db=meta) == keys.U64.pack(txn.id())
