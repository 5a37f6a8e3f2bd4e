"""Positions: how far the logs of other nodes have been applied, in rows of `meta`.

A node's log is a chain of groups with the numbers 1, 2, 3, ... in its slot. The row of a slot is written in the
transaction that applies a group, so that the position never says more or less than what is in the index.
"""

from __future__ import annotations

from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, WriteTxn
from engine.index.format import keys
from engine.index.format.rows import scan_prefix


def read(txn: ReadTxn, environment: Environment, slot: int) -> tuple[int, int]:
    """The number of the last group of a slot, and the largest stamp in its groups; zeros for none."""
    row = txn.get(keys.META_POSITION + keys.SLOT.pack(slot), db=environment.meta)
    return (0, 0) if row is None else keys.POSITION.unpack(row)


def read_all(txn: ReadTxn, environment: Environment) -> dict[int, tuple[int, int]]:
    """The same for every slot of which a group has been applied."""
    start = len(keys.META_POSITION)
    rows = scan_prefix(txn, environment.meta, keys.META_POSITION)
    return {keys.SLOT.unpack_from(key, start)[0]: keys.POSITION.unpack(row) for key, row in rows}


def write(txn: WriteTxn, environment: Environment, slot: int, number: int, newest_stamp: int) -> None:
    """Notes the last group of a slot, and the largest stamp in its groups."""
    row = keys.POSITION.pack(number, newest_stamp)
    txn.put(keys.META_POSITION + keys.SLOT.pack(slot), row, db=environment.meta)
