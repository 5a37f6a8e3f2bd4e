"""Feed: the interface for subscribers. Reads the journal from a cursor on, in any process, and waits for more.

    feed = Feed(archive.parts.layout)
    cursor = feed.cursors.load("router") or feed.newest()
    while True:
        page = feed.read(cursor)
        for event in page.events():
            …                                       # at least once: a crash here repeats the page
        if page.cursor != cursor:
            feed.cursors.save("router", page.cursor)
        cursor = page.cursor
        if not page.lines:
            feed.wait(cursor, timeout_s=60)

In asyncio, use `Watch.changed` instead of `wait`. A subscriber may stay away for `[feed] keep_days`; after that its
cursor is refused (CursorRefused), and it must begin anew: take `newest()`, list the archive, follow from there.
"""

from __future__ import annotations

import asyncio
import os
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from engine.archive.feed import journal
from engine.archive.feed.cursor import Cursor, Epochs, NamedCursors, read_epochs
from engine.archive.feed.event import Event, action_of, decode_lines
from engine.archive.feed.layout import directory_of
from engine.archive.feed.wake import LOOK_S, Wake
from engine.archive.layout import existing
from engine.archive.unlocking import unlock
from engine.errors import CursorRefused, FeedDamaged, FeedError, FeedMissing
from engine.storage.files import Files

if TYPE_CHECKING:
    from engine.archive.layout import Layout

PAGE_EVENTS = 1000

Place = TypeVar("Place")
Place_ = TypeVar("Place_", covariant=True)
_PLACES_MAX = 64


@dataclass(frozen=True, slots=True)
class Page:
    """Some events in order, and the cursor after them."""

    lines: list[bytes]
    """One event each, as JSON."""
    first: int
    """The sequence of the first one."""
    cursor: Cursor
    """The cursor after the last one."""
    epochs: list[int]
    """The epoch of each event."""

    def events(self) -> list[Event]:
        """The events as objects. Raises FeedDamaged."""
        return _decoded(self.lines)

    def events_of(self, action: str) -> list[Event]:
        """The events of one action; does not decode others. Raises FeedDamaged."""
        return _decoded([line for line in self.lines if action_of(line) == action])

    def cursor_at(self, number: int) -> Cursor:
        """The cursor after one of the events. Save it when the event has been handled."""
        return Cursor(self.epochs[number], self.first + number)


def _decoded(lines: list[bytes]) -> list[Event]:
    try:
        return decode_lines(b"\n".join(lines))
    except ValueError as error:
        raise FeedDamaged(f"an event cannot be read: {error}") from error


