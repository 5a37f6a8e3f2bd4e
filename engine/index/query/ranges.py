"""Reads the ids in ranges of `search`: how many there are, and all of them. Works in the transaction of the reading."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Sequence

from engine.index.database.transactions import Cursor
from engine.index.format.terms import Range
from engine.index.query.reading import Reading

KEYS_MAX = 20_000
"""Ids of `search` read in one read transaction, up to those of one more key."""
_CHUNK = 256
"""Keys whose ids are read with one call."""


def count_ids(reading: Reading, ranges: Sequence[Range], keys_max: int) -> tuple[int, bool]:
    """The number of ids in the ranges, and whether all were counted: counting stops after `keys_max` keys."""
    count = 0
    with reading.txn.cursor(db=reading.environment.search) as cursor:
        for start, end in ranges:
            has_key = cursor.set_range(start)
            while has_key and cursor.key() < end:
                if not keys_max:
                    return count, False
                keys_max -= 1
                count += cursor.count()
                has_key = cursor.next_nodup()
    return count, True


def read_ids(reading: Reading, ranges: Sequence[Range], count_max: int) -> Generator[None, None, set[int] | None]:
    """The ids in the ranges; None if there are more than `count_max`. Yields every KEYS_MAX ids."""
    ids = array("I")
    remaining = KEYS_MAX
    for start, end in ranges:
        at: bytes | None = start
        while at is not None:
            before = len(ids)
            at = _read_some(reading, at, end, ids)
            count = len(ids) - before
            reading.explanation.keys_read += count
            if len(ids) > count_max:
                return None
            remaining -= max(count, 1)
            if remaining <= 0:
                yield
                remaining = KEYS_MAX
    return set(ids)


def ids_of_keys(cursor: Cursor, keys: Sequence[bytes]) -> array[int]:
    """All ids under these keys, which have one length. The table has 4 bytes for each."""
    if not keys:
        return array("I")
    length = len(keys[0])
    rows = bytes(cursor.getmulti(keys, dupdata=True, dupfixed_bytes=4, keyfixed=True))
    # Keys and ids are end to end, so the same byte of all ids is one slice with a fixed step.
    data = bytearray(len(rows) // (length + 4) * 4)
    for byte in range(4):
        data[byte::4] = rows[length + byte :: length + 4]
    ids = array("I", bytes(data))
    ids.byteswap()
    return ids


def _read_some(reading: Reading, start: bytes, end: bytes, ids: array[int]) -> bytes | None:
    """Reads the ids of some keys from `start` on. Returns the next key to read; None at the end."""
    by_length: dict[int, list[bytes]] = {}
    following: bytes | None = None
    with reading.txn.cursor(db=reading.environment.search) as cursor:
        if not cursor.set_range(start):
            return None
        remaining = _CHUNK
        for key in cursor.iternext_nodup(keys=True, values=False):
            if key >= end:
                break
            if not remaining:
                following = key
                break
            remaining -= 1
            by_length.setdefault(len(key), []).append(key)
        for group in by_length.values():
            ids += ids_of_keys(cursor, group)
    return following
