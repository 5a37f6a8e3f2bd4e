r"""`texts`: the normal forms of some attributes, packed by study, so that `*infix*` reads bytes and not studies.

    key     tag u32, block u32: the study's id >> 6                                 both big endian
    value   +------+-------------+------------+------+-------------+-------- … -+
            | 0xFF | 0x80 | slot | text       | 0xFF | 0x80 | slot | text       |   slot: the low six bits of the id
            +------+-------------+------------+------+-------------+-------- … -+

One text for each value, of a person name for each of its groups, in the order of slots. Neither a slot nor 0xFF can be
part of a text, which is UTF-8, so whatever is found lies within one text. A text that is cut ends in 0xFE: it may
hold anything.

`Texts` keeps the rows up with the facts of studies, `Scan` looks for bytes in all rows of an attribute, `Sieve` in the
texts of some studies; both in the order of arrival, while the walk goes on. What they find may be too much, never too
little. Not here: what a pattern is (`terms`), when to look here (`access`).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from engine.dicom import tags
from engine.index.database.environment import Environment
from engine.index.format import keys
from engine.index.format.terms import normal_values, plain_text

if TYPE_CHECKING:
    from engine.index.query.walk import Walk

TEXTS = frozenset(
    (
        tags.PatientName,
        tags.PatientID,
        tags.AccessionNumber,
        tags.StudyDescription,
        tags.ReferringPhysicianName,
        tags.StudyID,
    )
)
"""The attributes, all of patient or study, that have texts."""
_VRS = {tag: tags.vr_of(tag) for tag in TEXTS}
TEXT_BYTES_MAX = 256
"""Longer texts are cut; LO and PN have 64 characters a value or group."""
BLOCK_BITS = 6
ROWS_MAX = 4096
"""Rows read in one transaction, in which one piece is looked for: some 5 ms."""
_STEP_ROWS = 256
"""After so many rows a scan looks where it is: the rows of the next attribute follow."""

_SLOTS = (1 << BLOCK_BITS) - 1
_START = 0xFF
_SLOT_MARK = 0x80
_CUT = b"\xfe"


@lru_cache(maxsize=4096)
def _texts_of(tag: int, value: bytes) -> tuple[bytes, ...]:
    """The texts of a stored value."""
    vr = _VRS[tag]
    normals = normal_values(vr, value)
    if len(normals) == 1 and "=" not in normals[0]:
        return (_bounded(normals[0].encode("utf-8", "replace")),)
    found = set()
    for normal in normals:
        for text in normal.split("=") if vr == "PN" else (normal,):
            if text:
                found.add(_bounded(text.encode("utf-8", "replace")))
    return tuple(sorted(found))


def _bounded(text: bytes) -> bytes:
    return text if len(text) <= TEXT_BYTES_MAX else text[:TEXT_BYTES_MAX] + _CUT


class Texts:
    """The rows that a batch changes."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._rows: dict[bytes, bytearray] = {}

    def begin(self) -> None:
        """Begins a batch."""
        self._rows.clear()

    def add(self, txn: Any, study_id: bytes, items: Mapping[int, bytes]) -> None:
        """Adds a study that is new: its id is above all others."""
        number = keys.ID.unpack(study_id)[0]
        block = number >> BLOCK_BITS
        mark = bytes((_START, _SLOT_MARK | number & _SLOTS))
        for tag in TEXTS & items.keys():
            value = items[tag]
            plain = plain_text(_VRS[tag], value)
            texts = _texts_of(tag, value) if plain is None else (_bounded(plain),) if plain else ()
            if texts:
                row = self._row(txn, keys.PAIR.pack(tag, block))
                for text in texts:
                    row += mark + text

    def change(self, txn: Any, study_id: bytes, before: Mapping[int, bytes], after: Mapping[int, bytes]) -> None:
        """Brings the rows from one set of a study's facts to another."""
        number = keys.ID.unpack(study_id)[0]
        mark = bytes((_START, _SLOT_MARK | number & _SLOTS))
        for tag in TEXTS:
            old, new = before.get(tag, b""), after.get(tag, b"")
            if old == new:
                continue
            row = self._row(txn, keys.PAIR.pack(tag, number >> BLOCK_BITS))
            entry = b"".join([mark + text for text in _texts_of(tag, new)]) if new else b""
            if old:
                _take_out(row, mark)
            last = row.rfind(_START)
            if last < 0 or row[last + 1] <= mark[1]:
                row += entry
            else:
                at = _place_of(row, mark)
                row[at:at] = entry

    def _row(self, txn: Any, key: bytes) -> bytearray:
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = bytearray(txn.get(key, db=self._environment.texts) or b"")
        return row

    def write(self, txn: Any) -> None:
        """Ends a batch."""
        table = self._environment.texts
        for key in sorted(self._rows):
            row = self._rows[key]
            if row:
                txn.put(key, row, db=table)
            else:
                txn.delete(key, db=table)
        self._rows.clear()


