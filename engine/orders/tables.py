"""The tables of the registry's database (`orders.database`).

    meta          "format" → 4, "state" → stamp of the last transaction of the log (u64, big endian),
                  "next" → the next free id (u64)
    patients      id                     → PatientRow          orders       id                → OrderRow
    visits        key of the number      → VisitRow            steps        id                → StepRow
    performed     SOP Instance UID       → PerformedRow        links        study NUL order id → LinkRow
    conflicts     study NUL order id     → ConflictRow
    workitems     SOP Instance UID       → WorkitemRow         subscribers   AE title         → SubscriberRow
    subscriptions UID NUL AE title       → SubscriptionRow     events        AE title NUL number (u64) → EventRow
    merges        id                     → MergeRow            announcements id                → AnnouncementRow
    asked         AE title               → AskedRow            not in the log: it may be lost
    channels      AE title               → ChannelRow          not in the log
    gone          UID of a removed workitem → when (f64)       not in the log
    names         derived from these rows: what leads to an id
    days          date (8) AE title (16) id of the step → state of the step
    facts, found, tallies      derived from the workitems (`workitems.index`)

The keys of `names` and `days` are in `orders.names`.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import msgspec

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
from engine.orders.workitems.index import WorkitemIndex

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
TABLES: Final = tuple(_ROWS)
"""The tables that are in the log, by number there: append only."""


class Table(Generic[Row]):
    """Rows of one type."""

    def __init__(self, name: str, handle: Any, row: type[Row]) -> None:
        self.name = name
        self.number = TABLES.index(name) if name in _ROWS else -1
        """In the log; -1: it is not in it."""
        self.handle = handle
        self._decoder = msgspec.msgpack.Decoder(row)

    def decode(self, raw: bytes) -> Row:
        """The row of stored bytes. Raises OrdersError."""
        try:
            return self._decoder.decode(raw)
        except msgspec.MsgspecError as error:
            raise OrdersError(f"a row of {self.name} cannot be read: {error}") from error


class Tables:
    """All of one environment."""

    def __init__(self, environment: Any) -> None:
        """Opens those that are there and makes the others. Raises lmdb.Error."""

        def opened(name: str) -> Any:
            return environment.open_db(name.encode())

        self._environment = environment
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

    def begin_within(self, txn: Any) -> Any:
        """A raw transaction within another one."""
        return self._environment.begin(write=True, parent=txn)
