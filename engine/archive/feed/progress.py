"""Progress of the feed in the log, segment by segment.

    done    ranges of segment ids that are read to their end, or have nothing to read
    open    salt and offset of all other segments that have been begun

A segment in neither is read from its beginning. The salt detects another segment that got the same number after a power
cut.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class Progress:
    """The feed's progress in the log, segment by segment."""

    def __init__(self, done: Iterable[tuple[int, int]] = (), open: Iterable[tuple[int, int, int]] = ()) -> None:
        self._done = sorted(done)
        self._open = {segment_id: (salt, offset) for segment_id, salt, offset in open}
        self.changed: dict[int, tuple[int, int]] = {}
        """Segments with new progress; the caller empties it."""
        self.is_dirty = True
        """Whether it has changed; the caller resets it."""

    def is_done(self, segment_id: int) -> bool:
        """Whether a segment has been read to its end."""
        number = bisect_right(self._done, (segment_id, 1 << 64)) - 1
        return number >= 0 and segment_id <= self._done[number][1]

    def gaps(self) -> Iterator[tuple[int, int]]:
        """The ranges of ids that are not done, the last one without an end."""
        start = 0
        for first, last in self._done:
            if first > start:
                yield start, first - 1
            start = last + 1
        yield start, (1 << 64) - 1

    def of(self, segment_id: int) -> tuple[int, int] | None:
        """Salt and offset of an open segment."""
        return self._open.get(segment_id)

    def begun(self) -> list[tuple[int, int]]:
        """Id and salt of each open segment."""
        return [(segment_id, salt) for segment_id, (salt, _) in self._open.items()]

    def forget(self, segment_id: int) -> None:
        """Forgets a segment whose number another segment has now."""
        del self._open[segment_id]

    def move(self, segment_id: int, salt: int, offset: int) -> None:
        """Notes that a segment has been read up to an offset."""
        self._open[segment_id] = self.changed[segment_id] = (salt, offset)
        self.is_dirty = True

    def passed(self, segment_id: int, offset: int) -> bool:
        """Whether the record at an offset has been read."""
        place = self._open.get(segment_id)
        return place[1] > offset if place is not None else self.is_done(segment_id)

    def finish(self, segment_id: int) -> None:
        """Notes that a segment has been read to its end."""
        self.is_dirty = True
        self._open.pop(segment_id, None)
        if self.is_done(segment_id):
            return
        number = bisect_right(self._done, (segment_id, 0))
        first = last = segment_id
        if number < len(self._done) and self._done[number][0] == segment_id + 1:
            last = self._done.pop(number)[1]
        if number and self._done[number - 1][1] == segment_id - 1:
            number -= 1
            first = self._done.pop(number)[0]
        self._done.insert(number, (first, last))

    def describe(self) -> dict[str, list[list[int]]]:
        """The form that is saved."""
        return {
            "done": [list(span) for span in self._done],
            "open": [[segment_id, salt, offset] for segment_id, (salt, offset) in self._open.items()],
        }
