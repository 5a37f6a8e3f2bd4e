"""The change feed as one stream for all clients of a process that follow it.

    one task    reads the feed as it grows, while there are followers; makes each frame once
    a client    has a queue of QUEUE_MAX pages; a client whose queue is full is slow, and gets no more pages

A client that is behind reads the feed by itself until it has caught up, then joins; see `changes`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from engine import guards
from engine.access import FULL
from engine.archive.feed.event import action_of, decode
from engine.errors import EngineError
from engine.web.stream_slots import StreamSlots

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from engine.access import Principal
    from engine.archive.feed.cursor import Cursor
    from engine.archive.feed.subscription import Feed, Page
    from engine.archive.view import View
    from engine.runtime.engine import Engine

Result = TypeVar("Result")

QUEUE_MAX = 64
"""Pages in a queue; a page has the events of at least 20 ms, up to PAGE_EVENTS."""
PAGE_EVENTS = 500
"""Events in one page: some 200 KB."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Some events as server-sent events (HTML 9.2)."""

    first: int
    """Sequence number of the first event."""
    frames: list[bytes]
    actions: list[str]
    lines: list[bytes]
    cursor: Cursor

    @classmethod
    def of(cls, page: Page) -> Frames:
        """The frames of a page."""
        frames = [
            b"id: %s\ndata: %s\n\n" % (str(page.cursor_at(number)).encode(), line)
            for number, line in enumerate(page.lines)
        ]
        return cls(page.first, frames, [action_of(line) for line in page.lines], page.lines, page.cursor)

    def behind(self, sequence: int, actions: frozenset[str], view: View) -> bytes:
        """The frames behind an event, with these actions (none: all), of studies in the view. Blocks if it is not the
        view of everything."""
        start = max(0, sequence + 1 - self.first)
        if not actions and view.scope is FULL:
            return b"".join(self.frames[start:])
        rows = zip(self.frames[start:], self.actions[start:], self.lines[start:], strict=True)
        return b"".join(
            [frame for frame, action, line in rows if (not actions or action in actions) and is_visible(view, line)]
        )


def is_visible(view: View, line: bytes) -> bool:
    """Whether an event is of a study in the view. Only who sees everything is told what names no study that is stored:
    deletions for good, corrections of patients, replication. Who sees single series is told nothing."""
    if view.scope is FULL:
        return True
    if view.is_partial:
        return False
    study_instance_uid = decode(line).study_instance_uid
    return bool(study_instance_uid) and view.sees(study_instance_uid)


class Follower:
    """One client that has caught up."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Frames | None] = asyncio.Queue(QUEUE_MAX)
        """None: the stream has ended."""
        self.is_slow = False
        """Whether its queue was full, so that pages are missing behind the queue."""

    def offer(self, frames: Frames | None) -> bool:
        """Adds a page; returns whether there was room for it."""
        try:
            self.queue.put_nowait(frames)
        except asyncio.QueueFull:
            self.is_slow = True
        return not self.is_slow


class ChangeStream:
    """The clients of one process, and the task that reads for them. Used on the loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._slots = StreamSlots()
        self._followers: set[Follower] = set()
        self._task: asyncio.Task[None] | None = None
        self.is_ended = False

    def opened(self, principal: Principal, count_max: int) -> AbstractContextManager[None]:
        """Counts the stream of one client, from its request on. Raises Unavailable, HttpError if there are too many."""
        return self._slots.taken(principal, count_max)

    def feed(self) -> Feed:
        """The feed, for one reader at a time."""
        return self._engine.archive.feed()

    async def read(self, feed: Feed, cursor: Cursor, limit: int = PAGE_EVENTS) -> Page:
        """Reads a page in a thread. Raises FeedError."""
        return await self.in_thread(partial(feed.read, cursor, limit))

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """Runs work on the feed's files in a thread."""
        return await self._engine.pools.reads.run(work)

    def join(self) -> Follower:
        """A follower that gets all later events. Read the feed once more after this call, to miss none."""
        follower = Follower()
        self._followers.add(follower)
        if self._task is None:
            self._task = guards.watch(self._engine.loop.create_task(self._follow()), "change stream", self._crashed)
        return follower

    def leave(self, follower: Follower) -> None:
        """Removes a follower."""
        self._followers.discard(follower)

    async def _follow(self) -> None:
        watch = self._engine.archive.feed_watch(self._engine.loop)
        try:
            feed = self.feed()
            cursor = await self.in_thread(feed.newest)
            while self._followers:
                changed = watch.changed()
                page = await self.read(feed, cursor)
                if not page.lines:
                    await asyncio.shield(changed)
                    continue
                cursor = page.cursor
                frames = Frames.of(page)
                self._engine.metrics.counters["feed_events_streamed"] += len(frames.frames)
                self._followers = {follower for follower in self._followers if follower.offer(frames)}
        except EngineError:
            self._end_all()  # a client that reconnects gets the error
        finally:
            self._task = None
            watch.close()

    def _crashed(self, error: BaseException) -> None:
        del error
        self._end_all()

    def _end_all(self) -> None:
        followers, self._followers = self._followers, set()
        for follower in followers:
            follower.offer(None)

    def end(self) -> None:
        """Ends the streams of all clients, when the server stops."""
        self.is_ended = True
        self._end_all()
        if self._task is not None:
            self._task.cancel()
