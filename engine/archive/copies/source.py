"""The logs of an archive as a replication sees them: how far each segment is whole, and what of it a replica lacks.

What is known of a segment is kept between the passes: where its whole records end, and the extent of a sealed one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from engine.archive.copies import extent, lag, shipped_logs
from engine.archive.copies.extent import Extent
from engine.archive.copies.replica import JOIN_BYTES, Held
from engine.archive.layout import Layout
from engine.errors import CorruptRecord, ReplicationFailed
from engine.storage.files import Files
from engine.storage.record import crc32c
from engine.storage.segment_bytes import FileBytes


class Transfer(NamedTuple):
    """A segment, of which the destination lacks a part."""

    segment_id: int
    found: Extent
    start: int
    is_another: bool


class Vanished(Exception):
    """A segment is gone since it was listed."""


class Source:
    """For the thread of one replication."""

    def __init__(self, layout: Layout, files: Files) -> None:
        self._layout = layout
        self._files = files
        self._joined: set[int] = set()
        """Segments whose ends have been compared since the destination was opened."""
        self._ends: dict[tuple[int, int], int] = {}
        """Where whole records are known to end, by id and salt."""
        self._sealed: dict[int, tuple[tuple[int, int], Extent]] = {}
        """The extents of sealed segments, which do not change."""
        self.open_ends: dict[int, int] = {}
        """The ends of the segments that can still grow, as of the last look."""

    def transfers(
        self, present: list[int], held: Mapping[int, Held], findings: list[str]
    ) -> tuple[list[Transfer], bool]:
        """The transfers to make, and whether every segment could be read. Segments that reuse an id come last.

        `held`: what the replica has. `findings` gets the segments that cannot be read. Raises ReplicationFailed.
        """
        transfers: list[Transfer] = []
        whole = True
        self.open_ends = {}
        for segment_id in reversed(present):  # see `shipped_logs`
            try:
                item = self._look(segment_id, held.get(segment_id))
            except Vanished:
                whole = False
            except CorruptRecord as error:
                findings.append(f"segment {segment_id:016x} cannot be shipped: {error}")
                whole = False
            else:
                if item is not None:
                    transfers.append(item)
        return sorted(transfers, key=lambda item: (item.is_another, item.segment_id)), whole

    def _look(self, segment_id: int, replica_segment: Held | None) -> Transfer | None:
        identity = self._files.identity(shipped_logs.path_of(self._layout.data, segment_id))
        if identity is None:
            raise Vanished
        cached = self._sealed.get(segment_id)
        if cached is not None and cached[0] == identity:
            there: Extent | None = cached[1]
        else:
            there = self._look_into(segment_id)
            if there is not None and there.is_sealed:
                self._sealed[segment_id] = identity, there
        if there is None or not there.is_sealed:
            self.open_ends[segment_id] = lag.growing(there)
        if there is None or there.is_empty:
            return None
        return self._compare(segment_id, there, replica_segment)

    def _look_into(self, segment_id: int) -> Extent | None:
        fd = self.open(segment_id)
        try:
            there = extent.look(
                FileBytes(self._files, fd),
                shipped_logs.id_of(segment_id),
                lambda salt: self._ends.get((segment_id, salt), 0),
            )
            if there is not None:
                self._ends[segment_id, there.salt] = there.end
            return there
        except OSError as error:
            raise CorruptRecord(f"cannot be read: {error.strerror}", segment_id, 0) from error
        finally:
            self._files.close(fd)

    def _compare(self, segment_id: int, found: Extent, held: Held | None) -> Transfer | None:
        if held is None or not held.length:
            return Transfer(segment_id, found, 0, False)
        if held.salt != found.salt:
            return Transfer(segment_id, found, 0, True)
        if held.length > found.end or (held.is_sealed and not (found.is_sealed and held.length == found.end)):
            raise _diverged(segment_id, f"{held.length} bytes there and {found.end} here")
        self.join(segment_id, held)
        if held.length == found.end and held.is_sealed == found.is_sealed:
            return None
        return Transfer(segment_id, found, held.length, False)

    def join(self, segment_id: int, held: Held) -> None:
        """Compares, once, the end of a segment there with ours. Raises ReplicationFailed, CorruptRecord, Vanished."""
        if segment_id in self._joined:
            return
        fd = self.open(segment_id)
        try:
            start = max(0, held.length - JOIN_BYTES)
            ours = self._files.pread(fd, held.length - start, start)
        except OSError as error:
            raise CorruptRecord(f"cannot be read: {error.strerror}", segment_id, held.length) from error
        finally:
            self._files.close(fd)
        if crc32c(ours) != held.tail_crc:
            raise _diverged(segment_id, f"other bytes before {held.length}")
        self._joined.add(segment_id)

    def open(self, segment_id: int) -> int:
        """The descriptor of a segment's file. Raises Vanished."""
        try:
            return self._files.open(shipped_logs.path_of(self._layout.data, segment_id), os.O_RDONLY)
        except FileNotFoundError as error:
            raise Vanished("the segment file is missing") from error

    def note_join(self, segment_id: int) -> None:
        """The end of a segment there is ours: it has just come from here."""
        self._joined.add(segment_id)

    def forget_joins(self) -> None:
        """The destination is opened anew: all ends are compared again."""
        self._joined.clear()

    def forget(self, segment_id: int) -> None:
        """A segment is gone, here and there."""
        self._sealed.pop(segment_id, None)
        self._ends = {key: end for key, end in self._ends.items() if key[0] != segment_id}


def _diverged(segment_id: int, what: str) -> ReplicationFailed:
    return ReplicationFailed(
        f"the replica has gone another way: segment {segment_id:016x} has {what}; if the source was restored from a"
        " backup, begin a new replica",
        is_final=True,
    )
