"""How many associations are open, by calling AE title, counted across all workers; and when each worker last ran.

Does not decide what is too many or silent for too long. One mapping of memory is shared by supervisor and workers, with
a part for each worker that this worker writes, so that nobody waits for anybody, also not for one that is stopped:

    part     beat (8: CLOCK_MONOTONIC in ns) | revoked (8: of the connections that the supervisor gave to this worker,
             those up to this number that it has not taken are no longer its own) | associations (4) | rows in use (4) |
             titles (16 each) | counts (4 each)

A worker first counts an association in, then adds all parts up: of two that are let in at the same moment each sees
the other, so that the limit is never passed, though both may be told no. The supervisor clears the part of a
worker that is gone.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

ROWS = 4096
"""Calling AE titles that have associations open on one worker; what comes beyond is counted together in the last."""

OTHERS = ROWS - 1

_HEAD = struct.Struct("=QQII")
_COUNT = struct.Struct("=I")
_BEAT = struct.Struct("=Q")
_REVOKED_AT = 8
_ASSOCIATIONS_AT = 16
_ROWS_AT = 20
_TITLE_BYTES = 16
_TITLES = _HEAD.size
_COUNTS = _TITLES + ROWS * _TITLE_BYTES
PART_BYTES = -(-(_COUNTS + ROWS * _COUNT.size) // mmap.PAGESIZE) * mmap.PAGESIZE


class Roster:
    """One process's view; `number` is the part that it writes."""

    def __init__(self, memory: mmap.mmap, number: int) -> None:
        self._memory = memory
        self._start = number * PART_BYTES
        self._parts = len(memory) // PART_BYTES
        self._rows: dict[bytes, int] = {}
        """Our own rows, by title: those of which an association is open."""
        self._free = list(range(OTHERS - 1, -1, -1))

    @classmethod
    def alone(cls) -> Roster:
        """For a process that serves by itself."""
        return cls(mmap.mmap(-1, PART_BYTES), 0)

    @classmethod
    def create(cls, workers: int) -> tuple[Roster, int]:
        """The supervisor's, and the descriptor that its workers inherit. The supervisor counts nothing of its own."""
        fd = os.memfd_create("filmroom-roster", os.MFD_CLOEXEC)
        os.ftruncate(fd, workers * PART_BYTES)
        return cls(mmap.mmap(fd, workers * PART_BYTES), 0), fd

    @classmethod
    def inherited(cls, fd: int, number: int) -> Roster:
        """A worker's."""
        length = os.fstat(fd).st_size
        return cls(mmap.mmap(fd, length), number)

    # -- associations ---------------------------------------------------------------------------

    def enter(self, title: str, *, total_max: int, title_max: int) -> bool:
        """Counts an association in; False, and it is not counted, when there are as many as may be."""
        self._change(self._take_row(_key(title)), 1)
        if self.total() <= total_max and self.count(title) <= title_max:
            return True
        self.leave(title)
        return False

    def leave(self, title: str) -> None:
        """An association that was counted in has ended."""
        key = _key(title)
        row = self._rows.get(key, OTHERS)
        if self._change(row, -1) == 0 and row != OTHERS:
            del self._rows[key]
            self._name(row, bytes(_TITLE_BYTES))
            self._free.append(row)

    def total(self) -> int:
        """Associations open on all workers."""
        return sum(self._head(part)[2] for part in range(self._parts))

    def count(self, title: str) -> int:
        """Associations of that calling AE title open on all workers."""
        key = _key(title)
        return sum(self._count_in(part, key) for part in range(self._parts))

    def share(self, title: str) -> float:
        """This worker's part of that title's associations, by number: 1 when it has them all."""
        total = self.count(title)
        return self._count_in(self._start // PART_BYTES, _key(title)) / total if total else 1.0

    # -- life -----------------------------------------------------------------------------------

    def beat(self) -> None:
        """This worker's loop runs."""
        _BEAT.pack_into(self._memory, self._start, time.monotonic_ns())

    def silent_s(self, number: int) -> float:
        """How long ago worker `number` was last heard of; 0 while it has not begun."""
        beat = self._head(number)[0]
        return max(0.0, (time.monotonic_ns() - beat) / 1e9) if beat else 0.0

    def revoke(self, number: int, serial: int) -> None:
        """Takes back what worker `number` has been given, up to that connection, and has not taken yet."""
        _BEAT.pack_into(self._memory, number * PART_BYTES + _REVOKED_AT, serial)

    def is_revoked(self, serial: int) -> bool:
        """Whether a connection that this worker was given is no longer its own."""
        return serial <= self._head(self._start // PART_BYTES)[1]

    def clear(self, number: int) -> None:
        """Worker `number` is gone, and its associations with it."""
        self._memory[number * PART_BYTES : (number + 1) * PART_BYTES] = bytes(PART_BYTES)

    # -- inside ---------------------------------------------------------------------------------

    def _head(self, part: int) -> tuple[int, int, int, int]:
        beat, revoked, associations, rows = _HEAD.unpack_from(self._memory, part * PART_BYTES)
        return beat, revoked, associations, min(rows, ROWS)

    def _change(self, row: int, change: int) -> int:
        """Changes a row's count and the total; the row's count then."""
        at = self._start + _ASSOCIATIONS_AT
        _COUNT.pack_into(self._memory, at, _COUNT.unpack_from(self._memory, at)[0] + change)
        count = self._count_at(self._start, row) + change
        _COUNT.pack_into(self._memory, self._start + _COUNTS + row * _COUNT.size, count)
        return count

    def _take_row(self, key: bytes) -> int:
        """The row of a title, a free one if it has none yet; the last one when there is none."""
        row = self._rows.get(key)
        if row is not None:
            return row
        if not self._free:
            return OTHERS
        row = self._free.pop()
        self._name(row, key)
        self._rows[key] = row
        at = self._start + _ROWS_AT
        _COUNT.pack_into(self._memory, at, max(row + 1, _COUNT.unpack_from(self._memory, at)[0]))
        return row

    def _name(self, row: int, key: bytes) -> None:
        at = self._start + _TITLES + row * _TITLE_BYTES
        self._memory[at : at + _TITLE_BYTES] = key

    def _count_in(self, part: int, key: bytes) -> int:
        start, rows = part * PART_BYTES, self._head(part)[3]
        first = start + _TITLES
        at = self._memory.find(key, first, first + rows * _TITLE_BYTES)
        while at >= 0 and (at - first) % _TITLE_BYTES:
            at = self._memory.find(key, at + 1, first + rows * _TITLE_BYTES)
        # Some of this title's may have begun when there was no row left: rather too many than too few.
        others = self._count_at(start, OTHERS)
        return others + self._count_at(start, (at - first) // _TITLE_BYTES) if at >= 0 else others

    def _count_at(self, start: int, row: int) -> int:
        count: int = _COUNT.unpack_from(self._memory, start + _COUNTS + row * _COUNT.size)[0]
        return count


def _key(title: str) -> bytes:
    return title.encode("latin-1", "replace")[:_TITLE_BYTES].ljust(_TITLE_BYTES)
