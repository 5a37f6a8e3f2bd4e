"""Searches `texts` for bytes: in all rows of an attribute (`Scan`), or in the texts of some studies (`Sieve`).

Both return ids in the order of arrival, during the walk; they may return too many, never too few. `apply.texts` has the
format of the rows, `terms` makes the bytes of a pattern, `access` decides when to search here.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from engine.index.apply.texts import BLOCK_BITS, CUT, SLOT_MARK, SLOTS, START
from engine.index.format import keys
from engine.index.query.reading import Reading

ROWS_MAX = 4096
"""Rows read in one transaction if there is one piece to search for: some 5 ms."""
_STEP_ROWS = 256
"""After this many rows a scan checks its key: the rows of the next attribute follow."""


@dataclass(frozen=True, slots=True)
class Scan:
    """All studies with a text that contains one of some pieces."""

    tag: int
    pieces: Sequence[bytes]
    """In UTF-8, not empty."""
    within: Container[int] | None = None
    """Return only these studies; None: all."""

    def after(self, reading: Reading, number: int) -> Iterator[int]:
        """The ids above `number`: see `candidates.Ids`."""
        first = number + 1
        within = self.within
        prefix = keys.ID.pack(self.tag)
        remaining = ROWS_MAX
        with reading.txn.cursor(db=reading.environment.texts) as cursor:
            has_row = cursor.set_range(keys.PAIR.pack(self.tag, first >> BLOCK_BITS))
            while has_row and (key := cursor.key()).startswith(prefix):
                if remaining <= 0:
                    yield -((keys.PAIR.unpack(key)[1] << BLOCK_BITS) - 1)
                    remaining = ROWS_MAX
                reading.explanation.keys_read += _STEP_ROWS
                remaining -= _STEP_ROWS * len(self.pieces)
                for row in islice(cursor.iternext(keys=False, values=True), _STEP_ROWS):
                    slots = _slots(row, self.pieces)
                    if not slots:
                        continue
                    key = cursor.key()
                    if not key.startswith(prefix):
                        break
                    remaining -= len(slots)
                    base = keys.PAIR.unpack(key)[1] << BLOCK_BITS
                    for slot in slots:
                        study_number = base | slot
                        if study_number >= first and (within is None or study_number in within):
                            yield study_number
                has_row = cursor.next()


@dataclass(frozen=True, slots=True)
class Sieve:
    """The studies of a list that have a text with one of some pieces."""

    tag: int
    pieces: Sequence[bytes]
    ids: array[int]
    """Of the studies, ascending."""

    def after(self, reading: Reading, number: int) -> Iterator[int]:
        """The ids above `number`: see `candidates.Ids`."""
        get, table = reading.txn.get, reading.environment.texts
        block = -1
        row = b""
        remaining = ROWS_MAX
        for study_number in islice(self.ids, bisect_right(self.ids, number), None):
            if study_number >> BLOCK_BITS != block:
                block = study_number >> BLOCK_BITS
                row = get(keys.PAIR.pack(self.tag, block), db=table) or b""
                reading.explanation.keys_read += 1
            if _holds(row, study_number & SLOTS, self.pieces):
                yield study_number
            remaining -= len(self.pieces)
            if remaining <= 0:
                yield -study_number
                remaining = ROWS_MAX


def _slots(row: bytes, pieces: Sequence[bytes]) -> Sequence[int]:
    """The slots with a text that may contain a piece, ascending."""
    if len(pieces) == 1 and pieces[0] not in row and CUT not in row:
        return ()
    slots = set()
    for piece in (*pieces, CUT):
        at = row.find(piece)
        while at >= 0:
            slots.add(row[row.rfind(START, 0, at) + 1] & SLOTS)
            following = row.find(START, at)
            at = row.find(piece, following) if following >= 0 else -1
    return sorted(slots)


def _holds(row: bytes, slot: int, pieces: Sequence[bytes]) -> bool:
    """Whether a text of a slot may contain a piece."""
    mark = bytes((START, SLOT_MARK | slot))
    start = row.find(mark)
    if start < 0:
        return False
    end = row.find(START, row.rfind(mark) + 1)
    if end < 0:
        end = len(row)
    return any(row.find(piece, start, end) >= 0 for piece in (*pieces, CUT))
