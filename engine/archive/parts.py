"""The parts of an open archive. For the modules of the archive only: front ends call `archive.Archive`.

A function takes `Parts` when the façade or something below it calls it, and `Archive` when it uses the façade's
operations; it then takes the parts from `archive.parts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.archive import layout as layouts
from engine.archive.availability import Availability
from engine.archive.ledger import Ledger
from engine.archive.readonly import UnwrittenIndex, refuse
from engine.archive.register import Register
from engine.archive.retrieve import Retrieval
from engine.archive.tiering.last_reads import LastReads
from engine.storage.reader import LogReader
from engine.storage.segment_store import SegmentStore

if TYPE_CHECKING:
    from engine.archive.keeper import Keeper
    from engine.archive.layout import Layout
    from engine.index.catalog import Catalog
    from engine.storage.files import Files


class Parts:
    """The parts of an archive that one process has opened."""

    def __init__(
        self,
        layout: Layout,
        files: Files,
        index: Catalog,
        keeper: Keeper | None = None,
        unwritten: UnwrittenIndex | None = None,
    ) -> None:
        """`keeper`: in the keeper's process only. `unwritten`: the index of an archive that cannot be written."""
        self.layout = layout
        self.files = files
        self.index = index
        self.keeper = keeper
        self.unwritten = unwritten
        self.segments: SegmentStore = layout.segment_store(files)
        """The log, wherever its segments are."""
        self.reader = LogReader(self.segments)
        self.retrieval = Retrieval(index, self.reader)
        self.register = Register(layout, files) if keeper is None else keeper.register
        self.last_reads = LastReads(layout.data, files)
        self.availability = Availability(layout, files, index)
        self.ledger = Ledger(layout, files, index, self.reader, self.refuse_writing)

    @property
    def is_read_only(self) -> bool:
        """Whether every change is refused: instances, deletions, compaction."""
        return self.unwritten is not None or self.layout.role == layouts.REPLICA

    def refuse_writing(self) -> None:
        """Raises ArchiveReadOnly if the archive is read-only."""
        if self.is_read_only:
            refuse(self.layout)
