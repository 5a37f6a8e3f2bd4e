"""Segments in memory: a SegmentStore whose segments lie nowhere as files, and that can be slow or out of reach."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from engine.errors import SegmentGone, StorageError
from engine.storage.segment import segment_path
from engine.storage.segment_bytes import Where


class MemorySegment:
    """One segment's bytes in memory; nothing of it is here at once while the place is slow."""

    fd = -1
    where = Where.OBJECT

    def __init__(self, place: MemoryPlace, data: bytearray, segment_id: int) -> None:
        self._place = place
        self._data = data
        self._segment_id = segment_id

    def size(self) -> int:
        self._place.check()
        return len(self._data)

    def read(self, length: int, offset: int, /) -> bytes:
        self._place.check()
        return bytes(self._data[offset : offset + length])

    def read_into(self, targets: Sequence[memoryview], offset: int, /) -> int:
        self._place.check()
        start = offset
        for target in targets:
            piece = self._data[offset : offset + len(target)]
            target[: len(piece)] = piece
            offset += len(piece)
        return offset - start

    def read_many(self, ranges: Sequence[tuple[int, int]], /) -> list[bytes]:
        return [self.read(length, offset) for offset, length in ranges]

    def try_read_into(self, targets: Sequence[memoryview], offset: int, /) -> int:
        is_slow = self._place.is_slow or self._place.failure is not None
        return 0 if is_slow else self.read_into(targets, offset)

    def next_data(self, offset: int) -> int:
        return offset

    def next_hole(self, offset: int) -> int:
        return len(self._data)

    def expect_random(self) -> None: ...

    def read_ahead(self, offset: int, length: int) -> None: ...
    def forget(self, offset: int, length: int) -> None: ...

    def is_gone(self) -> bool:
        return self._segment_id not in self._place.segments

    def sync(self) -> None: ...


class MemoryPlace:
    """A SegmentStore without files."""

    def __init__(self, segments: dict[int, bytearray]) -> None:
        self.segments = segments
        self.failure: StorageError | None = None
        """Raised by each read."""
        self.is_slow = False
        self.recalled: list[set[int]] = []

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure.without_frames()

    def open(self, segment_id: int, offset: int = 0, *, salt: int | None = None) -> MemorySegment:
        if segment_id not in self.segments:
            raise SegmentGone("there is no such segment", segment_id, offset)
        return MemorySegment(self, self.segments[segment_id], segment_id)

    def segment_ids(self) -> list[int]:
        return sorted(self.segments)

    def sync_names(self) -> None: ...

    def recall(self, segment_ids: Collection[int]) -> None:
        self.recalled.append(set(segment_ids))


def moved_away(data: Path, segment_ids: Sequence[int]) -> MemoryPlace:
    """Takes segments of a closed archive out of its folder; returns the place that has them now."""
    place = MemoryPlace({})
    for segment_id in segment_ids:
        path = Path(segment_path(str(data / "segments"), segment_id))
        place.segments[segment_id] = bytearray(path.read_bytes())
        path.unlink()
    return place
