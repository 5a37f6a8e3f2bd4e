"""DATA/hospital/index: an LMDB environment with the state of the registry. It is derived from the state log.

    meta          "format" → 3, "state" → stamp of the last transaction of the log (u64, big endian),
                  "next" → the next free id (u64)
    patients      id                     → PatientRow          orders       id                → OrderRow
    visits        key of the number      → VisitRow            steps        id                → StepRow
    performed     SOP Instance UID       → PerformedRow        links        study NUL order id → LinkRow
    conflicts     study NUL order id     → ConflictRow
    workitems     SOP Instance UID       → WorkitemRow         subscribers   AE title         → SubscriberRow
    subscriptions UID NUL AE title       → SubscriptionRow     events        AE title NUL number (u64) → EventRow
    merges        id                     → MergeRow
    asked         AE title               → AskedRow            not in the log: it may be lost
    channels      AE title               → ChannelRow          not in the log
    gone          UID of a removed workitem → when (f64)       not in the log
    names         derived from these rows: what leads to an id (below)
    days          date (8) AE title (16) id of the step → state of the step
    facts, found, tallies      derived from the workitems (`workitems.index`)

Keys of `names`, each followed by NUL and the id (8 bytes):

    i VALUE       patient with that identifier           o ID       orders of a patient (8 bytes)
    p f a VALUE   order with that placer number,         s ID       steps of an order (8 bytes)
                  filler number, accession number        u UID      order with that Study Instance UID
    r VALUE       order with that requested procedure    t VALUE    step with that scheduled step id

    m ID          patients that were merged into a patient (8 bytes)

    x VALUE      merge of that identifier into another one

    l ID NUL UID  studies that are linked to an order (8 bytes); ends with the Study Instance UID instead of an id

A commit is not synced: after kill -9 the page cache has it; after a power cut the machine has another boot id than
DATA/hospital/boot, and the environment is made anew from the log. LMDB's own lock lets one writer of all processes in.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import lmdb
import msgspec

from engine.environments import SharedEnvironment
from engine.errors import OrdersError
from engine.orders.rows import (
    AnnouncementRow,
    AskedRow,
    ChannelRow,
    ConflictRow,
    EventRow,
    LinkRow,
    MergeRow,
    OrderRow,
    PatientRow,
    PerformedRow,
    StepRow,
    SubscriberRow,
    SubscriptionRow,
    VisitRow,
    WorkitemRow,
)
from engine.orders.workitems.facts import Facts
from engine.orders.workitems.index import WorkitemIndex

FORMAT: Final = b"3"
"""A database of another format is made anew from the log."""
MAP_BYTES: Final = 1 << 36
"""Address space for some ten million steps; takes neither memory nor disk."""
KEY_BYTES_MAX: Final = 400
"""Of a value within a key; LMDB allows 511 bytes for the whole."""

Row = TypeVar("Row")

_ROWS: Final[dict[str, Any]] = {
    "patients": PatientRow,
    "visits": VisitRow,
    "orders": OrderRow,
    "steps": StepRow,
    "performed": PerformedRow,
    "links": LinkRow,
    "conflicts": ConflictRow,
    "workitems": WorkitemRow,
    "subscribers": SubscriberRow,
    "subscriptions": SubscriptionRow,
    "events": EventRow,
    "announcements": AnnouncementRow,
    "merges": MergeRow,
}
GONE_MAX: Final = 100_000
"""Removed workitems that are remembered."""
ASKED_MAX: Final = 1000
"""Application entities whose last query is kept. Whoever may associate may call itself anything."""
TABLES: Final = tuple(_ROWS)
"""The tables that are in the log, by number there: append only."""


def id_key(number: int) -> bytes:
    """The key of an id."""
    return number.to_bytes(8, "big")


class Table(Generic[Row]):
    """Rows of one type."""

    def __init__(self, name: str, handle: Any, row: type[Row]) -> None:
        self.name = name
        self.handle = handle
        self._decoder = msgspec.msgpack.Decoder(row)

    def decode(self, raw: bytes) -> Row:
        """The row of stored bytes. Raises OrdersError."""
        try:
            return self._decoder.decode(raw)
        except msgspec.MsgspecError as error:
            raise OrdersError(f"a row of {self.name} cannot be read: {error}") from error


class Reading:
    """A snapshot of the last commit, or the changes of a writer."""

    def __init__(self, database: Database, txn: Any) -> None:
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
        keys = (key for key, _ in self._scan(self.database.names, start))
        return [int.from_bytes(key[-8:], "big") for key in keys if len(key) == length]

    def linked(self, order: int) -> list[str]:
        """The Study Instance UIDs of the links of an order that are in force."""
        start = b"l" + id_key(order) + b"\0"
        return [key[len(start) :].decode() for key, _ in self._scan(self.database.names, start)]

    def names_from(self, prefix: bytes) -> Iterator[tuple[bytes, int]]:
        """The values of `names` that begin with `prefix`, each with an id."""
        for key, _ in self._scan(self.database.names, prefix):
            yield key[:-9], int.from_bytes(key[-8:], "big")

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

    def __init__(self, database: Database, txn: Any) -> None:
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
        before = set() if old is None else _derived(table.name, key, table.decode(old))
        after = _derived(table.name, key, row)
        self._rederive(before, after)
        self._txn.put(key, raw, db=table.handle)
        if table is self.database.workitems and not self.is_replay:
            self.database.workitem_index.put(self._txn, key, row)
        self.changes.append((TABLES.index(table.name), key, raw))

    def delete(self, table: Table[Any], key: bytes) -> None:
        """Removes a row."""
        old = self._txn.get(key, db=table.handle)
        if old is not None:
            self._rederive(_derived(table.name, key, table.decode(old)), set())
            self._txn.delete(key, db=table.handle)
            if table is self.database.workitems and not self.is_replay:
                self.database.workitem_index.put(self._txn, key, None)
            self.changes.append((TABLES.index(table.name), key, None))

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
        handles = {"names": self.database.names, "days": self.database.days}
        kept = {(name, key) for name, key, _ in after}
        for name, key, _ in before - after:
            if (name, key) not in kept:
                self._txn.delete(key, db=handles[name])
        for name, key, value in after - before:
            self._txn.put(key, value, db=handles[name])


def name_key(letter: str, value: str) -> bytes:
    """The beginning of a key of `names`."""
    return letter.encode() + value.encode()[:KEY_BYTES_MAX]


def day_key(date: str, ae_title: str) -> bytes:
    """The beginning of a key of `days`: all steps of an AE title on a day."""
    return _fixed(date, 8) + _fixed(ae_title, 16)


def _fixed(text: str, length: int) -> bytes:
    return text.encode("utf-8", "replace")[:length].ljust(length, b"\0")


def _derived(table: str, key: bytes, row: Any) -> set[tuple[str, bytes, bytes]]:
    """The rows of `names` and `days` that follow from a row."""
    if table == "patients":
        found = {_name(name_key("i", each.value), key) for each in row.identifiers}
        return found | {_name(b"m" + id_key(row.merged_into), key)} if row.merged_into else found
    if table == "orders":
        numbers = (("p", row.placer), ("f", row.filler), ("a", row.accession))
        found = {_name(name_key(letter, each.value), key) for letter, each in numbers if each is not None}
        for procedure in row.procedures:
            found.add(_name(name_key("u", procedure.study_instance_uid), key))
            found.add(_name(name_key("r", procedure.requested_procedure_id), key))
        return found | {_name(b"o" + id_key(row.patient), key)}
    if table == "links" and not row.is_undone:
        return {("names", b"l" + id_key(row.order) + b"\0" + key[:-9], b"")}
    if table == "merges":
        return {_name(name_key("x", row.prior.value), key)}
    if table == "steps":
        state = str(row.state).encode()
        found = {("days", day_key(row.start_date, ae) + key, state) for ae in row.aes or ("",) if not row.is_unbooked}
        return found | {
            _name(b"s" + id_key(row.order), key),
            _name(name_key("t", row.scheduled_procedure_step_id), key),
        }
    return set()


def _name(start: bytes, key: bytes) -> tuple[str, bytes, bytes]:
    return "names", start + b"\0" + key, b""


def boot_id() -> bytes:
    """What distinguishes this boot of the machine from others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b"unknown"


