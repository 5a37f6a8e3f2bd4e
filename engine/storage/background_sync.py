"""BackgroundSync: makes one log durable without a thread of the interpreter, for an event loop that does not wait.

    begin ──► fdatasync of the active segment, in `files.SyncThread` ──► fileno is readable ──► finish

Where more than that is to be done (a segment has rolled, a file has a new name, somebody else syncs), `begin` says so,
and its caller has `SegmentLog.sync` do it in a thread. All methods are called on the loop's thread.
"""

from __future__ import annotations

from engine.errors import StorageFailed
from engine.storage.growing_segment import GrowingSegment
from engine.storage.segment_log import SegmentLog


class BackgroundSync:
    """The syncs of one log, one at a time."""

    def __init__(self, log: SegmentLog) -> None:
        """Raises OSError when there is no thread."""
        self._log = log
        self._thread = log.files.sync_thread()
        self._under_way: tuple[GrowingSegment, int] | None = None
        self.wait = self._thread.wait
        """Waits for so many microseconds, or until another descriptor is readable; whether the sync has ended."""
        self.fileno = self._thread.fileno
        """Of what is readable when a sync has ended and has not been finished."""

    def begin(self) -> bool:
        """Starts to make everything durable that has been appended; False: call `SegmentLog.sync`, in a thread.

        Raises StorageFailed once the log has failed.
        """
        claim = self._log.claim_sync()
        if claim is None:
            return False
        self._under_way = claim
        self._thread.begin(claim[0].fd)
        return True

    def finish(self) -> None:
        """Waits for the sync that has begun. Raises StorageFailed, which is final."""
        assert self._under_way is not None
        (segment, end), self._under_way = self._under_way, None
        failure: StorageFailed | None = None
        try:
            self._thread.finish()
        except StorageFailed as error:
            failure = error
            raise
        finally:
            self._log.release_sync(segment, end, failure)

    def close(self) -> None:
        """Ends the thread. Call it when no sync is under way."""
        self._thread.close()
