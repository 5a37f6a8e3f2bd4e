"""Recalls: what a read of a segment in an archive class does. It begins the recall, and the reader is told to wait.

    read ─► the store refuses: archive class ─► recall, once ─► SegmentCold with the time that it takes
    read again within LOOK_EVERY_S ─► SegmentCold, without a request

The store does the work, and remembers it; another process that reads the same segment finds it under way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from engine import log
from engine.errors import EngineError, SegmentCold, StoreUnreachable, for_log
from engine.objects.archive_classes import ArchiveClasses
from engine.objects.bucket import SegmentName

logger = log.get("archive.recalls")

LOOK_EVERY_S = 60.0
"""The pause between two looks whether a segment is back: a recall takes minutes at least."""
SEGMENTS_MAX = 100_000


class Recalls:
    """The recalls that one process waits for. Thread-safe."""

    def __init__(
        self,
        classes: ArchiveClasses,
        key_of: Callable[[SegmentName], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`key_of`: a segment's object."""
        self._classes = classes
        self._key_of = key_of
        self._clock = clock
        self._lock = threading.Lock()
        self._waits: dict[SegmentName, tuple[float, float]] = {}
        """When to look again, and when the segment should be back."""

    def check(self, name: SegmentName) -> None:
        """Raises SegmentCold if a segment was cold a moment ago."""
        wait = self._waits.get(name)
        if wait is not None and self._clock() < wait[0]:
            raise _cold(name, wait[1] - self._clock())

    def begin(self, name: SegmentName) -> SegmentCold | None:
        """Recalls a segment; the error for its reader, None if it can be read. Raises StoreUnreachable."""
        wait_s = self._classes.recall(self._key_of(name))
        if not wait_s:
            with self._lock:
                self._waits.pop(name, None)
            return None
        now_s = self._clock()
        with self._lock:
            known = self._waits.get(name)
            back_s = known[1] if known is not None and known[1] > now_s else now_s + wait_s
            if len(self._waits) >= SEGMENTS_MAX:
                self._waits.clear()
            self._waits[name] = now_s + LOOK_EVERY_S, back_s
        if known is None:
            logger.info("a segment is recalled from an archive class", segment=str(name), seconds=wait_s)
        return _cold(name, back_s - now_s)

    def begin_all(self, names: list[SegmentName]) -> None:
        """Recalls those of these segments that are cold. What cannot be asked for now is left to the next reader."""
        for name in names:
            try:
                self.check(name)
                self.begin(name)
            except SegmentCold:
                continue
            except StoreUnreachable as error:
                logger.warning("segments cannot be recalled", error=for_log(error))
                return
            except EngineError as error:
                logger.warning("a segment cannot be recalled", segment=str(name), error=for_log(error))


def _cold(name: SegmentName, wait_s: float) -> SegmentCold:
    retry_s = max(wait_s, LOOK_EVERY_S)
    text = f"segment {name} is in an archive class and was recalled: try again in {retry_s / 3600:.1f} hours"
    return SegmentCold(text, retry_s)
