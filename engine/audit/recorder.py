"""The recorder of a process: takes events from any thread and writes them to a chain.

    write(event)              never blocks and never raises; on the disk within SYNC_S
    await begin(event)        on the disk when it returns, or AuditUnavailable: call it before anything is disclosed
    begin_now(event)          the same for a thread that may block
    start(event), flush()     the same in steps. A thread that has read what will be disclosed hands it over, and writes
    await durable(started)    the event while others get it ready to be sent; nothing leaves before `durable` returns
    prepare()                 takes a chain now, while there is room for it

One write and one sync serve all events that have gathered. One thread writes at a time: one that may block and waits
for an event of its own, since to wake another one costs more than the write; or else the recorder's own thread.

While the disk refuses, events wait in memory (QUEUE_MAX, of which the latest are lost and counted), `begin` refuses at
once, and the thread tries again: after pauses that grow, and soon after somebody was refused. After a failed sync
nobody knows what the disk has: the recorder takes another chain, and writes there again what was not synced.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeAlias

from engine import guards, log
from engine.audit.chain import ChainWriter, folder_of
from engine.audit.event import SYSTEM, Alert, Event, Kind, Outcome, fields_of
from engine.errors import AuditUnavailable, StorageError, StorageFull, for_log
from engine.storage.files import Files

logger = log.get("audit")

SYNC_S: Final = 0.5
"""How long an event that nobody waits for may be without a sync."""
RETRY_S: Final = 1.0
RETRY_S_MAX: Final = 60.0
"""The pause between two attempts doubles from the former to the latter."""
DEMAND_S: Final = 1.0
"""Whoever is refused has the disk tried again, but not more often than this."""
QUEUE_MAX: Final = 100_000
GROUP_MAX: Final = 512
FLUSH_GROUPS_MAX: Final = 4
"""Groups that a thread writes before it leaves the events of others to the recorder's thread."""
PATIENCE_S: Final = 30.0
"""How long a disk may take to write the beginning of a disclosure."""
RESERVE: Final = "reserve"
RESERVE_SHARE: Final = 16
"""On a small disk the reserve takes at most this share of the free space."""
RESERVE_BYTES_MIN: Final = 64 << 10
MAKING_ROOM: Final = frozenset({Kind.DELETED.value})
"""What may use the reserve: it frees space."""

Started: TypeAlias = "Future[None]"
"""Events on their way to the disk. Wait with `durable`."""

_Item: TypeAlias = "tuple[list[dict[str, Any]], Started | None]"
"""Events that are written together, and who waits for them."""


