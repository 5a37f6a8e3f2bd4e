"""Counts the open associations of all workers, by calling AE title and by network address.

The limits are the caller's. Each worker writes its own part of a shared memory (`worker_memory`), so that no worker
waits for another, not even for one that is stopped:

    part     associations (4) | reserved (4) | tally of titles | tally of addresses
    tally    rows in use (4) | reserved (12) | names (16 each) | counts (4 each)
    name     a received title, padded with spaces; the first half of an IPv6 address, since a host may choose the second
             half itself; an IPv4 address in its IPv6-mapped form

A worker first counts a new association, then adds up all parts. When two workers do so at the same moment, each sees
the other's: the limit is never exceeded, though both may be refused.
"""

from __future__ import annotations

import ipaddress
import mmap
import struct

ROWS = 4096
"""Names in one tally of one worker; further names are counted together in the last row."""

OTHERS = ROWS - 1

_COUNT = struct.Struct("=I")
_HEAD_BYTES = 8
_NAME_BYTES = 16
_NAMES_AT = 16
_COUNTS_AT = _NAMES_AT + ROWS * _NAME_BYTES
_TALLY_BYTES = _COUNTS_AT + ROWS * _COUNT.size
COUNT_BYTES = _HEAD_BYTES + 2 * _TALLY_BYTES
"""Length of the counts in one worker's part."""


class _Tally:
    """Associations by title or by address, in all parts; changes only our own part."""

    def __init__(self, memory: mmap.mmap, part_bytes: int, own: int, offset: int) -> None:
        """`own`: number of our part; `offset`: of the tally in each part."""
        self._memory = memory
        self._part_bytes = part_bytes
        self._offset = offset
        self._start = own * part_bytes + offset
        self._rows: dict[bytes, int] = {}
        """The rows of our part that are in use, by name."""
        self._free = list(range(OTHERS - 1, -1, -1))

    def enter(self, name: bytes) -> None:
        """Counts one association more."""
        self._change(self._take_row(name), 1)

    def leave(self, name: bytes) -> None:
        """Counts one association less."""
        row = self._rows.get(name, OTHERS)
        if self._change(row, -1) == 0 and row != OTHERS:
            del self._rows[name]
            self._write_name(row, bytes(_NAME_BYTES))
            self._free.append(row)

    def count(self, name: bytes) -> int:
        """Associations of that name in all parts."""
        return sum(self.count_in(part, name) for part in range(len(self._memory) // self._part_bytes))

    def count_in(self, part: int, name: bytes) -> int:
        """Associations of that name in one part."""
        start = part * self._part_bytes + self._offset
        rows = min(_COUNT.unpack_from(self._memory, start)[0], ROWS)
        first = start + _NAMES_AT
        at = self._memory.find(name, first, first + rows * _NAME_BYTES)
        while at >= 0 and (at - first) % _NAME_BYTES:
            at = self._memory.find(name, at + 1, first + rows * _NAME_BYTES)
        # Some associations of this name may be counted in the last row: count too many rather than too few.
        others = self._count_at(start, OTHERS)
        return others + self._count_at(start, (at - first) // _NAME_BYTES) if at >= 0 else others

    def _change(self, row: int, change: int) -> int:
        """Changes a row's count and returns it."""
        count = self._count_at(self._start, row) + change
        _COUNT.pack_into(self._memory, self._start + _COUNTS_AT + row * _COUNT.size, count)
        return count

    def _take_row(self, name: bytes) -> int:
        """The row of a name; takes a free one if it has none yet, and the last one when none is free."""
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


class AssociationsCount:
    """One process's view of the counts of all workers."""

    def __init__(self, memory: mmap.mmap, part_bytes: int, number: int, offset: int) -> None:
        """`number`: the part that this process writes; `offset`: of the counts in each part."""
        self._memory = memory
        self._part_bytes = part_bytes
        self._number = number
        self._offset = offset
        self._titles = _Tally(memory, part_bytes, number, offset + _HEAD_BYTES)
        self._addresses = _Tally(memory, part_bytes, number, offset + _HEAD_BYTES + _TALLY_BYTES)

    @classmethod
    def alone(cls) -> AssociationsCount:
        """For a process without other workers."""
        return cls(mmap.mmap(-1, COUNT_BYTES), COUNT_BYTES, 0, 0)

    def enter(
        self, title: str, address: str = "", *, total_max: int, title_max: int, address_max: int | None = None
    ) -> bool:
        """Counts an association; returns False and does not count it when it would exceed a limit.

        `address`: of the peer; "" when the connection has no network address. `address_max`: None: no limit.
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
        """Removes an association that has ended."""
        self._add(-1)
        self._titles.leave(_title_name(title))
        self._addresses.leave(_address_name(address))

    def total(self) -> int:
        """Associations open on all workers."""
        starts = range(self._offset, len(self._memory), self._part_bytes)
        return sum(_COUNT.unpack_from(self._memory, start)[0] for start in starts)

    def count(self, title: str) -> int:
        """Associations of that calling AE title open on all workers."""
        return self._titles.count(_title_name(title))

    def count_from(self, address: str) -> int:
        """Associations from that network address open on all workers."""
        return self._addresses.count(_address_name(address))

    def share(self, title: str) -> float:
        """This worker's fraction of that title's associations; 1 when it has them all."""
        total = self.count(title)
        return self._titles.count_in(self._number, _title_name(title)) / total if total else 1.0

    # -- inside ---------------------------------------------------------------------------------

    def _add(self, change: int) -> None:
        at = self._number * self._part_bytes + self._offset
        _COUNT.pack_into(self._memory, at, _COUNT.unpack_from(self._memory, at)[0] + change)


def _title_name(title: str) -> bytes:
    return title.encode("latin-1", "replace")[:_NAME_BYTES].ljust(_NAME_BYTES)


def _address_name(address: str) -> bytes:
    """A name of 16 bytes, the same one for every text that is not an address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return b"\xff" * _NAME_BYTES
    if isinstance(parsed, ipaddress.IPv4Address):
        return b"\0" * 10 + b"\xff\xff" + parsed.packed
    return parsed.packed if parsed.ipv4_mapped or parsed.is_link_local else parsed.packed[:8].ljust(_NAME_BYTES, b"\0")
