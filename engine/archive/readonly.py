"""Archives that accept no instance: a replica, or an archive on a file system that cannot be written.

    replica                   its keeper follows the log (`keeper`); index and lock files are written as usual
    nothing can be written    a read-only file system, no permission: there is no keeper; the existing index is used if
                              it was closed cleanly and no process has it open, else one is made from the log in a
                              temporary directory, and removed at the end

`RefusingWriter` replaces the writer: each method that would write raises ArchiveReadOnly.
`index.upkeep.rebuild` (follow) reads a log without changing it.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from engine import log as logs
from engine.archive.ingest.resolver import Resolver
from engine.archive.ingest.writer import Writer
from engine.archive.layout import REPLICA, Layout
from engine.dicom.schema import Schema
from engine.errors import ArchiveReadOnly, IndexError_, StorageError, for_log
from engine.index.catalog import Catalog
from engine.index.format.entry import Entry
from engine.index.format.types import Instance
from engine.index.upkeep import rebuild
from engine.storage.files import Files
from engine.storage.reader import LogReader
from engine.storage.segment_log import SegmentLog

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.archive.keeper import Progress

logger = logs.get("archive.readonly")

_UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def is_unwritable(error: StorageError) -> bool:
    """Whether a keeper failed because nothing can be written there."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _UNWRITABLE


def refuse(layout: Layout) -> NoReturn:
    """Raises ArchiveReadOnly."""
    if layout.role == REPLICA:
        raise ArchiveReadOnly(f"{layout.data} is a replica and read-only; `filmroom promote` makes it an archive")
    raise ArchiveReadOnly(f"{layout.data} cannot be written to: the archive is open for reading only")


class UnwrittenIndex:
    """The index of an archive that cannot be written."""

    def __init__(self, layout: Layout, files: Files, schema: Schema, progress: Progress | None = None) -> None:
        """Opens it, or makes a temporary one. Raises IndexError_, StorageFull or StorageFailed."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if Catalog.is_clean(layout.index, files):
            try:
                self.index = Catalog.open(layout.index, read_only=True, files=files, schema=schema)
                return
            except IndexError_ as error:
                logger.info("using a temporary index", reason=for_log(error))
        self._folder = tempfile.TemporaryDirectory(prefix="filmroom-index-")
        try:
            self.index = Catalog.open(self._folder.name, schema=schema)
            report = rebuild.replay(
                self.index, layout.segments, files, progress=progress, follow=True, archive_id=layout.archive_id
            )
        except BaseException:
            self._folder.cleanup()
            raise
        for finding in report.findings:
            logger.error("damage in the log", finding=str(finding))

    def close(self) -> None:
        """Removes the temporary index, if one was made."""
        self.index.close()
        if self._folder is not None:
            self._folder.cleanup()


class RefusingResolver(Resolver):
    """A resolver that acknowledges nothing, not even an instance that is already stored."""

    def __init__(self, resolver: Resolver, layout: Layout) -> None:
        super().__init__(resolver.index, resolver.reader, resolver.sync_segment, versions_max=resolver.versions_max)
        self._layout = layout

    def look_up(self, entry: Entry, length: int, crc: int) -> Instance | None:
        """Raises ArchiveReadOnly."""
        refuse(self._layout)


class RefusingWriter(Writer):
    """A writer that refuses everything."""

    def __init__(self, index: Catalog, log: SegmentLog, reader: LogReader, layout: Layout) -> None:
        super().__init__(index, log, reader)
        self.resolver = RefusingResolver(self.resolver, layout)
        self._layout = layout

    def append(
        self, entry: Entry, payload: Sequence[Buffer], length: int, crc: int, flags: int, *, sync_soon: bool = True
    ) -> None:
        """Raises ArchiveReadOnly."""
        refuse(self._layout)


class RefusingLog(SegmentLog):
    """A log that refuses appends. It has no segment, so it has nothing to sync or seal."""

    def __init__(self, layout: Layout, files: Files) -> None:
        super().__init__(layout.segments, files, layout.archive_id, writer="nobody")
        self._layout = layout

    def append(self, *arguments: object, **options: object) -> NoReturn:
        """Raises ArchiveReadOnly."""
        refuse(self._layout)

    def begin_stream(self, *arguments: object, **options: object) -> NoReturn:
        """Raises ArchiveReadOnly."""
        refuse(self._layout)

    def prepare(self, patience_s: float = 0.0) -> None:
        """Does nothing."""