class Recorder:
    """The audit log of one process."""

    def __init__(self, data: Path, *, files: Files | None = None, reserve_bytes: int = 0) -> None:
        """Nothing is written before the first event, or while the archive's folder does not exist."""
        self._data = data
        self._files = files or Files()
        self._reserve_bytes = reserve_bytes
        self._chain: ChainWriter | None = None
        self._queue: deque[_Item] = deque()
        self._unsynced: list[dict[str, Any]] = []
        self._waiting_count = 0
        """Items in the queue that somebody waits for."""
        self._is_asleep = False
        """Whether the thread waits without a time limit."""
        self._wake = threading.Condition()
        self._writing = threading.Lock()
        """Held by the thread that writes."""
        self._is_closing = False
        self._failure = ""
        self._retry_s = RETRY_S
        self._failed_s = 0.0
        """When the disk refused last, by time.monotonic()."""
        self._lost = 0
        self._written = 0
        self._refused = 0
        self._is_reserve_released = False
        self._thread: threading.Thread | None = None

    # -- any thread -----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Takes a chain, with descriptors and room on the disk that a server may lack later. Never raises."""
        with self._writing:
            try:
                self._append([])
            except (StorageError, OSError) as error:
                logger.warning("the audit log is not ready yet", reason=for_log(error))

    def write(self, event: Event) -> None:
        """Records an event soon. Never blocks, never raises."""
        guards.call("audit", self._enqueue, [event], None)

    async def begin(self, *events: Event) -> None:
        """Records events durably before it returns. Raises AuditUnavailable."""
        started = self.start(*events)
        self._hurry()
        await self.durable(started)

    def begin_now(self, *events: Event) -> None:
        """As `begin`, in a thread that may block."""
        started = self.start(*events)
        self.flush()
        try:
            started.result(PATIENCE_S)
        except TimeoutError:
            raise _silent(started) from None

    def start(self, *events: Event) -> Started:
        """Begins to record events: call `flush` next, or they wait for SYNC_S. Raises AuditUnavailable while the disk
        refuses."""
        started: Started = Future()
        if not all(event.kind.value in MAKING_ROOM for event in events):
            self.check()
        self._enqueue(events, started)
        return started

    def flush(self) -> None:
        """Writes what somebody waits for, unless another thread is at it. Never raises; may block as the disk does."""
        for _ in range(FLUSH_GROUPS_MAX):
            if not self._waiting_count or not self._writing.acquire(blocking=False):
                return  # whoever writes looks again when it has let go
            try:
                self._record(self._take())
            finally:
                self._writing.release()
        self._hurry()

    async def durable(self, started: Started) -> None:
        """Waits until these events are on the disk. Any number of tasks may. Raises AuditUnavailable."""
        if not started.done():
            loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            started.add_done_callback(lambda _: guards.on_loop(loop, _wake, waiter))
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await waiter
            except TimeoutError:
                raise _silent(started) from None
        if started.cancelled():
            raise _silent(started)  # another one has waited for too long
        started.result()

    def check(self) -> None:
        """Raises AuditUnavailable if the disk refuses at present: for what is recorded with `write`, as queries are."""
        if self._failure:
            if time.monotonic() - self._failed_s >= DEMAND_S:
                self._hurry()
            self._refused += 1
            raise AuditUnavailable(f"the audit log cannot be written: {self._failure}")

    def snapshot(self) -> dict[str, object]:
        """Its counts and its state, as plain data."""
        return {
            "written": self._written,
            "waiting": len(self._queue) + len(self._unsynced),
            "lost": self._lost,
            "refused": self._refused,
            "failure": self._failure,
        }

    def close(self) -> None:
        """Writes what waits, if the disk takes it, and ends the thread."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
            thread = self._thread
        if thread is not None:
            thread.join(PATIENCE_S)

    def _enqueue(self, events: Sequence[Event], started: Started | None) -> None:
        records = [fields_of(event) for event in events]
        with self._wake:
            if self._is_closing:
                raise AuditUnavailable("the audit log is closed")
            if len(self._queue) >= QUEUE_MAX and started is None:
                self._lost += len(records)
                return
            self._queue.append((records, started))
            self._waiting_count += started is not None
            if self._thread is None:
                self._thread = guards.start("audit", self._run)
            elif self._is_asleep or len(self._queue) == GROUP_MAX:
                self._wake.notify()

    def _hurry(self) -> None:
        """Has the thread write at once."""
        with self._wake:
            self._wake.notify()

    # -- the thread, and others that write ------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._queue or self._unsynced or self._is_closing):
                    self._is_asleep = True
                    self._wake.wait()
                self._is_asleep = False
                if not (self._is_closing or self._waiting_count or len(self._queue) >= GROUP_MAX):
                    self._wake.wait(self._retry_s if self._failure else SYNC_S)
                is_last = self._is_closing
            with self._writing:
                group = self._take()
                if group or self._unsynced:
                    self._record(group)
            if is_last and (not self._queue or self._failure):
                break
        if self._chain is not None:
            self._chain.close()

    def _take(self) -> list[_Item]:
        """The next items of the queue."""
        with self._wake:
            group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_MAX))]
            self._waiting_count -= sum(started is not None for _, started in group)
        return group

    def _record(self, group: list[_Item]) -> None:
        """Writes and syncs a group, behind what an earlier failure has left."""
        group = [item for item in group if item[1] is None or item[1].set_running_or_notify_cancel()]
        waiting = [started for _, started in group if started is not None]
        records, is_making_room = self._unsynced[:], False
        for fresh, started in group:
            records += fresh
            is_making_room |= started is not None and any(fields["kind"] in MAKING_ROOM for fields in fresh)
        try:
            try:
                self._append(records)
            except StorageFull:
                if not is_making_room or not self._release_reserve():
                    raise
                self._append(records)
        except (StorageError, OSError) as error:
            # Who waits is refused, and does nothing that would have to be recorded.
            for fresh, started in group:
                if started is None:
                    self._unsynced += fresh
            self._fail(waiting, str(error), is_chain_lost=not isinstance(error, StorageFull))
            return
        self._unsynced = []
        self._written += len(records)
        if self._failure:
            self._recovered()
        if self._is_reserve_released:
            self._make_reserve()
        for started in waiting:
            started.set_result(None)

    def _append(self, records: list[dict[str, Any]]) -> None:
        chain = self._chain
        if chain is None:
            chain = self._chain = ChainWriter(self._data, self._files)
            if chain.cut_bytes:
                records = [_cut(chain), *records]
            self._make_reserve()
        for start in range(0, len(records) or 1, GROUP_MAX):
            chain.append(records[start : start + GROUP_MAX])
        chain.sync()

    def _fail(self, waiting: list[Started], why: str, *, is_chain_lost: bool) -> None:
        if not self._failure:
            logger.error("the audit log cannot be written: disclosures and deletions are refused", reason=why)
            self._unsynced.append(fields_of(_alert(Alert.RECORDING_STOPPED, why)))  # also what each new attempt writes
            self._retry_s = RETRY_S
        else:
            self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)
        self._failure, self._failed_s = why, time.monotonic()
        self._lost += len(self._unsynced[QUEUE_MAX:])
        del self._unsynced[QUEUE_MAX:]
        self._refused += len(waiting)
        if is_chain_lost and self._chain is not None:
            self._chain.end()
            self._chain = None
        self._hurry()  # the thread tries again and again
        for started in waiting:
            started.set_exception(AuditUnavailable(f"the audit log cannot be written: {why}"))

    def _recovered(self) -> None:
        logger.warning("the audit log can be written again", lost=self._lost, refused=self._refused)
        detail = f"after: {self._failure}; {self._lost} events were lost, {self._refused} operations refused"
        self._failure, self._lost, self._refused = "", 0, 0
        self.write(_alert(Alert.RECORDING_STARTED, detail))

    # -- the reserve --------------------------------------------------------------------------------------

    def _make_reserve(self) -> None:
        path = str(folder_of(self._data) / RESERVE)
        if not self._reserve_bytes or self._files.exists(path):
            return
        try:
            length = min(self._reserve_bytes, self._files.free_bytes(str(self._data)) // RESERVE_SHARE)
            if length < RESERVE_BYTES_MIN:
                return
            fd = self._files.create(path)
        except (OSError, StorageError):
            return  # there is no room, or another process makes it
        try:
            self._files.allocate(fd, 0, length)
            self._is_reserve_released = False
        except StorageError:
            self._files.unlink(path)
        finally:
            self._files.close(fd)

    def _release_reserve(self) -> bool:
        path = str(folder_of(self._data) / RESERVE)
        if not self._files.exists(path):
            return False
        self._files.unlink(path)
        self._files.sync_directory(str(folder_of(self._data)))
        self._is_reserve_released = True
        return True


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _silent(started: Started) -> AuditUnavailable:
    """The disk does not answer: what is not being written yet is not recorded, since it is refused."""
    started.cancel()
    return AuditUnavailable("the audit log does not answer")


def _alert(alert: Alert, detail: str) -> Event:
    return Event(kind=Kind.ALERT, alert=alert, outcome=Outcome.SERIOUS, detail=detail)


def _cut(chain: ChainWriter) -> dict[str, Any]:
    detail = f"{chain.cut_bytes} bytes of an unfinished record at the end of chain {chain.name} were cut off"
    return fields_of(Event(kind=Kind.OPERATION, principal=SYSTEM, action="audit", detail=detail))
