"""The state of each study, for readers: arriving, quiet, complete or reopened, and why.

    arriving    new         its first instances come
    reopened    after_quiet, after_complete: another instance came
    quiet       idle        none has come for `study_quiet_s`
    complete    idle        none has come for `study_complete_s`, or nothing is known of it any more
                announced   all that its performed procedure steps list are here

The feed's writer decides (`writer`); its events and its saved state say so to everybody else.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.archive.feed.cursor import Cursor
from engine.archive.feed.event import IDLE, time_text
from engine.archive.feed.layout import directory_of
from engine.archive.feed.quiet import QuietTimes, QuietTracker
from engine.archive.feed.state import read_state
from engine.archive.feed.subscription import PAGE_EVENTS, Feed
from engine.errors import CursorRefused, FeedMissing

if TYPE_CHECKING:
    from engine.archive.layout import Layout
    from engine.storage.files import Files

BEHIND_MAX = 20 * PAGE_EVENTS
"""A reader that is further behind begins with the saved state, which is some seconds old."""


@dataclass(frozen=True, slots=True)
class StudyState:
    """The state of a study."""

    state: str
    """arriving, quiet, complete or reopened."""
    reason: str
    """new, idle, announced, after_quiet or after_complete."""
    since: str = ""
    """ISO 8601 in UTC; empty if it is not known any more."""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return {"state": self.state, "reason": self.reason, "since": self.since}


class StudyStates:
    """Thread-safe; follows the feed as it is asked."""

    def __init__(self, layout: Layout, files: Files) -> None:
        self._directory = directory_of(layout)
        self._files = files
        self._feed = Feed(layout, files)
        self._tracker = QuietTracker(QuietTimes())
        self._cursor: Cursor | None = None
        self._lock = threading.Lock()

    def of(self, study_instance_uids: list[str]) -> list[StudyState | None]:
        """The states of stored studies; None for each where the archive has no feed. Raises FeedError, StorageError."""
        with self._lock:
            try:
                try:
                    self._follow()
                except CursorRefused:
                    self._cursor = None
                    self._follow()
            except FeedMissing:
                return [None] * len(study_instance_uids)
            return [self._of(uid) for uid in study_instance_uids]

    def _follow(self) -> None:
        newest = self._feed.newest()
        if self._cursor is None or newest.sequence - self._cursor.sequence > BEHIND_MAX:
            state = read_state(self._directory, self._files)
            if state is None:
                raise FeedMissing("the feed has no state")
            self._tracker = QuietTracker(QuietTimes(), state.growths)
            self._cursor = Cursor(newest.epoch, state.sequence)
        while True:
            page = self._feed.read(self._cursor)
            self._tracker.observe_all(page.events())
            self._cursor = page.cursor
            if len(page.lines) < PAGE_EVENTS:
                return

    def _of(self, uid: str) -> StudyState:
        found = self._tracker.state_of(uid)
        if found is None:
            return StudyState("complete", IDLE)
        state, reason, since_s = found
        return StudyState(state, reason, time_text(int(since_s * 1e9)) if since_s else "")
