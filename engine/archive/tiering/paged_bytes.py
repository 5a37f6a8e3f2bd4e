"""PagedBytes: what SegmentBytes of segments that are not files have in common: they come piece by piece, from pages."""

from __future__ import annotations

from collections.abc import Sequence

from engine.storage.segment_bytes import Where


class PagedBytes:
    """A class below says how many bytes there are, and fetches pieces of them."""

    __slots__ = ()

    where = Where.OBJECT
    fd = -1

    def size(self) -> int:
        """As of the segment's file."""
        raise NotImplementedError

    def read(self, length: int, offset: int, /) -> bytes:
        """`length` bytes, or those up to the end."""
        data = bytearray(max(0, min(length, self.size() - offset)))
        count = self.read_into([memoryview(data)], offset)
        return bytes(data[:count])

    def _piece(self, offset: int, length: int, *, at_once: bool) -> bytes | memoryview:
        """Bytes from `offset` on, not necessarily all; none at the end, or if they are not here `at_once`."""
        raise NotImplementedError

    def read_into(self, targets: Sequence[memoryview], offset: int, /) -> int:
        """Fills the targets as far as there are bytes."""
        return self._fill(targets, offset, at_once=False)

    def try_read_into(self, targets: Sequence[memoryview], offset: int, /) -> int:
        """The same from memory only."""
        return self._fill(targets, offset, at_once=True)

    def read_many(self, ranges: Sequence[tuple[int, int]], /) -> list[bytes]:
        """The bytes of each range."""
        return [self.read(length, offset) for offset, length in ranges]

    def _fill(self, targets: Sequence[memoryview], offset: int, *, at_once: bool) -> int:
        start = offset
        for target in targets:
            rest = target.cast("B") if target.ndim != 1 or target.format != "B" else target
            while rest.nbytes:
                piece = self._piece(offset, rest.nbytes, at_once=at_once)
                if not piece:
                    return offset - start
                rest[: len(piece)] = piece
                rest = rest[len(piece) :]
                offset += len(piece)
        return offset - start

    def next_data(self, offset: int) -> int:
        """Every byte may be data."""
        return offset

    def next_hole(self, offset: int) -> int:
        """The end."""
        return self.size()

    def expect_random(self) -> None:
        """Does nothing: pages are fetched when they are read."""

    def sync(self) -> None:
        """Does nothing: it is durable in the bucket."""
