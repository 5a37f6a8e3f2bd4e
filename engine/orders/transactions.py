"""Transactions of the registry's database: a snapshot that is read, and changes that the log must have.

A change of a row changes what follows from it: `names` and `days` (`orders.names`) and the index of workitems.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

import msgspec

from engine.orders.names import KEY_BYTES_MAX, derived, id_key
from engine.orders.rows import AskedRow, ChannelRow
from engine.orders.tables import Row, Table, Tables
from engine.orders.workitems.facts import Facts

GONE_MAX: Final = 100_000
"""Removed workitems that are remembered."""
ASKED_MAX: Final = 1000
"""Application entities whose last query is kept. Whoever may associate may call itself anything."""


class Reading:
    """A snapshot of the last commit, or the changes of a writer."""

    def __init__(self, database: Tables, txn: Any) -> None:
        self.database = database
        self._txn = txn

    def get(self, table: Table[Row], key: bytes) -> Row | None:
        """The row; None if there is none."""
        raw = self._txn.get(key, db=table.handle)
        return None if raw is None else table.decode(raw)

    def raw(self, table: Table[Any], key: bytes) -> bytes | None:
        """The row as it is stored."""
        raw: bytes | None = self._txn.get(key, db=table.handle)
        return raw

    def rows(self, table: Table[Row], prefix: bytes = b"") -> Iterator[tuple[bytes, Row]]:
        """The rows whose keys begin with `prefix`. The table must not be changed meanwhile."""
        for key, raw in self._scan(table.handle, prefix):
            yield key, table.decode(raw)

    def rows_before(self, table: Table[Row], number: int) -> Iterator[tuple[int, Row]]:
        """The rows of a table whose keys are ids, the latest first, before an id."""
        with self._txn.cursor(db=table.handle) as cursor:
            found = cursor.prev() if cursor.set_range(id_key(number)) else cursor.last()
            while found:
                yield int.from_bytes(cursor.key(), "big"), table.decode(cursor.value())
                found = cursor.prev()

    def rows_after(self, table: Table[Row], number: int) -> Iterator[tuple[int, Row]]:
        """The rows of a table whose keys are ids, the earliest first, after an id."""
        with self._txn.cursor(db=table.handle) as cursor:
            if cursor.set_range(id_key(number + 1)):
                for key, raw in cursor.iternext():
                    yield int.from_bytes(key, "big"), table.decode(raw)

    def count(self, table: Table[Any]) -> int:
        """The number of rows."""
        return int(self._txn.stat(table.handle)["entries"])

    def room_of(self, table: Table[Any]) -> int:
        """The bytes of the pages that the rows take."""
        facts = self._txn.stat(table.handle)
        return int((facts["branch_pages"] + facts["leaf_pages"] + facts["overflow_pages"]) * facts["psize"])

    def ids(self, prefix: bytes) -> list[int]:
        """The ids that a key of `names` leads to. `prefix`: without its NUL."""
        start = prefix + b"\0"
        length = len(start) + 8
        found: list[int] = []
        with self._txn.cursor(db=self.database.names) as cursor:
            is_there = cursor.set_range(start)
            while is_there:
                key = cursor.key()
                if not key.startswith(start):
                    break
                if len(key) == length:
                    found.append(int.from_bytes(key[-8:], "big"))
                is_there = cursor.next()
        return found

    def linked(self, order: int) -> list[str]:
        """The Study Instance UIDs of the links of an order that are in force."""
        start = b"l" + id_key(order) + b"\0"
        return [key[len(start) :].decode() for key, _ in self._scan(self.database.names, start)]

    def names_from(self, prefix: bytes) -> Iterator[tuple[bytes, int]]:
        """The values of `names` that begin with `prefix`, each with an id."""
        for key, _ in self._scan(self.database.names, prefix):
            yield key[:-9], int.from_bytes(key[-8:], "big")

    def name_keys(self, start: bytes) -> Iterator[bytes]:
        """The keys of `names` from one on."""
        with self._txn.cursor(db=self.database.names) as cursor:
            if cursor.set_range(start):
                yield from cursor.iternext(keys=True, values=False)

    def days_from(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows of `days` from a key on."""
        with self._txn.cursor(db=self.database.days) as cursor:
            if cursor.set_range(start):
                yield from cursor.iternext()

    def day_cursor(self) -> Any:
        """A cursor of `days`, to be closed by the caller."""
        return self._txn.cursor(db=self.database.days)

    def meta_value(self, name: bytes) -> bytes:
        """A value of `meta`; b"" if there is none."""
        value: bytes = self._txn.get(name, b"", db=self.database.meta)
        return value

    def number(self, name: bytes) -> int:
        """A number of `meta`."""
        return int.from_bytes(self.meta_value(name), "big")

    def keys(self, table: Table[Any], prefix: bytes = b"") -> Iterator[bytes]:
        """The keys that begin with `prefix`."""
        for key, _ in self._scan(table.handle, prefix):
            yield key

    def rows_from(self, table: Table[Row], start: bytes) -> Iterator[tuple[bytes, Row]]:
        """The rows from a key on."""
        with self._txn.cursor(db=table.handle) as cursor:
            if cursor.set_range(start) if start else cursor.first():
                for key, raw in cursor.iternext():
                    yield key, table.decode(raw)

    def rows_one_by_one(self, table: Table[Row]) -> Iterator[tuple[bytes, Row]]:
        """All rows of a table that may be changed meanwhile; only the keys are in memory."""
        for key in list(self.keys(table)):
            row = self.get(table, key)
            if row is not None:
                yield key, row

    def facts(self, uid: str) -> Facts | None:
        """What searches read of a workitem."""
        return self.database.workitem_index.facts(self._txn, uid.encode())

    def workitems_found(
        self, prefixes: tuple[bytes, ...], after: bytes = b"", until: bytes | None = None
    ) -> Iterator[bytes]:
        """Workitems by beginnings of keys, as `WorkitemIndex.tails`."""
        return self.database.workitem_index.tails(self._txn, prefixes, after, until)

    def workitem_room(self, prefixes: tuple[bytes, ...], until: bytes | None, limit: int) -> int:
        """How many workitems beginnings of keys lead to, at most `limit`."""
        return sum(1 for _ in islice(self.workitems_found(prefixes, b"", until), limit))

    def workitem_count(self, state: str, label: str = "") -> int:
        """The workitems of a state, or of a state and a worklist label."""
        return self.database.workitem_index.count(self._txn, state, label)

    def is_gone(self, uid: str) -> bool:
        """Whether there was a workitem that has been removed, as far as it is known."""
        key = uid.encode()[:KEY_BYTES_MAX]
        return bool(key) and self._txn.get(key, db=self.database.gone) is not None

    def worklist_labels(self) -> list[str]:
        """The worklist labels in use, as many as people can choose from."""
        return self.database.workitem_index.labels(self._txn)

    def raw_rows(self, table: Table[Any]) -> Iterator[tuple[bytes, bytes]]:
        """All rows as they are stored."""
        return self._scan(table.handle, b"")

    def _scan(self, handle: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(db=handle) as cursor:
            if not (cursor.set_range(prefix) if prefix else cursor.first()):
                return
            for key, raw in cursor.iternext():
                if not key.startswith(prefix):
                    return
                yield key, raw


class Writing(Reading):
    """A write transaction: changes rows, keeps `names` and `days` true, and collects what the log must have."""

    def __init__(self, database: Tables, txn: Any) -> None:
        super().__init__(database, txn)
        self.changes: list[tuple[int, bytes, bytes | None]] = []
        """Number of the table, key, new row or None."""
        self.is_replay = False
        """Whether `index_workitems` will follow."""

    def put(self, table: Table[Row], key: bytes, row: Row) -> None:
        """Adds or replaces a row."""
        self.put_raw(table, key, msgspec.msgpack.encode(row), row)

    def put_raw(self, table: Table[Any], key: bytes, raw: bytes, row: Any = None) -> None:
        """The same, for a row as it is stored."""
        old = self._txn.get(key, db=table.handle)
        if old == raw:
            return
        row = table.decode(raw) if row is None else row
        before = set() if old is None else derived(table.name, key, table.decode(old))
        after = derived(table.name, key, row)
        self._rederive(before, after)
        self._txn.put(key, raw, db=table.handle)
        if table is self.database.workitems and not self.is_replay:
            self.database.workitem_index.put(self._txn, key, row)
        self.changes.append((table.number, key, raw))

    def delete(self, table: Table[Any], key: bytes) -> None:
        """Removes a row."""
        old = self._txn.get(key, db=table.handle)
        if old is not None:
            self._rederive(derived(table.name, key, table.decode(old)), set())
            self._txn.delete(key, db=table.handle)
            if table is self.database.workitems and not self.is_replay:
                self.database.workitem_index.put(self._txn, key, None)
            self.changes.append((table.number, key, None))

    def index_workitems(self) -> None:
        """After a replay, which leaves it out: a workitem may have many states, and only the last counts."""
        self.is_replay = False
        for key, row in self.rows(self.database.workitems):
            self.database.workitem_index.put(self._txn, key, row)

    def next_id(self) -> int:
        """A new id."""
        number = max(self.number(b"next"), 1)
        self.set_number(b"next", number + 1)
        return number

    def set_meta(self, name: bytes, value: bytes) -> None:
        """Sets a value of `meta`."""
        self._txn.put(name, value, db=self.database.meta)

    def set_number(self, name: bytes, number: int) -> None:
        """Sets a number of `meta`."""
        self.set_meta(name, number.to_bytes(8, "big"))

    def drop(self, handle: Any) -> None:
        """Removes all rows of a table."""
        self._txn.drop(handle, delete=False)

    @contextmanager
    def nested(self) -> Iterator[Writing]:
        """Changes within these; an error takes back only them."""
        with self.database.begin_within(self._txn) as txn:
            inner = Writing(self.database, txn)
            yield inner
        self.changes += inner.changes

    def put_asked(self, aet: bytes, row: AskedRow) -> None:
        """Sets a row of `asked`, which is not in the log; with too many, instead of the oldest."""
        asked = self.database.asked
        if self._txn.get(aet, db=asked.handle) is None and self.count(asked) >= ASKED_MAX:
            oldest, _ = min(self.rows(asked), key=lambda pair: pair[1].time)
            self._txn.delete(oldest, db=asked.handle)
        self._txn.put(aet, msgspec.msgpack.encode(row), db=asked.handle)

    def put_gone(self, uid: str, time_s: float) -> None:
        """Notes that a workitem was removed, which is not in the log; with too many, it is not noted."""
        if self._txn.stat(self.database.gone)["entries"] < GONE_MAX:
            self._txn.put(uid.encode(), struct.pack(">d", time_s), db=self.database.gone)

    def forget_gone(self, before_s: float) -> None:
        """Forgets the workitems that were removed before a time."""
        rows = list(self._scan(self.database.gone, b""))
        for key, raw in rows:
            if struct.unpack(">d", raw)[0] < before_s:
                self._txn.delete(key, db=self.database.gone)

    def put_channel(self, aet: bytes, row: ChannelRow | None) -> None:
        """Sets or removes a row of `channels`, which is not in the log."""
        channels = self.database.channels
        if row is None:
            self._txn.delete(aet, db=channels.handle)
        else:
            self._txn.put(aet, msgspec.msgpack.encode(row), db=channels.handle)

    def _rederive(self, before: set[tuple[str, bytes, bytes]], after: set[tuple[str, bytes, bytes]]) -> None:
        if before == after:
            return
        handles = {"names": self.database.names, "days": self.database.days}
        if before:
            kept = {(name, key) for name, key, _ in after}
            for name, key, _ in before - after:
                if (name, key) not in kept:
                    self._txn.delete(key, db=handles[name])
            after = after - before
        for name, key, value in after:
            self._txn.put(key, value, db=handles[name])
