"""Ahead: what a replica has been sent of a segment before it was durable here, while the disk here was at work.

    held            sent ahead, in pieces, each with its checksum
    ────────────────┼───────────┼───────────┼──────── end
                    └── confirm(up to): the file has the same bytes still, which are durable here by now

Nothing of it counts before somebody confirms it. If the file has other bytes by then, since a disk has failed or a
segment was recovered, the replica has to be opened anew: then all that it has not noted is written again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from engine.errors import ReplicationFailed
from engine.storage.record import crc32c

Read = Callable[[int, int], bytes]
"""Length and offset → bytes of the segment's file; fewer at its end."""


class _Piece(NamedTuple):
    start: int
    end: int
    crc: int


class _Sent:
    """One segment."""

    __slots__ = ("pieces", "salt", "synced")

    def __init__(self, salt: int) -> None:
        self.salt = salt
        self.pieces: list[_Piece] = []
        self.synced = 0
        """Up to where it is durable there."""


class Ahead:
    """The segments of one replica, since it was opened."""

    def __init__(self) -> None:
        self._sent: dict[int, _Sent] = {}

    def end(self, segment_id: int, salt: int) -> int:
        """Up to where the replica has been sent a segment; 0: nothing ahead."""
        sent = self._sent.get(segment_id)
        return sent.pieces[-1].end if sent is not None and sent.salt == salt else 0

    def has(self, segment_id: int) -> bool:
        """Whether anything of a segment was sent ahead and not confirmed."""
        return segment_id in self._sent

    def is_synced(self, segment_id: int, end: int) -> bool:
        """Whether the replica has made a segment durable up to there."""
        sent = self._sent.get(segment_id)
        return sent is not None and end <= sent.synced

    def add(self, segment_id: int, salt: int, start: int, data: bytes) -> None:
        """Notes what has been sent."""
        sent = self._sent.get(segment_id)
        if sent is None or sent.salt != salt:
            sent = self._sent[segment_id] = _Sent(salt)
        sent.pieces.append(_Piece(start, start + len(data), crc32c(data)))

    def note_sync(self, segment_id: int) -> None:
        """The replica has made durable all that it was sent of a segment."""
        sent = self._sent.get(segment_id)
        if sent is not None:
            sent.synced = sent.pieces[-1].end

    def confirm(self, segment_id: int, end: int, read: Read) -> None:
        """Compares what was sent with the file, up to where it is durable here. Raises ReplicationFailed."""
        sent = self._sent.get(segment_id)
        if sent is None:
            return
        for piece in sent.pieces:
            if piece.start < end and crc32c(read(piece.end - piece.start, piece.start)) != piece.crc:
                what = f"segment {segment_id:016x} has been changed since it was sent"
                raise ReplicationFailed(f"{what}: the replica is opened anew")
        sent.pieces = [piece for piece in sent.pieces if piece.end > end]
        if not sent.pieces:
            del self._sent[segment_id]

    def forget(self, segment_id: int) -> None:
        """The replica begins a segment anew, or where the note about it ends."""
        self._sent.pop(segment_id, None)

    def clear(self) -> None:
        """The replica is opened anew."""
        self._sent.clear()