class Database:
    """A handle; thread-safe. All handles of a process share one environment."""

    def __init__(self, folder: Path) -> None:
        """Opens it, and creates it if there is none. `is_stale` then tells whether to fill it from the log.

        Raises OrdersError.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._shared = SharedEnvironment(folder, map_bytes=MAP_BYTES, is_synced=False)
        except (lmdb.Error, OSError) as error:
            raise OrdersError(f"the orders in {folder} cannot be opened: {error}") from error
        self._environment = self._shared.lmdb
        try:
            self._open_tables()
            self._environment.reader_check()
        except lmdb.Error as error:
            self.close()
            raise OrdersError(f"the orders in {folder} cannot be opened: {error}") from error

    def _open_tables(self) -> None:
        def opened(name: str) -> Any:
            return self._environment.open_db(name.encode())

        self.meta, self.names, self.days = opened("meta"), opened("names"), opened("days")
        handles = {name: opened(name) for name in TABLES}
        self.patients: Table[PatientRow] = Table("patients", handles["patients"], PatientRow)
        self.visits: Table[VisitRow] = Table("visits", handles["visits"], VisitRow)
        self.orders: Table[OrderRow] = Table("orders", handles["orders"], OrderRow)
        self.steps: Table[StepRow] = Table("steps", handles["steps"], StepRow)
        self.performed: Table[PerformedRow] = Table("performed", handles["performed"], PerformedRow)
        self.links: Table[LinkRow] = Table("links", handles["links"], LinkRow)
        self.conflicts: Table[ConflictRow] = Table("conflicts", handles["conflicts"], ConflictRow)
        self.workitems: Table[WorkitemRow] = Table("workitems", handles["workitems"], WorkitemRow)
        self.subscribers: Table[SubscriberRow] = Table("subscribers", handles["subscribers"], SubscriberRow)
        self.subscriptions: Table[SubscriptionRow] = Table("subscriptions", handles["subscriptions"], SubscriptionRow)
        self.events: Table[EventRow] = Table("events", handles["events"], EventRow)
        self.announcements: Table[AnnouncementRow] = Table("announcements", handles["announcements"], AnnouncementRow)
        self.merges: Table[MergeRow] = Table("merges", handles["merges"], MergeRow)
        self.asked: Table[AskedRow] = Table("asked", opened("asked"), AskedRow)
        self.gone = opened("gone")
        self.channels: Table[ChannelRow] = Table("channels", opened("channels"), ChannelRow)
        self.workitem_index = WorkitemIndex(opened)

    @property
    def tables(self) -> tuple[Table[Any], ...]:
        """Those in the log, by their number there."""
        return (
            self.patients, self.visits, self.orders, self.steps, self.performed, self.links, self.conflicts,
            self.workitems, self.subscribers, self.subscriptions, self.events, self.announcements,
            self.merges,
        )  # fmt: skip

    def is_stale(self, reading: Reading) -> bool:
        """Whether it is to be filled from the log: it is new, or of another format."""
        return bool(reading.meta_value(b"format") != FORMAT)

    def mark_filled(self, writing: Writing) -> None:
        """From now on it is not stale, if the transaction is committed."""
        writing.set_meta(b"format", FORMAT)

    def empty(self, writing: Writing) -> None:
        """Removes all rows."""
        derived = (self.names, self.days, *self.workitem_index.handles)
        for handle in (self.meta, *derived, *(table.handle for table in self.tables)):
            writing.drop(handle)

    @contextmanager
    def read(self) -> Iterator[Reading]:
        """A snapshot. Raises OrdersError."""
        try:
            with self._environment.begin() as txn:
                yield Reading(self, txn)
        except lmdb.Error as error:
            raise OrdersError(f"the orders cannot be read: {error}") from error

    @contextmanager
    def write(self) -> Iterator[Writing]:
        """Changes, which all processes see when the context ends without an error. Raises OrdersError."""
        try:
            with self._environment.begin(write=True) as txn:
                yield Writing(self, txn)
        except (lmdb.Error, OSError) as error:
            raise OrdersError(f"the orders cannot be written: {error}") from error

    def begin_within(self, txn: Any) -> Any:
        """A raw transaction within another one."""
        return self._environment.begin(write=True, parent=txn)

    def close(self) -> None:
        """Closes it. No transaction may be open."""
        self._shared.close()
