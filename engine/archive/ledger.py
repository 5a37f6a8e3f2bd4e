"""The ledger: this process's log of tombstones, holds, corrections and the trash, and the one way to write to it.

    with ledger.locked():                    one process at a time decides and writes
        stamp = ledger.next_stamp(newest)    above the stamps of all records that this one is about
        ledger.write([tombstone, ...])       append, sync, second copy (`lifecycle.ledger_copy`), one index transaction

The ledger has its own segments: unlike ingest it may use the disk's reserve, and another thread may write to it.
`with_reserve` removes the reserve file when the disk is full, and tries once more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from engine.archive import locks
from engine.archive.ingest.writer import Writer
from engine.archive.lifecycle import reserve_file
from engine.archive.lifecycle.ledger_copy import LEDGER_SEGMENT_BYTES, LedgerCopy, commit, parts_of
from engine.errors import StorageFailed
from engine.index.format.entry import LedgerItem

if TYPE_CHECKING:
    from engine.archive.layout import Layout
    from engine.index.catalog import Catalog
    from engine.storage.files import Files
    from engine.storage.reader import LogReader

Result = TypeVar("Result")


class Ledger:
    """One process's ledger; opened when something is written."""

    def __init__(
        self,
        layout: Layout,
        files: Files,
        index: Catalog,
        reader: LogReader,
        refuse: Callable[[], None],
    ) -> None:
        """`refuse` raises ArchiveReadOnly where nothing may be written."""
        self._layout = layout
        self._files = files
        self._index = index
        self._reader = reader
        self._refuse = refuse
        self._writer: Writer | None = None

    @property
    def opened(self) -> Writer | None:
        """The writer, if it has been opened."""
        return self._writer

    def writer(self) -> Writer:
        """The writer. Use it only while `locked`. Raises ArchiveReadOnly."""
        self._refuse()
        if self._writer is None:
            writer = f"ledger-{os.getpid()}"
            segment_log = self._layout.segment_log(self._files, writer, segment_bytes=LEDGER_SEGMENT_BYTES)
            self._writer = Writer(self._index, segment_log, self._reader)
        return self._writer

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The right to decide what is deleted, held, corrected or restored: on all nodes, with all that any of them has
        acknowledged in this index. Raises ArchiveInUse when that takes too long, ClusterUnreachable."""
        with locks.ledger(self._layout, self._files):
            if self._layout.membership is not None:
                self._layout.membership.catch_up(self._index)
            yield

    def next_stamp(self, after: int) -> int:
        """A stamp above `after` and above all stamps that this ledger has given. Raises ArchiveReadOnly."""
        return self.writer().next_stamp(after)

    def write(self, records: Sequence[LedgerItem]) -> None:
        """Appends records, makes them durable, then visible to every process, all or none. Call it while `locked`.

        Fills in their positions. On a full disk each step is tried again with the room of the reserve file: other
        records in their place would leave these in the log, and both would take effect. Raises StorageFull,
        StorageFailed or IndexError_; the records may still be in the log, and then take effect at the next start.
        """
        writer = self.writer()
        for record in records:
            kind, key, meta = parts_of(record)
            append = partial(writer.log.append, kind, 0, record.stamp, key, meta, [], 0, 0)
            record.position = self.with_reserve(append)
        copy = LedgerCopy(self._layout, self._files)
        self.with_reserve(lambda: commit(writer.log, copy, records))
        self.with_reserve(lambda: self._index.apply(records))
        if self._layout.membership is not None:
            self._layout.membership.wait_announced(records[-1].position)
        writer.seal_rolled()

    def with_reserve(self, work: Callable[[], Result]) -> Result:
        """Runs `work`; when the disk is full, removes the reserve file and runs it again. Raises what `work` raises."""
        return reserve_file.with_reserve(self._layout, self._files, work)

    def fail(self, error: StorageFailed) -> None:
        """Stops all writing after an I/O error, since the state of the disk is unknown."""
        if self._writer is not None:
            self._writer.log.fail(error)

    def close(self) -> None:
        """Seals its segment."""
        if self._writer is not None:
            self._writer.close()
