"""The last studies that have changed their keys in `search` or `access`: a process keeps what it has put in order up to
date with them (`query.kept_places`), and need not begin again.

    meta "changed"    how many changes there have been, u64; the ids of the last ones, u32 each, CHANGES_MAX at most

A new study is none of them: its id is higher than all before. A removed study is. Whoever finds that more have changed
since than the row holds must begin again.
"""

from __future__ import annotations

from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, WriteTxn
from engine.index.format import keys

CHANGES_MAX = 256
"""Changes in the row: 1 KiB, written once in a batch that changes a study."""


class ChangedStudies:
    """Those of one batch."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._ids: set[bytes] = set()
        self._new: set[bytes] = set()

    def begin(self) -> None:
        """Begins a batch."""
        self._ids.clear()
        self._new.clear()

    def add_new(self, study_id: bytes) -> None:
        """Notes that a study is new: no process has put it in order yet."""
        self._new.add(study_id)

    def is_new(self, study_id: bytes) -> bool:
        """Whether a study has come in this batch."""
        return study_id in self._new

    def add(self, study_id: bytes) -> None:
        """Notes that the keys of a study have changed."""
        if study_id not in self._new:
            self._ids.add(study_id)

    def write(self, txn: WriteTxn) -> None:
        """Ends a batch."""
        if not self._ids:
            return
        count, last = read_changes(txn, self._environment)
        last.extend(keys.ID.unpack(study_id)[0] for study_id in sorted(self._ids))
        row = keys.U64.pack(count + len(self._ids)) + b"".join(map(keys.U32.pack, last[-CHANGES_MAX:]))
        txn.put(keys.META_CHANGED, row, db=self._environment.meta)
        self._ids.clear()


def count_changes(txn: ReadTxn, environment: Environment) -> int:
    """How many changes there have been."""
    row = txn.get(keys.META_CHANGED, db=environment.meta)
    return 0 if row is None else int(keys.U64.unpack_from(row)[0])


def read_changes(txn: ReadTxn, environment: Environment) -> tuple[int, list[int]]:
    """How many changes there have been, and the studies of the last ones."""
    row = txn.get(keys.META_CHANGED, db=environment.meta)
    if row is None:
        return 0, []
    return keys.U64.unpack_from(row)[0], [number for (number,) in keys.U32.iter_unpack(row[keys.U64.size :])]
