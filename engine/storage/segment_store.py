"""SegmentStore: opens segments by their number, wherever they are stored.

`open` raises the errors of reading (`segment_bytes`), and:

    StorageFull          this process has no descriptor or memory left
    StorageError         any other fault of this process rather than of the segment

Not here: writing, recovery and repair, which work on this machine's files (`files`).
"""

from __future__ import annotations

import errno
import os
from typing import Protocol

from engine.errors import CorruptRecord, SegmentGone, StorageError, StorageFull
from engine.storage.files import NO_ROOM, Files
from engine.storage.segment import list_segments, segment_path
from engine.storage.segment_bytes import SegmentBytes, SegmentFile


class SegmentStore(Protocol):
    """Segments by number."""

    def open(self, segment_id: int, offset: int = 0) -> SegmentBytes:
        """A segment's bytes. `offset`: for the text of an error."""

    def segment_ids(self) -> list[int]:
        """All segments, ascending. Raises StorageFull, StorageFailed or StoreUnreachable."""

    def sync_names(self) -> None:
        """Makes the names of all segments durable. Raises StorageFailed."""


class LocalSegments:
    """The segments in a directory of this machine."""

    def __init__(self, directory: str, files: Files) -> None:
        self._directory = directory
        self._files = files

    def open(self, segment_id: int, offset: int = 0) -> SegmentFile:
        """Opens a file for reading. Raises as described above, and CorruptRecord if the name cannot be read (EIO)."""
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
