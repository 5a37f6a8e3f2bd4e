"""Who sent the first current instance of each series: the one with the earliest order, whichever was applied first.

So every node and every rebuild names the same sender. Of instances with one order, that whose title comes first counts.

    note       an instance that may be the first of its series: one put for a new series, and when an earlier one comes
    replace    the first one of those that are left, after a series has lost instances
    read       by the row; a series that has none is older than the table: the rows of all its instances are read

The rows are right as long as those of `access` are (`access_tags.read_fill`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, WriteTxn
from engine.index.format import keys
from engine.index.format.rows import read_name, scan_prefix


@dataclass(frozen=True, slots=True)
class FirstSender:
    """The sender of a series' first instance."""

    order: bytes
    title_id: int
    """The name id of its calling AE title."""

    @classmethod
    def of(cls, instance_row: bytes) -> FirstSender:
        """The order and the sender of an instance."""
        fields = keys.INSTANCE.unpack_from(instance_row)
        return cls(keys.ORDER.pack(fields[0], keys.tie_of(fields[3], fields[6])), fields[12])

    def encode(self) -> bytes:
        return self.order + keys.U32.pack(self.title_id)

    @classmethod
    def decode(cls, row: bytes) -> FirstSender:
        return cls(row[: keys.ORDER_BYTES], keys.U32.unpack(row[keys.ORDER_BYTES :])[0])


def earliest(txn: ReadTxn, environment: Environment, senders: Iterable[FirstSender]) -> FirstSender | None:
    """The first of these; None: there are none."""
    first: FirstSender | None = None
    for each in senders:
        if first is None or each.order < first.order:
            first = each
        elif each.order == first.order and each.title_id != first.title_id:
            first = min(first, each, key=lambda one: read_name(txn, environment, one.title_id))
    return first


def stored(txn: ReadTxn, environment: Environment, series_id: bytes) -> FirstSender | None:
    """The row of a series."""
    table = environment.first_senders
    row = None if table is None else txn.get(series_id, db=table)
    return None if row is None else FirstSender.decode(row)


def found(txn: ReadTxn, environment: Environment, series_id: bytes) -> FirstSender | None:
    """The same from the rows of the instances, of which there may be thousands."""
    rows = (row for _, row in scan_prefix(txn, environment.instances, series_id))
    return earliest(txn, environment, map(FirstSender.of, rows))


def note(
    txn: WriteTxn, environment: Environment, series_id: bytes, sender: FirstSender, *, is_only: bool
) -> tuple[FirstSender | None, FirstSender]:
    """Notes an instance. Returns the first one as it was stored, and as it is now. `is_only`: the series had none."""
    if is_only:
        replace(txn, environment, series_id, None, sender)
        return None, sender
    before = stored(txn, environment, series_id)
    known = found(txn, environment, series_id) if before is None else before
    first = sender if known is None else earliest(txn, environment, (known, sender)) or sender
    replace(txn, environment, series_id, before, first)
    return before, first


def replace(
    txn: WriteTxn, environment: Environment, series_id: bytes, before: FirstSender | None, first: FirstSender | None
) -> None:
    """Stores the first one; None: the series has no instances."""
    if first is None:
        txn.delete(series_id, db=environment.first_senders_table)
    elif first != before:
        txn.put(series_id, first.encode(), db=environment.first_senders_table)


def read(txn: ReadTxn, environment: Environment, series_id: bytes) -> FirstSender | None:
    """The first one of a series; None: it has no instances."""
    return stored(txn, environment, series_id) or found(txn, environment, series_id)


def fill(txn: WriteTxn, environment: Environment, study_id: bytes) -> None:
    """Stores the missing rows of a study."""
    for key, _ in scan_prefix(txn, environment.counts, study_id):
        if stored(txn, environment, key[4:]) is None:
            replace(txn, environment, key[4:], None, found(txn, environment, key[4:]))
