"""Small rows that many records of a batch change: the counts of series, numbers of `meta`, and the next ids.

Rows are loaded at the first use in a batch and written at its end.
"""

from __future__ import annotations

from engine.errors import IndexDamaged, IndexError_
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, WriteTxn
from engine.index.format import keys
from engine.index.format.rows import Counts, read_count


class Counters:
    """The small rows of one batch."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.series: dict[bytes, Counts] = {}
        """Rows of `counts` that have been loaded, by key."""
        self._next_ids: dict[str, int] = {}

    def begin(self) -> None:
        """Begins a batch."""
        self.series.clear()
        self._next_ids.clear()

    def write(self, txn: WriteTxn) -> None:
        """Ends a batch."""
        environment = self._environment
        for counts_key, row in self.series.items():
            txn.put(counts_key, row.encode(), db=environment.counts)
        for kind, number in self._next_ids.items():
            txn.put(keys.META_NEXT[kind], keys.U32.pack(number), db=environment.meta)

    def load_series(self, txn: ReadTxn, counts_key: bytes) -> Counts:
        """The row of a series. Raises IndexDamaged when it has none."""
        row = self.series.get(counts_key)
        if row is None:
            data = txn.get(counts_key, db=self._environment.counts)
            if data is None:
                raise IndexDamaged("a series has no counts: the index is damaged; run `filmroom rebuild-index`")
            row = self.series[counts_key] = Counts.decode(data)
        return row

    def count(self, txn: WriteTxn, word: bytes, change: int) -> None:
        """Changes a number of `meta`."""
        if change:
            table = self._environment.meta
            txn.put(word, keys.U64.pack(read_count(txn, self._environment, word) + change), db=table)

    def next_id(self, txn: ReadTxn, kind: str) -> bytes:
        """An id that was never used before. Raises IndexError_ when none is free."""
        number = self._next_ids.get(kind)
        if number is None:
            data = txn.get(keys.META_NEXT[kind], db=self._environment.meta)
            number = keys.U32.unpack(data)[0] if data else 1
        if number == 0xFFFFFFFF:
            raise IndexError_(f"the index has used every {kind} id: rebuild it")
        self._next_ids[kind] = number + 1
        return keys.ID.pack(number)
