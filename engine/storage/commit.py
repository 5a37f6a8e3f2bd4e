"""Group commit: many appended records, one fdatasync, one index transaction, then every waiter in order.

Does not know what is committed: `sync` makes the log durable, `apply` makes a batch visible. Two ways:

    durable        submit → thread: sync(), apply(batch) → loop: done(result) for each
    write-behind   submit → loop, when the sockets that are ready have been read: try_apply(batch), done(result);
                   where that cannot be done at once, as durable

A lone waiter never waits for a timer: the thread takes all waiters as soon as it is free, and those that arrive while
it syncs form the next group. After a failed sync, acknowledge nothing and do not try again: a second fdatasync would
report success for pages that the kernel has already dropped. Any exception of sync or apply counts as such a failure.
An exception of one waiter concerns only that waiter: every other one of the group is answered.

No waiter waits forever either: when a disk or another process has held up a group for `patience_s`, that group and all
after it are answered with StorageError. They are committed all the same once that is possible, so a sender that repeats
them finds them stored. Until then check `late` before you submit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Generic, TypeVar

from engine import guards, log
from engine.errors import EngineError, StorageError, StorageFailed, StorageFull
from engine.metrics import Histogram

logger = log.get("storage.commit")

Item = TypeVar("Item")
Result = TypeVar("Result")

Done = Callable[["Result | EngineError"], None]

PATIENCE_S = 8.0
"""Modalities give up after 10 to 30 s, and send instances without an answer again."""

_LOOK_S = 1.0
"""Interval of the check for a late group, while there is a group."""

GROUP_MAX = 256
"""The most records in one index transaction: bounds how long a writer of another process waits."""


class GroupCommit(Generic[Item, Result]):
    """One worker's commit point; `submit` and `submit_unsynced` are called on the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sync: Callable[[], None],
        apply: Callable[[Sequence[Item]], Sequence[Result]],
        on_failure: Callable[[EngineError], None],
        *,
        try_apply: Callable[[Sequence[Item]], Sequence[Result] | None] | None = None,
        why_late: Callable[[], str] = str,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`on_failure` is called once, on the loop's thread, after the waiters of the failed group have been answered.

        `try_apply`: as `apply`, but None if it would have to wait. `why_late`: the reason for the wait, if known.
        """
        self._loop = loop
        self._sync = sync
        self._apply = apply
        self._on_failure = on_failure
        self._try_apply = try_apply
        self._why_late = why_late
        self._patience_s = patience_s
        self._queue: SimpleQueue[tuple[Item, Done[Result]] | None] = SimpleQueue()
        self._unsynced: list[tuple[Item, Done[Result]]] = []
        self._under_way: tuple[list[tuple[Item, Done[Result]]], float] | None = None
        """The group that the thread commits, and since when; the thread sets it."""
        self._answered: list[tuple[Item, Done[Result]]] | None = None
        """A late group, which has been answered."""
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

    def submit(self, item: Item, done: Done[Result]) -> None:
        """Answers `done` when `item` is on stable storage and visible."""
        if self._closed:
            self._refuse(done)
            return
        self.depth += 1
        self._queue.put((item, done))
        if not self._is_watching:
            self._watch()

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
        if self._thread is not None and self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _watch(self) -> None:
        self._is_watching = True
        self._loop.call_later(min(_LOOK_S, self._patience_s), self._look)

    def _look(self) -> None:
        """Answers a late group, and all that wait after it."""
        self._is_watching = False
        under_way = self._under_way
        if under_way is not None and perf_counter() - under_way[1] > self._patience_s:
            self._give_up(under_way[0], perf_counter() - under_way[1])
        if self.depth or self.late:
            self._watch()

    def _give_up(self, group: list[tuple[Item, Done[Result]]], waited_s: float) -> None:
        behind: list[tuple[Item, Done[Result]]] = []
        is_last = False
        try:
            while True:
                entry = self._queue.get_nowait()
                if entry is None:
                    is_last = True
                else:
                    behind.append(entry)
        except Empty:
            pass
        for item, _ in behind:
            self._queue.put((item, _unanswered))  # committed once that is possible
        if is_last:
            self._queue.put(None)
        late = [done for _, done in behind if done is not _unanswered]
        if group is not self._answered:
            self._answered = group
            late = [done for _, done in group if done is not _unanswered] + late
            logger.error("nothing is committed", waiting=len(late), waited_s=round(waited_s, 1), why=self._why_late())
        self.late = self._why_late() or f"the disk or the index has not answered for {waited_s:.0f} s"
        error = StorageError(f"out of resources: {self.late}")
        for done in late:
            guards.call("commit answer", done, error)

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

    def _flush_unsynced(self) -> None:
        group, self._unsynced = self._unsynced, []
        if not group:
            return
        outcome = self._applied(group, self._try_apply or self._apply)
        if outcome is not None:
            self._deliver(group, outcome)
            return
        for entry in group:
            self._queue.put(entry)
        if not self._is_watching:
            self._watch()

    def _run(self) -> None:
        while True:
            group, last = self._next_group()
            if group:
                self._under_way = group, perf_counter()
                outcome = self._committed(group)
                self._under_way = None
                self._loop.call_soon_threadsafe(self._deliver, group, outcome)
            if last:
                return

    def _next_group(self) -> tuple[list[tuple[Item, Done[Result]]], bool]:
        """Waits for one waiter, then takes all; True if the thread must end."""
        group: list[tuple[Item, Done[Result]]] = []
        entry = self._queue.get()
        while entry is not None:
            group.append(entry)
            if len(group) == GROUP_MAX:
                return group, False
            try:
                entry = self._queue.get_nowait()
            except Empty:
                return group, False
        return group, True

    def _committed(self, group: list[tuple[Item, Done[Result]]]) -> Sequence[Result] | EngineError:
        if self._failed is not None:
            return self._failed
        began = perf_counter()
        try:
            self._sync()
        except StorageFull as error:
            return error  # no descriptor for the directory: nothing has failed, and the next group may find one
        except EngineError as error:
            self._failed = error
            return error
        except Exception as error:
            self._failed = StorageFailed(f"the log could not be synced: {error!r}")
            self._failed.__cause__ = error
            return self._failed
        self.sync_latency_s.observe(perf_counter() - began)
        outcome = self._applied(group, self._apply)
        assert outcome is not None
        return outcome

    def _applied(
        self, group: list[tuple[Item, Done[Result]]], apply: Callable[[Sequence[Item]], Sequence[Result] | None]
    ) -> Sequence[Result] | EngineError | None:
        """The result of `apply` for a group; None if it would have to wait."""
        if self._failed is not None:
            return self._failed
        try:
            results = apply([item for item, _ in group])
            if results is None:
                return None
            self.group_sizes.observe(len(group))
            if len(results) != len(group):
                raise ValueError(f"{len(results)} results for {len(group)} records")
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

    def _deliver(self, group: list[tuple[Item, Done[Result]]], outcome: Sequence[Result] | EngineError) -> None:
        self.depth -= len(group)
        try:
            if group is self._answered:
                self._answered, self.late = None, ""
                return
            if isinstance(outcome, EngineError):
                for _, done in group:
                    guards.call("commit answer", done, outcome)
                return
            for (_, done), result in zip(group, outcome, strict=True):
                try:  # in place: this is an instance's path
                    done(result)
                except Exception as error:
                    guards.log_failure("commit answer", error)
        finally:
            self._tell_failure()


def _unanswered(result: object) -> None:
    """Stands for a waiter that has been answered already."""
