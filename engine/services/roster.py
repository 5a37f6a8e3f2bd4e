"""How many associations are open, by calling AE title and by address, on all workers; and when each worker last ran.

Does not decide what is too many or silent for too long. One mapping of memory is shared by supervisor and workers, with
a part for each worker that this worker writes, so that nobody waits for anybody, also not for one that is stopped:

    part     beat (8: CLOCK_MONOTONIC in ns) | revoked (8: of the connections that the supervisor gave to this worker,
             those up to this number that it has not taken are no longer its own) | claimed (8: those up to this number
             it has taken, or turned away) | associations (4) | reserved (4) | tally of titles | tally of addresses
    tally    rows in use (4) | reserved (12) | names (16 each) | counts (4 each)
    name     a title as it came, padded with spaces; an IPv6 address, of which a host may choose the second half
             itself, by its first half; an IPv4 address as IPv6 writes it

A connection has one owner: the worker claims it and the supervisor takes it back under a lock on the part's bytes, so
that whoever comes second sees what the first did. The supervisor does not wait for that lock.

A worker first counts an association in, then adds all parts up: of two that are let in at the same moment each sees
the other, so that the limit is never passed, though both may be told no. The supervisor clears the part of a
worker that is gone.
"""

from __future__ import annotations

import fcntl
import ipaddress
import mmap
import os
import struct
import time

ROWS = 4096
"""Names of a kind that have associations open on one worker; what comes beyond is counted together in the last row."""

OTHERS = ROWS - 1

