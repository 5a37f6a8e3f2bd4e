"""Keeps the tables of rows as the journal grows, in the process that writes it.

    a message or an outcome ──► appended to the log ──► its half of a row in the page cache
    a table that cannot be written ──► removed; readers walk over its segment, and the next start makes it again

A table lags behind the log by the last call at most, if its writer was killed between the two.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from engine import log
from engine.errors import CorruptRecord, StorageError, for_log
from engine.journal.row_table import (
    HEADER_BYTES,
    MESSAGE_BYTES,
    ROW_BYTES,
    WHOLE,
    RowTable,
    encode_header,
    encode_message,
    encode_outcome,
    table_path,
    this_boot,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.storage.files import Files

logger = log.get("journal.rows")

OPEN_MAX: Final = 3
"""Tables that are marked as changing: after a power cut those are made anew. Another one costs two syncs."""


class RowKeeper:
    """The tables of a journal, for its writer; on one thread."""

    def __init__(self, directory: str, files: Files, salt_of: Callable[[int], int]) -> None:
        """`salt_of`: the salt of a segment. Raises CorruptRecord."""
        self._directory = directory
        self._files = files
        self._salt_of = salt_of
        self._boot = this_boot()
        self._firsts: list[int] = []
        self._segments: list[int] = []
        """Beside `_firsts`: the tables, the oldest first."""
        self._open: OrderedDict[int, int] = OrderedDict()
        """Segment → descriptor of its table, which is marked as changing."""
        self._lost: set[int] = set()
        """Segments whose tables could not be written."""

    def load(self, segments: Sequence[int]) -> list[int]:
        """Takes the tables of these segments; returns the segments from the first one on that has none to believe.

        Tables of other segments are removed, and of those that are returned.
        """
        count = 0
        for segment_id in segments:
            try:
                table = RowTable(self._directory, self._files, segment_id, self._salt_of(segment_id))
            except (CorruptRecord, OSError) as error:
                logger.info("a table of messages is made anew", segment=segment_id, reason=for_log(error))
                break
            table.close()
            self._firsts.append(table.first)
            self._segments.append(segment_id)
            count += 1
        self._remove_others(set(segments[:count]))
        return list(segments[count:])

    def _remove_others(self, segments: set[int]) -> None:
        for name in self._files.list_directory(self._directory):
            if name.endswith(".rows") and name not in {os.path.basename(self._path(each)) for each in segments}:
                self._files.unlink(f"{self._directory}/{name}")

    def forget(self) -> None:
        """Removes all tables."""
        self.close()
        self._firsts.clear()
        self._segments.clear()
        self._lost.clear()
        self._remove_others(set())

    def begin(self, segment_id: int, first: int) -> None:
        """A segment whose next message will have the number `first`; nothing if it is there."""
        if segment_id in self._lost or (self._segments and self._segments[-1] == segment_id):
            return
        self._segments.append(segment_id)
        self._firsts.append(first)
        try:
            fd = self._files.open(self._path(segment_id), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        except OSError as error:
            self._give_up(segment_id, error)
            return
        self._keep_open(segment_id, fd)
        self._mark(segment_id, fd, self._boot)

    def add(self, segment_id: int, number: int, offset: int, time: float, key: int, flags: int) -> None:
        """A message of the newest segment."""
        self._write(segment_id, number, 0, encode_message(number, offset, time, key, flags))

    def add_outcome(self, number: int, segment_id: int, offset: int, flags: int) -> None:
        """What a message did, and where that lies."""
        at = bisect_right(self._firsts, number) - 1
        if at >= 0:
            half = encode_outcome(number, segment_id, offset, flags)
            self._write(self._segments[at], number, MESSAGE_BYTES, half)

    def _write(self, segment_id: int, number: int, at: int, half: bytes) -> None:
        if segment_id in self._lost:
            return
        try:
            fd = self._opened(segment_id)
            first = self._firsts[bisect_right(self._segments, segment_id) - 1]
            self._files.pwritev(fd, [half], HEADER_BYTES + (number - first) * ROW_BYTES + at, len(half))
        except (StorageError, OSError) as error:
            self._give_up(segment_id, error)

    def _opened(self, segment_id: int) -> int:
        fd = self._open.get(segment_id, -1)
        if fd >= 0:
            self._open.move_to_end(segment_id)
        else:
            fd = self._files.open(self._path(segment_id), os.O_RDWR)
            self._keep_open(segment_id, fd)
            self._mark(segment_id, fd, self._boot)
            self._files.fdatasync(fd)  # the mark is on the disk before a change can be
        return fd

    def _keep_open(self, segment_id: int, fd: int) -> None:
        self._open[segment_id] = fd
        while len(self._open) > OPEN_MAX:
            oldest, other = self._open.popitem(last=False)
            self._settle(oldest, other)

    def _mark(self, segment_id: int, fd: int, boot: bytes) -> None:
        first = self._firsts[bisect_right(self._segments, segment_id) - 1]
        header = encode_header(segment_id, self._salt_of(segment_id), first, boot)
        try:
            self._files.pwritev(fd, [header], 0, len(header))
        except StorageError as error:
            self._give_up(segment_id, error)

    def _settle(self, segment_id: int, fd: int) -> None:
        try:
            self._files.fdatasync(fd)
            self._mark(segment_id, fd, WHOLE)
        except StorageError as error:
            logger.warning("a table of messages is not synced", segment=segment_id, reason=for_log(error))
        finally:
            self._files.close(fd)

    def remove(self, segment_id: int) -> None:
        """Removes the table of a segment that has been removed."""
        fd = self._open.pop(segment_id, -1)
        if fd >= 0:
            self._files.close(fd)
        if self._files.exists(self._path(segment_id)):
            self._files.unlink(self._path(segment_id))
        if segment_id in self._segments:
            at = self._segments.index(segment_id)
            del self._segments[at], self._firsts[at]

    def _give_up(self, segment_id: int, error: Exception) -> None:
        logger.warning("a table of messages cannot be written", segment=segment_id, reason=for_log(error))
        self._lost.add(segment_id)
        fd = self._open.pop(segment_id, -1)
        try:
            if fd >= 0:
                self._files.close(fd)
            self._files.unlink(self._path(segment_id))
        except (StorageError, OSError) as again:
            logger.warning("a table of messages cannot be removed", segment=segment_id, reason=for_log(again))

    def _path(self, segment_id: int) -> str:
        return table_path(self._directory, segment_id)

    def close(self) -> None:
        """Marks all tables as whole and closes them."""
        while self._open:
            self._settle(*self._open.popitem(last=False))
