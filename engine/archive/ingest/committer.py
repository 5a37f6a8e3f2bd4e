"""Commits the records that a server has appended, and runs blocking work in threads. Runs on the loop's thread.

A failed write or sync is final wherever it occurs: the group commit then acknowledges nothing more. StorageFull and
refusals are not final.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from engine import log
from engine.archive.ingest.request import Done
from engine.archive.ingest.second_copy import SecondCopies, SecondCopy
from engine.archive.ingest.writer import Writer
from engine.archive.settings import Durable
from engine.errors import EngineError, InstanceQuarantined, InstanceRefused, StorageError, StorageFailed, for_log
from engine.index.format.entry import Entry, Quarantined
from engine.index.format.types import Outcome
from engine.storage.background_sync import BackgroundSync
from engine.storage.commit import GroupCommit
from engine.storage.record import Position

PREWRITE_AFTER_S = 30.0
"""The delay of the first step after a start: each worker writes half a gigabyte, whatever the others do then."""
PREWRITE_PAUSE_S = 0.5
"""No process may have stored anything for this long before the next step: a burst needs disk and cores."""
PREWRITE_LOOK_S = 1.0
"""The interval of the check for something to prewrite."""

Result = TypeVar("Result")

logger = log.get("archive.ingest")


class Committer:
    """One server process's group commit and its ingest threads."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        writer: Writer,
        on_failure: Callable[[EngineError], None],
        copies: SecondCopies | None = None,
    ) -> None:
        self._loop = loop
        self._writer = writer
        self._copies = copies
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="ingest")
        self.group: GroupCommit[Entry, Outcome] = GroupCommit(
            loop,
            writer.log.sync,
            writer.apply,
            on_failure,
            background=BackgroundSync(writer.log),
            try_apply=writer.try_apply,
            apply_promptly=writer.apply_promptly,
            why_late=writer.index.describe_writer,
        )
        self.group.start()
        self._closed = False
        self._sealing = False
        self._activity = self._last_activity()
        loop.call_later(PREWRITE_AFTER_S, self._prewrite)

    def check_in_time(self, durable_at: Durable = "local") -> None:
        """Raises StorageError while a submitted instance would not be answered in time."""
        if self.group.late:
            raise StorageError(f"out of resources: {self.group.late}")
        if durable_at != "local":
            self._copies_at(durable_at).check()

    def held(self, durable_at: Durable, position: Position, done: Done) -> Done:
        """`done`, but called with an outcome only when the record is elsewhere too. Call it before `submit`."""
        copy = self._copies_at(durable_at)
        copy.expect(position)

        def hold(outcome: Outcome | EngineError) -> None:
            if isinstance(outcome, EngineError):
                done(outcome)
            else:
                copy.hold(position, lambda error: done(outcome if error is None else error))

        return hold

    async def copied(self, durable_at: Durable, position: Position) -> None:
        """Returns when a record that is durable here is elsewhere too. Raises StorageError."""
        if durable_at == "local":
            return
        answer: asyncio.Future[None] = self._loop.create_future()

        def release(error: StorageError | None) -> None:
            if answer.cancelled():
                return
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(error)

        self._copies_at(durable_at).hold(position, release)
        await answer

    def _copies_at(self, durable_at: Durable) -> SecondCopy:
        if self._copies is None:
            raise StorageError("this process has no second copies")
        return self._copies.at(durable_at)

    def submit(self, entry: Entry, durable: bool, done: Done) -> None:
        """Commits an appended entry with the next group, then calls `done`."""
        if durable:
            self.group.submit(entry, done)
        else:
            self.group.submit_unsynced(entry, done)

    async def committed(self, entry: Entry, durable: bool) -> Outcome:
        """As `submit`, awaited."""
        answer: asyncio.Future[Outcome] = self._loop.create_future()

        def done(outcome: Outcome | EngineError) -> None:
            if answer.cancelled():
                return
            if isinstance(outcome, EngineError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        self.submit(entry, durable, done)
        return await answer

    async def book(self, claim: Quarantined, refusal: InstanceRefused) -> InstanceRefused:
        """Makes a quarantined record visible. Returns the error for its sender."""
        try:
            await self.blocking(lambda: self._writer.book_quarantined(claim))
        except EngineError as failure:
            logger.warning("nothing was put into quarantine", reason=for_log(failure))
            return refusal
        return InstanceQuarantined(str(refusal), refusal.refusal)

    async def blocking(self, work: Callable[[], Result]) -> Result:
        """Runs `work` in a thread. Raises what it raises, StorageError after `close`."""
        if self._closed:
            raise StorageError("this writer is closed")
        try:
            return await self._loop.run_in_executor(self._executor, work)
        except EngineError as error:
            self.note(error)
            raise

    def spawn(self, work: Coroutine[Any, Any, Outcome], done: Done) -> None:
        """Runs `work` as a task; calls `done` once, whatever the outcome."""
        task = self._loop.create_task(work)

        def finished(task: asyncio.Task[Outcome]) -> None:
            if task.cancelled():
                done(StorageError("the store was cancelled"))
                return
            error = task.exception()
            if error is None:
                done(task.result())
            elif isinstance(error, EngineError):
                done(error)
            else:
                done(StorageError(f"the store failed: {error!r}"))

        task.add_done_callback(finished)

    def note(self, error: EngineError) -> None:
        """Ends the group commit after a final error."""
        if isinstance(error, StorageFailed):
            self.group.fail(error)

    def seal(self) -> None:
        """Seals full segments, in a thread."""
        if self._sealing:
            return
        self._sealing = True

        def finished(future: asyncio.Future[None]) -> None:
            self._sealing = False
            error = future.exception()
            if isinstance(error, EngineError):
                self.group.fail(error)
            elif error is not None:
                self.group.fail(StorageError(f"sealing a segment failed: {error!r}"))

        self._loop.run_in_executor(self._executor, self._writer.seal_rolled).add_done_callback(finished)

    def _last_activity(self) -> tuple[object, ...]:
        """Changes with each record that this process appends and each commit of any process."""
        return self._writer.log.tail, self._writer.index.last_commit()

    def _prewrite(self) -> None:
        """Prewrites the spare segment, in a thread and step by step, while nothing is stored."""
        if self._closed:
            return
        segment_log = self._writer.log
        if segment_log.is_prewritten:
            self._loop.call_later(PREWRITE_LOOK_S, self._prewrite)
            return
        activity, self._activity = self._activity, self._last_activity()
        if self.group.depth or self._activity != activity:
            self._loop.call_later(PREWRITE_PAUSE_S, self._prewrite)
        else:
            self._loop.run_in_executor(self._executor, segment_log.prewrite).add_done_callback(self._prewritten)

    def _prewritten(self, future: asyncio.Future[None]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if isinstance(error, StorageFailed):
            self.group.fail(error)
        elif error is not None:
            logger.warning("prewriting has ended", reason=for_log(error))
        else:
            self._prewrite()

    def close(self) -> None:
        """Commits what has been submitted, and seals the log. Blocks."""
        self._closed = True
        self.group.close()
        if self._copies is not None:
            self._copies.close()
        self.stop()
        self._writer.close()

    def stop(self) -> None:
        """Ends only the threads."""
        self._executor.shutdown(wait=True)