def _take_out(row: bytearray, mark: bytes) -> None:
    """Removes the texts of a slot, which lie side by side."""
    start = row.find(mark)
    if start >= 0:
        end = row.find(_START, row.rfind(mark) + 1)
        del row[start : end if end >= 0 else len(row)]


def _place_of(row: bytearray, mark: bytes) -> int:
    """Where the texts of a slot belong that has none."""
    at = row.find(_START)
    while at >= 0 and row[at + 1] < mark[1]:
        at = row.find(_START, at + 1)
    return at if at >= 0 else len(row)


@dataclass(frozen=True, slots=True)
class Scan:
    """The studies with a text that holds one of some pieces, in the order of arrival, read as they are asked for."""

    tag: int
    pieces: Sequence[bytes]
    """Not empty, in UTF-8."""
    within: Container[int] | None = None
    """Only these are wanted; None: all."""

    def after(self, walk: Walk, number: int) -> Iterator[int]:
        """Their ids above `number`; now and then, negative, one up to which there are no more: a place to stop at."""
        first = number + 1
        within = self.within
        prefix = keys.ID.pack(self.tag)
        left = ROWS_MAX
        with walk.txn.cursor(db=walk.environment.texts) as cursor:
            there = cursor.set_range(keys.PAIR.pack(self.tag, first >> BLOCK_BITS))
            while there and (key := cursor.key()).startswith(prefix):
                if left <= 0:
                    yield -((keys.PAIR.unpack(key)[1] << BLOCK_BITS) - 1)
                    left = ROWS_MAX
                walk.explanation.keys_read += _STEP_ROWS
                left -= _STEP_ROWS * len(self.pieces)
                for row in islice(cursor.iternext(keys=False, values=True), _STEP_ROWS):
                    slots = _slots(row, self.pieces)
                    if not slots:
                        continue
                    key = cursor.key()
                    if not key.startswith(prefix):
                        break
                    left -= len(slots)
                    base = keys.PAIR.unpack(key)[1] << BLOCK_BITS
                    for slot in slots:
                        found = base | slot
                        if found >= first and (within is None or found in within):
                            yield found
                there = cursor.next()


@dataclass(frozen=True, slots=True)
class Sieve:
    """Those of some studies that have a text with one of some pieces."""

    tag: int
    pieces: Sequence[bytes]
    ids: array[int]
    """Of the studies, ascending."""

    def after(self, walk: Walk, number: int) -> Iterator[int]:
        """Their ids above `number`; now and then, negative, one up to which there are no more: a place to stop at."""
        get, table = walk.txn.get, walk.environment.texts
        block = -1
        row = b""
        left = ROWS_MAX
        for found in islice(self.ids, bisect_right(self.ids, number), None):
            if found >> BLOCK_BITS != block:
                block = found >> BLOCK_BITS
                row = get(keys.PAIR.pack(self.tag, block), db=table) or b""
                walk.explanation.keys_read += 1
            if _holds(row, found & _SLOTS, self.pieces):
                yield found
            left -= len(self.pieces)
            if left <= 0:
                yield -found
                left = ROWS_MAX


def _slots(row: bytes, pieces: Sequence[bytes]) -> Sequence[int]:
    """The slots with a text that may hold a piece, ascending."""
    if len(pieces) == 1 and pieces[0] not in row and _CUT not in row:
        return ()
    found = set()
    for piece in (*pieces, _CUT):
        at = row.find(piece)
        while at >= 0:
            found.add(row[row.rfind(_START, 0, at) + 1] & _SLOTS)
            following = row.find(_START, at)
            at = row.find(piece, following) if following >= 0 else -1
    return sorted(found)


def _holds(row: bytes, slot: int, pieces: Sequence[bytes]) -> bool:
    """Whether a text of a slot may hold a piece."""
    mark = bytes((_START, _SLOT_MARK | slot))
    start = row.find(mark)
    if start < 0:
        return False
    end = row.find(_START, row.rfind(mark) + 1)
    if end < 0:
        end = len(row)
    return any(row.find(piece, start, end) >= 0 for piece in (*pieces, _CUT))