_HEAD = struct.Struct("=QQQI4x")
_COUNT = struct.Struct("=I")
_NUMBER = struct.Struct("=Q")
_REVOKED_AT = 8
_CLAIMED_AT = 16
_ASSOCIATIONS_AT = 24
_NAME_BYTES = 16
_NAMES_AT = 16
_COUNTS_AT = _NAMES_AT + ROWS * _NAME_BYTES
_TALLY_BYTES = _COUNTS_AT + ROWS * _COUNT.size
PART_BYTES = -(-(_HEAD.size + 2 * _TALLY_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE


class _Tally:
    """Associations by one kind of name, in all parts; changes are made in our own."""

    def __init__(self, memory: mmap.mmap, own: int, offset: int) -> None:
        """`own`: the part that is ours; `offset`: of the tally in each part."""
        self._memory = memory
        self._offset = offset
        self._start = own * PART_BYTES + offset
        self._rows: dict[bytes, int] = {}
        """Our own rows, by name: those of which an association is open."""
        self._free = list(range(OTHERS - 1, -1, -1))

    def enter(self, name: bytes) -> None:
        """One more."""
        self._change(self._take_row(name), 1)

    def leave(self, name: bytes) -> None:
        """One less."""
        row = self._rows.get(name, OTHERS)
        if self._change(row, -1) == 0 and row != OTHERS:
            del self._rows[name]
            self._write_name(row, bytes(_NAME_BYTES))
            self._free.append(row)

    def count(self, name: bytes) -> int:
        """All of that name."""
        return sum(self.count_in(part, name) for part in range(len(self._memory) // PART_BYTES))

    def count_in(self, part: int, name: bytes) -> int:
        """Those of one part."""
        start = part * PART_BYTES + self._offset
        rows = min(_COUNT.unpack_from(self._memory, start)[0], ROWS)
        first = start + _NAMES_AT
        at = self._memory.find(name, first, first + rows * _NAME_BYTES)
        while at >= 0 and (at - first) % _NAME_BYTES:
            at = self._memory.find(name, at + 1, first + rows * _NAME_BYTES)
        # Some of this name's may have begun when there was no row left: rather too many than too few.
        others = self._count_at(start, OTHERS)
        return others + self._count_at(start, (at - first) // _NAME_BYTES) if at >= 0 else others

    def _change(self, row: int, change: int) -> int:
        """Changes a row's count; what it is then."""
        count = self._count_at(self._start, row) + change
        _COUNT.pack_into(self._memory, self._start + _COUNTS_AT + row * _COUNT.size, count)
        return count

    def _take_row(self, name: bytes) -> int:
        """The row of a name, a free one if it has none yet; the last one when there is none."""
        row = self._rows.get(name)
        if row is not None:
            return row
        if not self._free:
            return OTHERS
        row = self._free.pop()
        self._write_name(row, name)
        self._rows[name] = row
        _COUNT.pack_into(self._memory, self._start, max(row + 1, _COUNT.unpack_from(self._memory, self._start)[0]))
        return row

    def _write_name(self, row: int, name: bytes) -> None:
        at = self._start + _NAMES_AT + row * _NAME_BYTES
        self._memory[at : at + _NAME_BYTES] = name

    def _count_at(self, start: int, row: int) -> int:
        count: int = _COUNT.unpack_from(self._memory, start + _COUNTS_AT + row * _COUNT.size)[0]
        return count


class Roster:
    """One process's view; `number` is the part that it writes."""

    def __init__(self, memory: mmap.mmap, number: int, fd: int = -1) -> None:
        """`fd`: of the memory, for its locks; kept open. Without one nothing can be claimed."""
        self._memory = memory
        self._number = number
        self._fd = fd
        self._start = number * PART_BYTES
        self._parts = len(memory) // PART_BYTES
        self._titles = _Tally(memory, number, _HEAD.size)
        self._addresses = _Tally(memory, number, _HEAD.size + _TALLY_BYTES)

    @classmethod
    def alone(cls) -> Roster:
        """For a process that serves by itself."""
        return cls(mmap.mmap(-1, PART_BYTES), 0)

    @classmethod
    def create(cls, workers: int) -> tuple[Roster, int]:
        """The supervisor's, and the descriptor that its workers inherit. The supervisor counts nothing of its own."""
        fd = os.memfd_create("filmroom-roster", os.MFD_CLOEXEC)
        os.ftruncate(fd, workers * PART_BYTES)
        return cls(mmap.mmap(fd, workers * PART_BYTES), 0, fd), fd

    @classmethod
    def inherited(cls, fd: int, number: int) -> Roster:
        """A worker's."""
        length = os.fstat(fd).st_size
        return cls(mmap.mmap(fd, length), number, fd)

    # -- associations ---------------------------------------------------------------------------

    def enter(
        self, title: str, address: str = "", *, total_max: int, title_max: int, address_max: int | None = None
    ) -> bool:
        """Counts an association in; False, and it is not counted, when there are as many as may be.

        `address`: where it comes from; "" when that is no network address. `address_max`: None: any number.
        """
        self._add(1)
        self._titles.enter(_title_name(title))
        self._addresses.enter(_address_name(address))
        if (
            self.total() <= total_max
            and self.count(title) <= title_max
            and (address_max is None or not address or self.count_from(address) <= address_max)
        ):
            return True
        self.leave(title, address)
        return False

    def leave(self, title: str, address: str = "") -> None:
        """An association that was counted in has ended."""
        self._add(-1)
        self._titles.leave(_title_name(title))
        self._addresses.leave(_address_name(address))

    def total(self) -> int:
        """Associations open on all workers."""
        return sum(self._head(part)[3] for part in range(self._parts))

    def count(self, title: str) -> int:
        """Associations of that calling AE title open on all workers."""
        return self._titles.count(_title_name(title))

    def count_from(self, address: str) -> int:
        """Associations from that network address open on all workers."""
        return self._addresses.count(_address_name(address))

    def share(self, title: str) -> float:
        """This worker's part of that title's associations, by number: 1 when it has them all."""
        total = self.count(title)
        return self._titles.count_in(self._number, _title_name(title)) / total if total else 1.0

    # -- life -----------------------------------------------------------------------------------

    def beat(self) -> None:
        """This worker's loop runs."""
        _NUMBER.pack_into(self._memory, self._start, time.monotonic_ns())

    def silent_s(self, number: int) -> float:
        """How long ago worker `number` was last heard of; 0 while it has not begun."""
        beat = self._head(number)[0]
        return max(0.0, (time.monotonic_ns() - beat) / 1e9) if beat else 0.0

    def revoke(self, number: int, serial: int) -> int | None:
        """Takes back what worker `number` has been given, up to that connection, and has not claimed.

        The last connection that it has claimed: later ones are the supervisor's again. None, and nothing is changed,
        when the worker is just claiming one.
        """
        start = number * PART_BYTES
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, PART_BYTES, start)
        except (BlockingIOError, PermissionError):
            return None
        try:
            _NUMBER.pack_into(self._memory, start + _REVOKED_AT, serial)
            return self.claimed(number)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, PART_BYTES, start)

    def claim(self, serial: int) -> bool:
        """Makes a connection this worker's own, in their order; False when it was taken back before."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, PART_BYTES, self._start)
        try:
            if serial <= self._head(self._start // PART_BYTES)[1]:
                return False
            _NUMBER.pack_into(self._memory, self._start + _CLAIMED_AT, serial)
            return True
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, PART_BYTES, self._start)

    def claimed(self, number: int) -> int:
        """The last connection that worker `number` has made its own."""
        return self._head(number)[2]

    def clear(self, number: int) -> None:
        """Worker `number` is gone, and its associations with it."""
        self._memory[number * PART_BYTES : (number + 1) * PART_BYTES] = bytes(PART_BYTES)

    # -- inside ---------------------------------------------------------------------------------

    def _head(self, part: int) -> tuple[int, int, int, int]:
        beat, revoked, claimed, associations = _HEAD.unpack_from(self._memory, part * PART_BYTES)
        return beat, revoked, claimed, associations

    def _add(self, change: int) -> None:
        at = self._start + _ASSOCIATIONS_AT
        _COUNT.pack_into(self._memory, at, _COUNT.unpack_from(self._memory, at)[0] + change)


def _title_name(title: str) -> bytes:
    return title.encode("latin-1", "replace")[:_NAME_BYTES].ljust(_NAME_BYTES)


def _address_name(address: str) -> bytes:
    """A name of 16 bytes; all that is no address has the same."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return b"\xff" * _NAME_BYTES
    if isinstance(parsed, ipaddress.IPv4Address):
        return b"\0" * 10 + b"\xff\xff" + parsed.packed
    return parsed.packed if parsed.ipv4_mapped or parsed.is_link_local else parsed.packed[:8].ljust(_NAME_BYTES, b"\0")
