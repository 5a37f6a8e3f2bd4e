"""The state log: DATA/hospital/state/*.seg, the truth about patients and orders. `database` is derived from it.

One record of kind STATE is one transaction. Its key is empty, and its stamp orders it:

    flags     PART          a part of a snapshot: the state does not end with it
    meta      after u64     the stamp of the transaction before it; 0: it begins with an empty registry
              next u64      the next free id
    payload   MessagePack   [[number of the table, key, row or nil], …]

Whoever writes holds the write lock of the database, appends, syncs, and then commits to the database. A process that
dies between leaves a transaction that nobody was told of. The next one names its own predecessor, so such an orphan is
in no chain: the state is the chain that ends with the largest stamp that is no part of a snapshot.

Compaction writes the whole state as a new chain, syncs it, and removes the segments with nothing of that chain, but for
those that a living process still writes.

A copy is made while processes write, one segment after the other. Its last transactions may lack some before them, and
`settle` ends the chain before those.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from engine import log
from engine.errors import CorruptRecord, OrdersError, SegmentGone, for_log
from engine.storage.files import Files
from engine.storage.keyring import DataKey
from engine.storage.reader import LogReader
from engine.storage.record import Kind, Record, crc32c
from engine.storage.recovery import is_owned, read_segment
from engine.storage.segment import list_segments, segment_path
from engine.storage.segment_log import SegmentLog
from engine.storage.segment_store import LocalSegments

logger = log.get("orders.state_log")

SEGMENT_BYTES: Final = 16 << 20
SNAPSHOT_ROWS: Final = 2000
"""Rows in one transaction of a snapshot."""

PART: Final = 1
"""A snapshot that a power cut has left unfinished is no state. Logs of before have no such flag, and are whole."""

Change = tuple[int, bytes, bytes | None]

_META = struct.Struct("<QQ")
_DECODER: Final = msgspec.msgpack.Decoder(list[tuple[int, bytes, bytes | None]])


class StateLog:
    """One process's end of it; opened when something is written."""

    def __init__(
        self, directory: Path, files: Files, archive_id: bytes, data_key: Callable[[], DataKey] | None = None
    ) -> None:
        self._directory = str(directory)
        self._files = files
        self._archive_id = archive_id
        self._data_key = data_key
        self._log: SegmentLog | None = None

    # -- writing: under the write lock of the database --------------------------------------------

    def append(self, after: int, next_id: int, changes: list[Change], *, flags: int = 0, later_than: int = 0) -> int:
        """Appends a transaction and returns its stamp; `sync` makes it durable. Raises StorageFull, StorageFailed."""
        stamp = max(after + 1, later_than + 1, time.time_ns())
        payload = msgspec.msgpack.encode(changes)
        meta = _META.pack(after, next_id)
        writer = self._writer()
        writer.append(Kind.STATE, flags, stamp, b"", meta, [payload], len(payload), crc32c(payload))
        return stamp

    def sync(self) -> None:
        """Makes everything appended durable. Raises StorageFailed."""
        writer = self._writer()
        writer.sync()
        if writer.rolled:
            writer.seal_rolled()

    def _writer(self) -> SegmentLog:
        if self._log is None:
            self._files.make_directory(self._directory)
            self._log = SegmentLog(
                self._directory,
                self._files,
                self._archive_id,
                writer=f"orders-{os.getpid()}",
                segment_bytes=SEGMENT_BYTES,
                data_key=self._data_key,
            )
        return self._log

    def close(self) -> None:
        """Seals this process's segment."""
        writer, self._log = self._log, None
        if writer is not None:
            writer.close()

    # -- reading ----------------------------------------------------------------------------------

    def replay(self) -> Iterator[tuple[int, int, list[Change]]]:
        """Every transaction of the chain from the first on: its stamp, the next free id, its changes.

        Raises OrdersError if the chain has a gap, KeyMissing, StorageError.
        """
        reader = LogReader(LocalSegments(self._directory, self._files))
        try:
            for record in self._chain():
                try:
                    changes = _DECODER.decode(reader.read(record.position))
                except (CorruptRecord, msgspec.MsgspecError) as error:
                    raise OrdersError(f"a transaction of the state log cannot be read: {error}") from error
                yield record.stamp, _META.unpack(record.meta)[1], changes
        finally:
            reader.close()

    def _chain(self) -> list[Record]:
        records = {record.stamp: record for _, record in self._records()}
        chain: list[Record] = []
        stamp = max((record.stamp for record in records.values() if record.flags != PART), default=0)
        while stamp:
            record = records.pop(stamp, None)
            if record is None:
                raise OrdersError("the state log has a gap: restore DATA/hospital from a backup")
            chain.append(record)
            stamp = _META.unpack(record.meta)[0]
        return chain[::-1]

    def settle(self) -> list[int]:
        """Ends the chain with the last transaction that has all those before it; returns the stamps of those after it.

        For a copy that nobody writes. Raises OrdersError if no state is whole, KeyMissing, StorageError.
        """
        records = {record.stamp: record for _, record in self._records()}
        whole = {0}
        for stamp in sorted(records):  # a transaction comes after the one that it names
            if _META.unpack(records[stamp].meta)[0] in whole:
                whole.add(stamp)
        last = max((stamp for stamp in whole if stamp and records[stamp].flags != PART), default=0)
        dropped = sorted(stamp for stamp, record in records.items() if stamp > last and record.flags != PART)
        if dropped:
            if not last:
                raise OrdersError("the state log has a gap, and no state before it")
            self.append(last, _META.unpack(records[last].meta)[1], [], later_than=max(records))
            self.sync()
            self.close()
        return dropped

    def _records(self) -> Iterator[tuple[int, Record]]:
        if not self._files.exists(self._directory):
            return
        for segment_id in list_segments(self._directory, self._files):
            try:
                recovery = read_segment(self._files, self._directory, segment_id, 0)
            except (CorruptRecord, SegmentGone) as error:
                logger.warning(
                    "a segment of the state log has no header", segment=f"{segment_id:016x}", why=for_log(error)
                )
                continue
            for damage in recovery.damage:
                logger.error("the state log is damaged", damage=str(damage))
            for record in recovery.records:
                if record.kind == Kind.STATE and len(record.meta) == _META.size:
                    yield segment_id, record

    @property
    def bytes(self) -> int:
        """The length of all segments on the disk."""
        if not self._files.exists(self._directory):
            return 0
        total = 0
        for segment_id in list_segments(self._directory, self._files):
            try:
                total += os.stat(segment_path(self._directory, segment_id)).st_size
            except FileNotFoundError:
                continue
        return total

    # -- compaction: under the write lock of the database ------------------------------------------

    def write_snapshot(self, last: int, next_id: int, rows: Iterable[Change]) -> int:
        """Writes the whole state as a new chain and makes it durable; returns its last stamp.

        `last`: the stamp with which the old chain ends. The new one is later, even if the clock was set back.
        """
        self.close()
        batch: list[Change] = []
        stamp = self.append(0, next_id, [], flags=PART, later_than=last)
        for row in rows:
            batch.append(row)
            if len(batch) >= SNAPSHOT_ROWS:
                stamp = self.append(stamp, next_id, batch, flags=PART)
                batch = []
        stamp = self.append(stamp, next_id, batch)
        self.sync()
        return stamp

    def remove_old(self) -> int:
        """Removes the segments that have nothing of the chain and no writer; returns their number."""
        chain = {(record.position.segment_id, record.stamp) for record in self._chain()}
        needed = {segment_id for segment_id, _ in chain}
        removed = 0
        for segment_id in list_segments(self._directory, self._files):
            if segment_id not in needed and not is_owned(self._files, self._directory, segment_id):
                self._files.unlink(segment_path(self._directory, segment_id))
                removed += 1
        self._files.sync_directory(self._directory)
        return removed


def as_rows(tables: Iterable[tuple[int, Iterable[tuple[bytes, bytes]]]]) -> Iterator[Any]:
    """The rows of a snapshot from those of each table."""
    for number, rows in tables:
        for key, raw in rows:
            yield number, key, raw
