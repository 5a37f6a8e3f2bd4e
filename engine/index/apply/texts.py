r"""`texts`: the normal forms of some attributes, packed by study, so that `*infix*` reads bytes and not studies.

    key     tag u32, block u32: the study's id >> 6                                 both big endian
    value   +------+-------------+------------+------+-------------+-------- … -+
            | 0xFF | 0x80 | slot | text       | 0xFF | 0x80 | slot | text       |   slot: the low six bits of the id
            +------+-------------+------------+------+-------------+-------- … -+

One text for each value (for a person name: each of its groups), in the order of slots. Neither a slot nor 0xFF can be
part of a text, which is UTF-8, so a match lies within one text. A text that was cut ends in 0xFE: treat it as a match
for every search.

`Texts` updates the rows when the facts of studies change, within a batch of the writer. `query.text_scan` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from engine.dicom import tags
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, WriteTxn
from engine.index.format import keys
from engine.index.format.terms import normal_values, plain_text

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
"""The attributes of patient and study that have texts."""
_VRS = {tag: tags.vr_of(tag) for tag in TEXTS}
TEXT_BYTES_MAX = 256
"""Longer texts are cut; LO and PN have 64 characters a value or group."""
BLOCK_BITS = 6
SLOTS = (1 << BLOCK_BITS) - 1
START = 0xFF
SLOT_MARK = 0x80
CUT = b"\xfe"
"""Ends a text that was cut."""


@lru_cache(maxsize=4096)
def _texts_of(tag: int, value: bytes) -> tuple[bytes, ...]:
    """The texts of a stored value."""
    vr = _VRS[tag]
    normals = normal_values(vr, value)
    if len(normals) == 1 and "=" not in normals[0]:
        return (_bounded(normals[0].encode("utf-8", "replace")),)
    texts = set()
    for normal in normals:
        for text in normal.split("=") if vr == "PN" else (normal,):
            if text:
                texts.add(_bounded(text.encode("utf-8", "replace")))
    return tuple(sorted(texts))


def _bounded(text: bytes) -> bytes:
    return text if len(text) <= TEXT_BYTES_MAX else text[:TEXT_BYTES_MAX] + CUT


class Texts:
    """The rows that a batch changes."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._rows: dict[bytes, bytearray] = {}

    def begin(self) -> None:
        """Begins a batch."""
        self._rows.clear()

    def add(self, txn: ReadTxn, study_id: bytes, items: Mapping[int, bytes]) -> None:
        """Adds a new study, whose id is above all others."""
        number = keys.ID.unpack(study_id)[0]
        block = number >> BLOCK_BITS
        mark = bytes((START, SLOT_MARK | number & SLOTS))
        for tag in TEXTS & items.keys():
            value = items[tag]
            plain = plain_text(_VRS[tag], value)
            texts = _texts_of(tag, value) if plain is None else (_bounded(plain),) if plain else ()
            if texts:
                row = self._row(txn, keys.PAIR.pack(tag, block))
                for text in texts:
                    row += mark + text

    def change(self, txn: ReadTxn, study_id: bytes, before: Mapping[int, bytes], after: Mapping[int, bytes]) -> None:
        """Updates the rows of a study whose facts have changed."""
        number = keys.ID.unpack(study_id)[0]
        mark = bytes((START, SLOT_MARK | number & SLOTS))
        for tag in TEXTS:
            old, new = before.get(tag, b""), after.get(tag, b"")
            if old == new:
                continue
            row = self._row(txn, keys.PAIR.pack(tag, number >> BLOCK_BITS))
            entry = b"".join([mark + text for text in _texts_of(tag, new)]) if new else b""
            if old:
                _take_out(row, mark)
            last = row.rfind(START)
            if last < 0 or row[last + 1] <= mark[1]:
                row += entry
            else:
                at = _place_of(row, mark)
                row[at:at] = entry

    def _row(self, txn: ReadTxn, key: bytes) -> bytearray:
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = bytearray(txn.get(key, db=self._environment.texts) or b"")
        return row

    def write(self, txn: WriteTxn) -> None:
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
        end = row.find(START, row.rfind(mark) + 1)
        del row[start : end if end >= 0 else len(row)]


def _place_of(row: bytearray, mark: bytes) -> int:
    """Where to insert the texts of a slot that has none."""
    at = row.find(START)
    while at >= 0 and row[at + 1] < mark[1]:
        at = row.find(START, at + 1)
    return at if at >= 0 else len(row)
