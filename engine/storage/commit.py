"""Group commit: many appended records, one fdatasync, one index transaction, then every waiter in order.

Does not know what is committed: `sync` makes the log durable, `apply` makes a batch visible. Four ways:

    prompt         a lone waiter: background.begin(), apply_promptly([item]) while the disk works, done(result)
    durable        loop, when the sockets that are ready have been read: background.begin() → disk
                   → loop: try_apply(batch), done(result) for each
    write-behind   loop, when the sockets that are ready have been read: try_apply(batch), done(result) for each
    thread         where one of these would have to wait, or there is no `background`:
                   sync(), apply(batch) → loop: done(result) for each

A lone waiter never waits for a timer: a sync begins as soon as none is under way, and what is submitted during one
forms the next group, whose sync begins before the index transaction of the group before it. All this runs on the
loop's thread: two threads that take turns at the interpreter's lock cost more than what they do.

The prompt way waits for the disk on the loop: for PROMPT_WAIT_US at most, only while nothing else on the loop is
ready, and only when the sync before was shorter than PROMPT_SYNC_S. Nothing becomes visible before it is durable.

After a failed sync, acknowledge nothing and do not try again: a second fdatasync would report success for pages that
the kernel has already dropped. Any exception of sync or apply counts as such a failure. An exception of one waiter
concerns only that waiter: every other one of the group is answered.

No waiter waits forever either: when a disk or another process has held up a group for `patience_s`, that group and all
that wait are answered with StorageError. They are committed all the same once that is possible, so a sender that
repeats them finds them stored. Until then check `late` before you submit.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Generic, Protocol, TypeVar

from engine import guards, log
from engine.errors import EngineError, StorageError, StorageFailed, StorageFull
from engine.metrics import Histogram

logger = log.get("storage.commit")

Item = TypeVar("Item")
Result = TypeVar("Result")

Done = Callable[["Result | EngineError"], None]

PATIENCE_S = 8.0
"""Modalities give up after 10 to 30 s, and send instances without an answer again."""

PROMPT_WAIT_US = 1000
"""How long the loop may stand still for a lone waiter: as long as a copy of some MiB into the page cache."""
PROMPT_SYNC_S = 0.0007
"""A disk that took longer than this for the last group is not waited for."""

_LOOK_S = 1.0
"""Interval of the check for a late group, while there is a group."""

GROUP_MAX = 256
"""The most records in one index transaction: bounds how long a writer of another process waits."""


class Background(Protocol):
    """A sync that nobody waits for: see `background_sync`."""

    def begin(self) -> bool:
        """Starts to make durable what has been appended; False: call `sync` instead, in a thread."""

    def wait(self, timeout_us: int, other_fd: int = -1) -> bool:
        """Waits for so long, or until another descriptor is readable; whether the sync that has begun has ended."""

    def finish(self) -> None:
        """Waits for the sync that has begun, and raises what it raised."""

    def fileno(self) -> int:
        """Readable when a sync is done and has not been finished."""

    def close(self) -> None: ...


class _Group(Generic[Item, Result]):
    """What is committed together."""

    __slots__ = ("began", "entries", "is_answered")

    def __init__(self, entries: list[tuple[Item, Done[Result]]]) -> None:
        self.entries = entries
        self.began = perf_counter()
        self.is_answered = False
        """It was late, and its waiters have been answered."""


class GroupCommit(Generic[Item, Result]):
    """One worker's commit point; `submit` and `submit_unsynced` are called on the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sync: Callable[[], None],
        apply: Callable[[Sequence[Item]], Sequence[Result]],
        on_failure: Callable[[EngineError], None],
        *,
        background: Background | None = None,
        try_apply: Callable[[Sequence[Item]], Sequence[Result] | None] | None = None,
        apply_promptly: Callable[[Sequence[Item], Callable[[], bool]], Sequence[Result] | None] | None = None,
        why_late: Callable[[], str] = str,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`on_failure` is called once, on the loop's thread, after the waiters of the failed group have been answered.

        `try_apply`: as `apply`, but None if it would have to wait. `apply_promptly`: the same, and None if its second
        argument, called before anything becomes visible, returns False. `why_late`: the reason for the wait, if known.
        """
        self._loop = loop
        self._sync = sync
        self._apply = apply
        self._on_failure = on_failure
        self._background = background
        self._try_apply = try_apply or apply
        self._apply_promptly = apply_promptly
        self._loop_fd = _backend_fd(loop)
        self._loop_poll = select.poll()
        if self._loop_fd >= 0:
            self._loop_poll.register(self._loop_fd, select.POLLIN)
        self._may_be_prompt = background is not None and apply_promptly is not None and self._loop_fd >= 0
        self._is_prompt = self._may_be_prompt
        """Whether a lone waiter's sync may be waited for: the last one was short."""
        self._why_late = why_late
        self._patience_s = patience_s
        self._queue: SimpleQueue[tuple[Item, Done[Result]] | None] = SimpleQueue()
        """What the thread is to commit."""
        self._unsynced: list[tuple[Item, Done[Result]]] = []
        self._gathered: list[tuple[Item, Done[Result]]] = []
        """The next group of `background`."""
        self._in_sync: _Group[Item, Result] | None = None
        """The group whose sync is under way in the background."""
        self._in_thread: _Group[Item, Result] | None = None
        """The group that the thread commits; the thread sets it."""
        self._is_begin_due = False
        self._is_watching = False
        self.late: str = ""
        """Why commits are late; "" while all is well."""
        self._failed: EngineError | None = None
        self._failure_reported = False
        self._closed = False
        self._thread: Thread | None = None
        self.depth = 0
        """Submitted and not committed yet."""
        self.group_sizes = Histogram(1, 2, 4, 8, 16, 32, 64, 128, 256)
        self.sync_latency_s = Histogram(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)

    def start(self) -> None:
        """Starts the committing thread."""
        self._thread = guards.start("group-commit", self._run, self._crashed)
        if self._background is not None:
            self._loop.add_reader(self._background.fileno(), self._synced)

    def submit(self, item: Item, done: Done[Result]) -> None:
        """Answers `done` when `item` is on stable storage and visible."""
        if self._closed:
            self._refuse(done)
            return
        self.depth += 1
        if not self._is_watching:
            self._watch()
        if self._background is None:
            self._queue.put((item, done))
            return
        self._gathered.append((item, done))
        if self._is_prompt and self.depth == 1 and self._commit_promptly():
            return
        if self._in_sync is None and not self._is_begin_due:
            self._is_begin_due = True
            self._loop.call_soon(self._begin)

    def submit_unsynced(self, item: Item, done: Done[Result]) -> None:
        """Answers `done` when `item` is visible; the keeper syncs it later (write-behind)."""
        if self._closed:
            self._refuse(done)
            return
        self.depth += 1
        self._unsynced.append((item, done))
        if len(self._unsynced) == 1:
            self._loop.call_soon(self._flush_unsynced)

    def fail(self, error: EngineError) -> None:
        """Ends the writer after an I/O error elsewhere, which is as final as one on the commit path."""
        if self._failed is None:
            self._failed = error
        self._tell_failure()

    def close(self) -> None:
        """Commits what has been submitted, then ends the thread. Blocks."""
        self._flush_unsynced()
        self._closed = True
        while self._in_sync is not None or self._gathered:
            if self._in_sync is not None:
                self._finish()
            else:
                self._begin()
        if self._thread is not None and self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        background, self._background = self._background, None
        if background is not None:
            self._loop.remove_reader(background.fileno())
            background.close()

    # -- who waits for too long -----------------------------------------------------------------

    def _watch(self) -> None:
        self._is_watching = True
        self._loop.call_later(min(_LOOK_S, self._patience_s), self._look)

    def _look(self) -> None:
        """Answers a late group, and all that wait after it."""
        self._is_watching = False
        for group in (self._in_sync, self._in_thread):
            if group is not None and perf_counter() - group.began > self._patience_s:
                self._give_up(group, perf_counter() - group.began)
        if self.depth or self.late:
            self._watch()

    def _give_up(self, group: _Group[Item, Result], waited_s: float) -> None:
        behind = self._taken_back()
        late = [done for _, done in behind if done is not _unanswered]
        if not group.is_answered:
            group.is_answered = True
            late = [done for _, done in group.entries if done is not _unanswered] + late
            logger.error("nothing is committed", waiting=len(late), waited_s=round(waited_s, 1), why=self._why_late())
        self.late = self._why_late() or f"the disk or the index has not answered for {waited_s:.0f} s"
        error = StorageError(f"out of resources: {self.late}")
        for done in late:
            guards.call("commit answer", done, error)

    def _taken_back(self) -> list[tuple[Item, Done[Result]]]:
        """All that wait behind a late group: to be answered now, and committed once that is possible."""
        gathered, self._gathered = self._gathered, [(item, _unanswered) for item, _ in self._gathered]
        queued: list[tuple[Item, Done[Result]]] = []
        is_last = False
        try:
            while True:
                entry = self._queue.get_nowait()
                if entry is None:
                    is_last = True
                else:
                    queued.append(entry)
        except Empty:
            pass
        for item, _ in queued:
            self._queue.put((item, _unanswered))
        if is_last:
            self._queue.put(None)
        return queued + gathered

    # -- failing --------------------------------------------------------------------------------

    def _tell_failure(self) -> None:
        if self._failed is not None and not self._failure_reported:
            self._failure_reported = True
            self._on_failure(self._failed)

    def _crashed(self, error: BaseException) -> None:
        """Handles the end of the thread: without it no waiter would ever be answered."""
        self._failed = StorageFailed(f"the committing thread ended: {error!r}")
        self._loop.call_soon_threadsafe(self._tell_failure)

    def _refuse(self, done: Done[Result]) -> None:
        """Answers a caller that submits after `close`."""
        self._loop.call_soon(done, StorageError("this writer is closed"))

    # -- on the loop ----------------------------------------------------------------------------

    def _flush_unsynced(self) -> None:
        entries, self._unsynced = self._unsynced, []
        if entries:
            self._commit_synced(_Group(entries))

    def _commit_promptly(self) -> bool:
        """Commits what a lone waiter has submitted, while its sync is under way; False: nothing has been done."""
        assert self._background is not None and self._apply_promptly is not None
        if self._loop_poll.poll(0):
            return False
        self._begin()
        group = self._in_sync
        if group is not None:
            outcome = self._applied(group, self._apply_while_in_sync)
            if outcome is not None:
                self._deliver(group, outcome)
        return True

    def _apply_while_in_sync(self, items: Sequence[Item]) -> Sequence[Result] | None:
        assert self._apply_promptly is not None
        return self._apply_promptly(items, self._is_durable_soon)

    def _is_durable_soon(self) -> bool:
        """Waits for the sync that is under way, for a moment. Raises what it raised."""
        assert self._background is not None
        if self._in_sync is None:
            return True  # asked before: the transaction did not fit
        if not self._background.wait(PROMPT_WAIT_US, self._loop_fd):
            self._is_prompt = False
            return False
        error = self._sync_ended()
        if error is not None:
            raise error
        return True

    def _begin(self) -> None:
        """Starts the sync of all that have gathered, unless one is under way."""
        self._is_begin_due = False
        if self._in_sync is not None or not self._gathered:
            return
        group = _Group(self._gathered[:GROUP_MAX])
        del self._gathered[:GROUP_MAX]
        assert self._background is not None
        error = self._failed
        try:
            if error is None and not self._background.begin():
                self._hand_over(group)
                return
        except Exception as failure:
            error = self._sync_failed(failure)
        if error is not None:
            self._deliver(group, error)
        else:
            self._in_sync = group

    def _synced(self) -> None:
        """A sync in the background has ended, unless somebody has seen that already."""
        if self._in_sync is not None and self._background is not None and self._background.wait(0):
            self._finish()

    def _finish(self) -> None:
        """Waits for the sync that is under way, starts the next one, and commits."""
        group = self._in_sync
        assert group is not None
        error = self._sync_ended()
        self._begin()
        if error is not None:
            self._deliver(group, error)
        else:
            self._commit_synced(group)

    def _sync_ended(self) -> EngineError | None:
        """Takes note of how a sync in the background has ended; why nothing of its group may be answered."""
        group, self._in_sync = self._in_sync, None
        assert group is not None and self._background is not None
        try:
            self._background.finish()
        except Exception as failure:
            return self._sync_failed(failure)
        sync_s = perf_counter() - group.began
        self.sync_latency_s.observe(sync_s)
        self._is_prompt = self._may_be_prompt and sync_s < PROMPT_SYNC_S
        return None

    def _commit_synced(self, group: _Group[Item, Result]) -> None:
        outcome = self._applied(group, self._try_apply)
        if outcome is None:
            self._hand_over(group)
        else:
            self._deliver(group, outcome)

    def _hand_over(self, group: _Group[Item, Result]) -> None:
        """Leaves a group to the thread: what is durable already costs it no sync."""
        for item, done in group.entries:
            self._queue.put((item, _unanswered if group.is_answered else done))
        if not self._is_watching:
            self._watch()

    # -- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            entries, last = self._next_entries()
            if entries:
                self._in_thread = group = _Group(entries)
                outcome = self._committed(group)
                self._in_thread = None
                self._loop.call_soon_threadsafe(self._deliver, group, outcome)
            if last:
                return

    def _next_entries(self) -> tuple[list[tuple[Item, Done[Result]]], bool]:
        """Waits for one waiter, then takes all; True if the thread must end."""
        entries: list[tuple[Item, Done[Result]]] = []
        entry = self._queue.get()
        while entry is not None:
            entries.append(entry)
            if len(entries) == GROUP_MAX:
                return entries, False
            try:
                entry = self._queue.get_nowait()
            except Empty:
                return entries, False
        return entries, True

    def _committed(self, group: _Group[Item, Result]) -> Sequence[Result] | EngineError:
        if self._failed is not None:
            return self._failed
        try:
            self._sync()
        except Exception as error:
            return self._sync_failed(error)
        self.sync_latency_s.observe(perf_counter() - group.began)
        outcome = self._applied(group, self._apply)
        assert outcome is not None
        return outcome

    # -- in both --------------------------------------------------------------------------------

    def _sync_failed(self, error: Exception) -> EngineError:
        """What to answer after a failed sync, which is final but for want of a descriptor."""
        if isinstance(error, StorageFull):
            return error  # no descriptor for the directory: nothing has failed, and the next group may find one
        if isinstance(error, EngineError):
            self._failed = error
            return error
        self._failed = StorageFailed(f"the log could not be synced: {error!r}")
        self._failed.__cause__ = error
        return self._failed

    def _applied(
        self, group: _Group[Item, Result], apply: Callable[[Sequence[Item]], Sequence[Result] | None]
    ) -> Sequence[Result] | EngineError | None:
        """The result of `apply` for a group; None if it would have to wait."""
        if self._failed is not None:
            return self._failed
        entries = group.entries
        try:
            results = apply([item for item, _ in entries])
            if results is None:
                return None
            self.group_sizes.observe(len(entries))
            if len(results) != len(entries):
                raise ValueError(f"{len(results)} results for {len(entries)} records")
            return results
        except StorageFull as error:
            return error  # nothing became visible; the next group may find room
        except EngineError as error:
            self._failed = error
            return error
        except Exception as error:
            self._failed = StorageFailed(f"the index refused a batch: {error!r}")
            self._failed.__cause__ = error
            return self._failed

    def _deliver(self, group: _Group[Item, Result], outcome: Sequence[Result] | EngineError) -> None:
        self.depth -= len(group.entries)
        try:
            if group.is_answered:
                self.late = ""
                return
            if isinstance(outcome, EngineError):
                for _, done in group.entries:
                    guards.call("commit answer", done, outcome)
                return
            for (_, done), result in zip(group.entries, outcome, strict=True):
                try:  # in place: this is an instance's path
                    done(result)
                except Exception as error:
                    guards.log_failure("commit answer", error)
        finally:
            self._tell_failure()


def _unanswered(result: object) -> None:
    """Stands for a waiter that has been answered already."""


def _backend_fd(loop: asyncio.AbstractEventLoop) -> int:
    """A descriptor that is readable while something on the loop is ready; -1: there is none."""
    backend = getattr(loop, "_get_backend_id", None)  # uvloop's
    return backend() if backend is not None else -1
