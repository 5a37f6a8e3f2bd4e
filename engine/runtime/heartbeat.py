"""Records when each worker last ran, and which connections it has claimed.

The caller decides how long a worker may be silent. Each worker writes its part of a shared memory (`worker_memory`):

    part     beat (8: CLOCK_MONOTONIC in ns) | revoked (8) | claimed (8)
    claimed  the worker has taken, or turned away, the connections up to this serial number
    revoked  the supervisor has taken back the connections up to this serial number that were not claimed before

A connection has one owner: the worker claims it, or the supervisor revokes it, under a lock on the part's bytes. The
second of them sees what the first did. The supervisor never waits for that lock.
"""

from __future__ import annotations

import fcntl
import mmap
import struct
import time

_HEAD = struct.Struct("=QQQ")
_NUMBER = struct.Struct("=Q")
_REVOKED_AT = 8
_CLAIMED_AT = 16

HEARTBEAT_BYTES = _HEAD.size
"""Length of the heartbeat in one worker's part."""


class Heartbeat:
    """One process's view of the heartbeats of all workers."""

    def __init__(self, memory: mmap.mmap, part_bytes: int, number: int, fd: int) -> None:
        """`number`: the part that this process writes; `fd`: of the memory, for its locks."""
        self._memory = memory
        self._part_bytes = part_bytes
        self._number = number
        self._fd = fd

    def beat(self) -> None:
        """Notes that this worker's loop runs."""
        _NUMBER.pack_into(self._memory, self._number * self._part_bytes, time.monotonic_ns())

    def silent_s(self, number: int) -> float:
        """Seconds since worker `number` last ran; 0 if it has not started yet."""
        beat = self._head(number)[0]
        return max(0.0, (time.monotonic_ns() - beat) / 1e9) if beat else 0.0

    def revoke(self, number: int, serial: int) -> int | None:
        """Takes back the connections up to `serial` that worker `number` has not claimed.

        Returns the last connection that it has claimed: later ones are the supervisor's again. Returns None and
        changes nothing when the worker is just claiming one.
        """
        start = number * self._part_bytes
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, self._part_bytes, start)
        except (BlockingIOError, PermissionError):
            return None
        try:
            _NUMBER.pack_into(self._memory, start + _REVOKED_AT, serial)
            return self.claimed(number)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, self._part_bytes, start)

    def claim(self, serial: int) -> bool:
        """Claims a connection for this worker, in the order of serial numbers; False when it was revoked before."""
        start = self._number * self._part_bytes
        fcntl.lockf(self._fd, fcntl.LOCK_EX, self._part_bytes, start)
        try:
            if serial <= self._head(self._number)[1]:
                return False
            _NUMBER.pack_into(self._memory, start + _CLAIMED_AT, serial)
            return True
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, self._part_bytes, start)

    def claimed(self, number: int) -> int:
        """The last connection that worker `number` has claimed."""
        return self._head(number)[2]

    def _head(self, part: int) -> tuple[int, int, int]:
        beat, revoked, claimed = _HEAD.unpack_from(self._memory, part * self._part_bytes)
        return beat, revoked, claimed
