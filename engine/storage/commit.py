"""Group commit: many appended records, one fdatasync, one index transaction, then every waiter in order.

Does not know what is committed: `sync` makes the log durable, `apply` makes a batch visible. Two ways:

    durable        submit → thread: sync(), apply(batch) → loop: done(result) for each
    write-behind   submit → loop, when the sockets that are ready have been read: apply(batch), done(result)

A lone waiter never waits for a timer: the thread takes whatever is there as soon as it is free, and what
arrives while it syncs is the next group. After a failed sync nothing is acknowledged any more and nothing is
tried again: a second fdatasync would report success for pages that the kernel has already dropped. Whatever sync and
apply raise is such a failure, and whatever one waiter raises is its own: each of a group is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Generic, TypeVar

from engine import guards
from engine.errors import EngineError, StorageError, StorageFailed, StorageFull
from engine.metrics import Histogram

Item = TypeVar("Item")
Result = TypeVar("Result")

Done = Callable[["Result | EngineError"], None]

GROUP_MAX = 256
"""Records in one index transaction at most: bounds how long a writer of another process waits."""


class GroupCommit(Generic[Item, Result]):
    """One worker's commit point; `submit` and `submit_unsynced` are called on the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sync: Callable[[], None],
        apply: Callable[[Sequence[Item]], Sequence[Result]],
        on_failure: Callable[[EngineError], None],
    ) -> None:
        """`on_failure` is called once, on the loop's thread, after the waiters of the failed group were told."""
        self._loop = loop
        self._sync = sync
        self._apply = apply
        self._on_failure = on_failure
        self._queue: SimpleQueue[tuple[Item, Done[Result]] | None] = SimpleQueue()
        self._unsynced: list[tuple[Item, Done[Result]]] = []
        self._failed: EngineError | None = None
        self._failure_told = False
        self._closed = False
        self._thread: Thread | None = None
        self.depth = 0
        """Waiters that have not been answered yet."""
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
        """Ends the writer from outside: an I/O error beside the commit path is as final as one on it."""
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

    def _tell_failure(self) -> None:
        if self._failed is not None and not self._failure_told:
            self._failure_told = True
            self._on_failure(self._failed)

    def _crashed(self, error: BaseException) -> None:
        """The thread is gone: nobody who waits would ever be answered."""
        self._failed = StorageFailed(f"the committing thread ended: {error!r}")
        self._loop.call_soon_threadsafe(self._tell_failure)

    def _refuse(self, done: Done[Result]) -> None:
        """For who has been busy elsewhere while this was closed."""
        self._loop.call_soon(done, StorageError("this writer is closed"))

    def _flush_unsynced(self) -> None:
        group, self._unsynced = self._unsynced, []
        if group:
            self._deliver(group, self._applied(group))

    def _run(self) -> None:
        while True:
            group, last = self._next_group()
            if group:
                outcome = self._committed(group)
                self._loop.call_soon_threadsafe(self._deliver, group, outcome)
            if last:
                return

    def _next_group(self) -> tuple[list[tuple[Item, Done[Result]]], bool]:
        """Waits for one waiter, then takes all that are there; True when the thread shall end."""
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
        return self._applied(group)

    def _applied(self, group: list[tuple[Item, Done[Result]]]) -> Sequence[Result] | EngineError:
        if self._failed is not None:
            return self._failed
        self.group_sizes.observe(len(group))
        try:
            results = self._apply([item for item, _ in group])
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
            if isinstance(outcome, EngineError):
                for _, done in group:
                    guards.call("commit answer", done, outcome)
                return
            for (_, done), result in zip(group, outcome, strict=True):
                try:  # in place: this is an instance's path
                    done(result)
                except Exception as error:
                    guards.failed("commit answer", error)
        finally:
            self._tell_failure()
