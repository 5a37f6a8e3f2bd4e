"""SegmentStore: opens segments by their number, wherever they are stored.

    LayeredSegments ──► LocalSegments     files of this machine, which is all that most archives have
                   └──► elsewhere         asked for what is not here: peers, an object store

`open` and `segment_ids` are called on event loops and at each start: they do not wait for another machine. Only reads
of SegmentBytes do, and those that must not wait stop (`try_read_into`). `open` raises the errors of reading
(`segment_bytes`), and:

    StorageFull          this process has no descriptor or memory left
    StorageError         any other fault of this process rather than of the segment

A segment is named by its number, and by its salt where two histories of one archive may meet in a store: a restored
archive continues with numbers that the other one uses too.

Not here: writing, recovery and repair, which work on this machine's files (`files`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from typing import Protocol

from engine.errors import CorruptRecord, SegmentGone, StorageError, StorageFull
from engine.storage.files import NO_ROOM, Files
from engine.storage.hints import read_header_or_trailer
from engine.storage.segment import list_segments, segment_path
from engine.storage.segment_bytes import SegmentBytes, SegmentFile


class SegmentStore(Protocol):
    """Segments by number."""

    def open(self, segment_id: int, offset: int = 0, *, salt: int | None = None) -> SegmentBytes:
        """A segment's bytes. `offset`: for the text of an error. With a `salt`, only the segment that has it."""

    def segment_ids(self) -> list[int]:
        """All segments, ascending. Raises StorageFull, StorageFailed or StoreUnreachable."""

    def sync_names(self) -> None:
        """Makes the names of all segments durable. Raises StorageFailed."""

    def recall(self, segment_ids: Collection[int]) -> None:
        """Begins to bring back those of these segments that are in an archive class, as far as the store answers."""


class LocalSegments:
    """The segments in a directory of this machine."""

    def __init__(self, directory: str, files: Files) -> None:
        self._directory = directory
        self._files = files

    def open(self, segment_id: int, offset: int = 0, *, salt: int | None = None) -> SegmentFile:
        """Opens a file for reading. Raises as described above, and CorruptRecord if the name cannot be read (EIO)."""
        data = self._open(segment_id, offset)
        if salt is not None and read_header_or_trailer(data, segment_id).salt != salt:
            raise SegmentGone("the segment file is of another history", segment_id, offset)
        return data

    def _open(self, segment_id: int, offset: int) -> SegmentFile:
        try:
            fd = self._files.open(segment_path(self._directory, segment_id), os.O_RDONLY)
        except FileNotFoundError as error:
            raise SegmentGone("the segment file is missing", segment_id, offset) from error
        except OSError as error:
            if error.errno == errno.EIO:
                raise CorruptRecord(f"cannot be read: {error.strerror}", segment_id, offset) from error
            reason = f"segment {segment_id:016x} cannot be opened: {error.strerror}"
            # Out of descriptors or memory: the segment may be whole, and may open in a moment.
            raise (StorageFull if error.errno in NO_ROOM else StorageError)(reason) from error
        return SegmentFile(self._files, fd)

    def segment_ids(self) -> list[int]:
        """All segments in the directory, ascending."""
        return list_segments(self._directory, self._files)

    def sync_names(self) -> None:
        """Syncs the directory."""
        self._files.sync_directory(self._directory)

    def recall(self, segment_ids: Collection[int]) -> None:
        """Does nothing: all are here."""


class LayeredSegments:
    """The segments of a store, and those of a further store that are not in it."""

    def __init__(self, local: SegmentStore, elsewhere: SegmentStore) -> None:
        self._local = local
        self._elsewhere = elsewhere

    def open(self, segment_id: int, offset: int = 0, *, salt: int | None = None) -> SegmentBytes:
        """The segment of the first store if it has it, else what the further store has."""
        try:
            return self._local.open(segment_id, offset, salt=salt)
        except SegmentGone:
            pass
        try:
            return self._elsewhere.open(segment_id, offset, salt=salt)
        except SegmentGone:
            # It may have moved to the first store between the two looks.
            return self._local.open(segment_id, offset, salt=salt)

    def segment_ids(self) -> list[int]:
        """The segments of both."""
        return sorted({*self._local.segment_ids(), *self._elsewhere.segment_ids()})

    def sync_names(self) -> None:
        """Makes the names of both durable."""
        self._local.sync_names()
        self._elsewhere.sync_names()

    def recall(self, segment_ids: Collection[int]) -> None:
        """Those that are not here."""
        self._elsewhere.recall(set(segment_ids) - set(self._local.segment_ids()))
