"""Lists what is in the trash: the PUTs under which instances wait, and these instances. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.index.apply.history import read_history
from engine.index.apply.trash import trash_of_row
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, Table
from engine.index.format import keys
from engine.index.format.rows import scan_prefix
from engine.index.format.trash_record import TrashRecord
from engine.index.format.types import Instance
from engine.index.query.instances import instance_of

UIDS_AT_ONCE = 500
"""SOP Instance UIDs that are looked up in one read transaction."""


@dataclass(frozen=True, slots=True)
class TrashEntry:
    """What one deletion has put into the trash of one study, as far as it is still there."""

    stamp: int
    """Names the entry: the stamp of its PUT."""
    puts: tuple[TrashRecord, ...]
    """Its records: several for several series, and for very many UIDs."""
    instances: int
    """SOP Instance UIDs that wait."""
    data_bytes: int
    """Length of their data sets, kept versions included."""

    @property
    def put(self) -> TrashRecord:
        """Its first record."""
        return self.puts[0]

    @property
    def is_whole(self) -> bool:
        """Whether everything that was put is still there."""
        return self.instances == sum(len(put.sop_instance_uids) for put in self.puts)


def read_entries(environment: Environment, before: int, limit: int) -> list[TrashEntry]:
    """Entries with a stamp below `before` (0: any), the latest first."""
    table = environment.trash
    entries: list[TrashEntry] = []
    if table is None:
        return entries
    end = keys.TRASH_ENTRY + keys.U64_KEY.pack(before) if before else bytes((keys.TRASH_ENTRY[0] + 1,))
    with environment.reading() as txn, txn.cursor(db=table) as cursor:
        has_row = cursor.prev() if cursor.set_range(end) else cursor.last()
        while has_row and cursor.key().startswith(keys.TRASH_ENTRY) and len(entries) < limit:
            (stamp,) = keys.U64_KEY.unpack(cursor.key()[1:])
            entry = _entry(txn, table, stamp, cursor.value())
            if entry is not None:
                entries.append(entry)
            has_row = cursor.prev()
    return entries


def find_entry(environment: Environment, stamp: int) -> TrashEntry | None:
    """The entry with this stamp; None if nothing waits under it."""
    table = environment.trash
    if table is None or not 0 < stamp < 1 << 64:
        return None
    with environment.reading() as txn:
        row = txn.get(keys.TRASH_ENTRY + keys.U64_KEY.pack(stamp), db=table)
        return None if row is None else _entry(txn, table, stamp, row)


def read_instances(environment: Environment, entry: TrashEntry) -> Iterator[Instance]:
    """The records that wait under an entry, kept versions included; those of one UID one after another."""
    for put in entry.puts:
        for at in range(0, len(put.sop_instance_uids), UIDS_AT_ONCE):
            instances: list[Instance] = []
            with environment.reading() as txn:
                for uid in put.sop_instance_uids[at : at + UIDS_AT_ONCE]:
                    records = read_history(txn, environment, keys.bounded(uid))
                    instances += [instance_of(one.entry(uid)) for one in records if one.put_stamp == entry.stamp]
            yield from instances


def _entry(txn: ReadTxn, table: Table, stamp: int, row: bytes) -> TrashEntry | None:
    count, data_bytes = keys.TRASH.unpack(row)
    rows = scan_prefix(txn, table, keys.TRASH_RECORD + keys.U64_KEY.pack(stamp))
    puts = tuple(item for key, value in rows if value[0] and (item := trash_of_row(key, value)).is_put)
    return TrashEntry(stamp, puts, count, data_bytes) if puts else None