class Feed:
    """Read access to the feed of one archive; for one thread at a time."""

    def __init__(self, layout: Layout, files: Files | None = None) -> None:
        self._directory = directory_of(layout)
        self._files = files or Files()
        self.cursors = NamedCursors(self._directory, self._files)
        self._epochs: Epochs | None = None
        self._epochs_identity: tuple[int, int] | None = None
        self._places: OrderedDict[int, tuple[int, int]] = OrderedDict()
        """Sequence → file and offset of the block after it."""
        self._block: journal.Block | None = None
        self._block_lines: list[bytes] = []
        """The last block read, and its events."""
        self._tail: tuple[int, int, int] = (0, 0, 0)
        """File, offset and sequence of the last known end."""
        self._wake: Wake | None = None

    @classmethod
    def existing(cls, data: Path) -> Feed:
        """The feed of an existing archive, which other processes may have open. Raises StorageError, KeyStoreError."""
        files = Files()
        return cls(unlock(existing(data), files), files)

    def newest(self) -> Cursor:
        """The cursor after the last event. Raises FeedMissing."""
        return Cursor(self._known_epochs().current, self._last())

    def oldest(self) -> Cursor:
        """The cursor before the first kept event. Raises FeedMissing."""
        epochs = self._known_epochs()
        firsts = journal.list_files(self._directory, self._files)
        return Cursor(epochs.current, firsts[0] - 1) if firsts else Cursor(epochs.current, self._last())

    def read(self, cursor: Cursor, limit: int = PAGE_EVENTS) -> Page:
        """The events after a cursor, `limit` at most. Raises CursorRefused, FeedDamaged, FeedMissing."""
        after = self._known_epochs().resolve(cursor)
        lines: list[bytes] = []
        epochs: list[int] = []
        for block in self._blocks(after):
            new_lines = self._split(block)[max(0, after + 1 - block.first) :][: limit - len(lines)]
            lines += new_lines
            epochs += [block.epoch] * len(new_lines)
            if len(lines) >= limit:
                break
        if not lines:
            if after > self._last():
                raise CursorRefused(f"cursor {cursor} is ahead of this feed, which was restored to an earlier state")
            unchanged = cursor if after == cursor.sequence else Cursor(self._known_epochs().current, after)
            return Page([], after + 1, unchanged, [])
        return Page(lines, after + 1, Cursor(epochs[-1], after + len(lines)), epochs)

    def has_more(self, cursor: Cursor) -> bool:
        """Whether there is an event after a cursor. Raises CursorRefused."""
        return self._known_epochs().resolve(cursor) < self._last()

    def wait(self, cursor: Cursor, timeout_s: float | None = None) -> bool:
        """Waits for an event after a cursor. Returns whether there is one. Raises CursorRefused."""
        if self._wake is None:
            self._wake = Wake(self._directory, once=False)
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.has_more(cursor):
            left_s = None if give_up_at is None else give_up_at - time.monotonic()
            if left_s is not None and left_s <= 0:
                return False
            self._wake.wait(lambda: self.has_more(cursor), left_s)
        return True

    def close(self) -> None:
        """Closes its descriptors."""
        if self._wake is not None:
            self._wake.close()
            self._wake = None

    # -- inside ---------------------------------------------------------------------------------

    def _known_epochs(self) -> Epochs:
        identity = self._files.identity(f"{self._directory}/epochs")
        if identity != self._epochs_identity or self._epochs is None:
            epochs = read_epochs(self._directory, self._files)
            if epochs is None:
                raise FeedMissing("this archive has no change feed: no server has run with [feed] keep_days above 0")
            if self._epochs is not None and epochs.rows[: len(self._epochs.rows)] != self._epochs.rows:
                # The feed was begun anew: its sequences have another meaning.
                self._places.clear()
                self._block = None
                self._tail = (0, 0, 0)
            self._epochs, self._epochs_identity = epochs, identity
        return self._epochs

    def _last(self) -> int:
        """The sequence of the last event."""
        first, offset, last = self._tail
        if not first:
            firsts = journal.list_files(self._directory, self._files)
            if not firsts:
                return self._known_epochs().rows[-1][1] - 1
            first, offset, last = firsts[-1], 0, firsts[-1] - 1
        while True:
            for block in self._read_file(first, offset):
                offset, last = block.end, block.last
            self._tail = (first, offset, last)
            if not self._is_file(last + 1) or last + 1 == first:
                return last
            first, offset = last + 1, 0

    def _split(self, block: journal.Block) -> list[bytes]:
        """The events of a block. Keeps the last block, since the next page may begin within it."""
        if self._block is not block:
            self._block = block
            self._block_lines = block.lines.split(b"\n")
            self._block_lines.pop()
        return self._block_lines

    def _blocks(self, after: int) -> Iterator[journal.Block]:
        """The blocks with events after a sequence."""
        cached = self._block
        if cached is not None and cached.first <= after + 1 <= cached.last:
            yield cached
            after = cached.last
        first, offset = self._places.pop(after) if after in self._places else self._locate(after)
        last = after
        while first:
            for block in self._read_file(first, offset):
                offset = block.end
                if block.last > after:
                    last = block.last
                    self._remember(block.last, first, offset)
                    yield block
            following = last + 1
            if following == first or not self._is_file(following):
                firsts = journal.list_files(self._directory, self._files)
                if firsts and firsts[-1] > following:
                    raise FeedDamaged(f"events from {following} on cannot be read: read the archive once, begin anew")
                if last == after and first != following:
                    self._remember(after, first, offset)
                return
            first, offset = following, 0

    def _remember(self, sequence: int, first: int, offset: int) -> None:
        self._places[sequence] = first, offset
        if len(self._places) > _PLACES_MAX:
            self._places.popitem(last=False)

    def _locate(self, after: int) -> tuple[int, int]:
        """The file with the first event after a sequence; 0 if there is none yet. Raises CursorRefused."""
        firsts = journal.list_files(self._directory, self._files)
        if firsts and after + 1 < firsts[0]:
            raise CursorRefused("the cursor is too old: the events after it have been removed; begin with a new one")
        number = bisect_right(firsts, after + 1) - 1
        return (firsts[number], 0) if number >= 0 else (0, 0)

    def _is_file(self, first: int) -> bool:
        return self._files.exists(journal.path_of(self._directory, first))

    def _read_file(self, first: int, offset: int) -> Iterator[journal.Block]:
        try:
            fd = self._files.open(journal.path_of(self._directory, first), os.O_RDONLY)
        except FileNotFoundError:
            raise CursorRefused("the cursor is too old: the events after it have just been removed") from None
        except OSError as error:
            raise FeedError(f"the feed cannot be read: {error.strerror}") from error
        try:
            yield from journal.read_blocks(self._files, fd, offset)
        finally:
            self._files.close(fd)


class Growing(Protocol[Place_]):
    """Something with a beginning and an end that moves."""

    def newest(self) -> Place_:
        """The place after everything. Raises FeedMissing."""

    def oldest(self) -> Place_:
        """The place before everything that is kept. Raises FeedMissing."""


async def cursor_of_now(
    feed: Growing[Place], run: Callable[[Callable[[], Place]], Awaitable[Place]], check_s: float
) -> Place:
    """The cursor before all later events. `run` runs work in a thread.

    A subscriber may start before the feed. It looks for it every `check_s`, and all events of that feed are later ones.
    """
    place = feed.newest
    while True:
        try:
            return await run(place)
        except FeedMissing:
            place = feed.oldest
        await asyncio.sleep(check_s)


class Watch:
    """Wakes the tasks of a loop when something has been added to a folder: a feed, or another log."""

    def __init__(self, directory: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wake = Wake(directory, once=False)
        self._changed: asyncio.Future[None] = loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        if self._wake.fd >= 0:
            loop.add_reader(self._wake.fd, self._written)
        else:
            self._timer = loop.call_later(LOOK_S, self._look)

    def changed(self) -> asyncio.Future[None]:
        """A future that is done at the next write. Get it before you read, so that you miss no event."""
        return self._changed

    def _written(self) -> None:
        self._wake.clear()
        changed, self._changed = self._changed, self._loop.create_future()
        if not changed.done():
            changed.set_result(None)

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK_S, self._look)
        self._written()

    def close(self) -> None:
        """Stops waking."""
        if self._timer is not None:
            self._timer.cancel()
        if self._wake.fd >= 0:
            self._loop.remove_reader(self._wake.fd)
        self._wake.close()
        self._changed.cancel()
