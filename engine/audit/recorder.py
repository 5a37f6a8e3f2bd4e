"""The recorder of a process: takes events from any thread and writes them to a chain in a thread of its own.

    write(event)          never blocks and never raises; on the disk within SYNC_S
    await begin(event)    on the disk when it returns, or AuditUnavailable: call it before anything is disclosed
    begin_now(event)      the same for a thread that may block

One write and one sync serve all events that have gathered. While the disk refuses, events wait in memory (QUEUE_MAX,
of which the latest are lost and counted), `begin` refuses at once, and the thread tries again and again. After a
failed sync nobody knows what the disk has: the recorder takes another chain, and writes there again what was not
synced.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from engine import guards, log
from engine.audit.chain import ChainWriter, folder_of
from engine.audit.event import SYSTEM, Alert, Event, Kind, Outcome, fields_of
from engine.errors import AuditUnavailable, StorageError, StorageFull
from engine.storage.files import Files

logger = log.get("audit")

SYNC_S: Final = 0.5
"""How long an event that nobody waits for may be without a sync."""
RETRY_S: Final = 1.0
RETRY_S_MAX: Final = 60.0
"""The pause between two attempts doubles from the former to the latter."""
QUEUE_MAX: Final = 100_000
GROUP_MAX: Final = 512
PATIENCE_S: Final = 30.0
"""How long a disk may take to write the beginning of a disclosure."""
RESERVE: Final = "reserve"
RESERVE_SHARE: Final = 16
"""On a small disk the reserve takes at most this share of the free space."""
RESERVE_BYTES_MIN: Final = 64 << 10
MAKING_ROOM: Final = frozenset({Kind.DELETED.value})
"""What may use the reserve: it frees space."""

_Waiter = Future[None]


class Recorder:
    """The audit log of one process."""

    def __init__(self, data: Path, *, files: Files | None = None, reserve_bytes: int = 0) -> None:
        """Nothing is written before the first event, or while the archive's folder does not exist."""
        self._data = data
        self._files = files or Files()
        self._reserve_bytes = reserve_bytes
        self._chain: ChainWriter | None = None
        self._queue: deque[tuple[dict[str, Any], _Waiter | None]] = deque()
        self._unsynced: list[dict[str, Any]] = []
        self._urgent_count = 0
        """Events in the queue that somebody waits for."""
        self._wake = threading.Condition()
        self._is_closing = False
        self._failure = ""
        self._retry_s = RETRY_S
        self._lost = 0
        self._written = 0
        self._refused = 0
        self._is_reserve_released = False
        self._thread: threading.Thread | None = None

    # -- any thread -----------------------------------------------------------------------------------

    def write(self, event: Event) -> None:
        """Records an event soon. Never blocks, never raises."""
        guards.call("audit", self._enqueue, event, None)

    async def begin(self, event: Event) -> None:
        """Records an event durably before it returns. Raises AuditUnavailable."""
        waiter = self._wait_for(event)
        try:
            await asyncio.wait_for(asyncio.wrap_future(waiter), PATIENCE_S)
        except TimeoutError:
            raise AuditUnavailable("the audit log does not answer") from None

    def begin_now(self, *events: Event) -> None:
        """As `begin`, in a thread that may block; several events are synced together."""
        waiters = [self._wait_for(event) for event in events]
        try:
            for waiter in waiters:
                waiter.result(PATIENCE_S)
        except TimeoutError:
            raise AuditUnavailable("the audit log does not answer") from None

    def check(self) -> None:
        """Raises AuditUnavailable if the disk refuses at present: for what is recorded with `write`, as queries are."""
        if self._failure:
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

    def _wait_for(self, event: Event) -> _Waiter:
        waiter: _Waiter = Future()
        if event.kind.value not in MAKING_ROOM:
            self.check()
        self._enqueue(event, waiter)
        return waiter

    def _enqueue(self, event: Event, waiter: _Waiter | None) -> None:
        fields = fields_of(event)
        with self._wake:
            if self._is_closing:
                raise AuditUnavailable("the audit log is closed")
            if len(self._queue) >= QUEUE_MAX and waiter is None:
                self._lost += 1
                return
            self._queue.append((fields, waiter))
            self._urgent_count += waiter is not None
            if self._thread is None:
                self._thread = guards.start("audit", self._run)
            elif waiter is not None or len(self._queue) in (1, GROUP_MAX):
                self._wake.notify()

    # -- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._queue or self._unsynced or self._is_closing):
                    self._wake.wait()
                if not (self._is_closing or self._urgent_count or len(self._queue) >= GROUP_MAX):
                    self._wake.wait(self._retry_s if self._failure else SYNC_S)
                is_last = self._is_closing
                group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_MAX))]
                self._urgent_count -= sum(waiter is not None for _, waiter in group)
            if group or self._unsynced:
                self._record(group)
            if is_last and (not self._queue or self._failure):
                break
        if self._chain is not None:
            self._chain.close()

    def _record(self, group: list[tuple[dict[str, Any], _Waiter | None]]) -> None:
        """Writes and syncs a group, behind what an earlier failure has left."""
        group = [
            (fields, waiter) for fields, waiter in group if waiter is None or waiter.set_running_or_notify_cancel()
        ]
        waiters = [waiter for _, waiter in group if waiter is not None]
        is_making_room = any(fields["kind"] in MAKING_ROOM for fields, waiter in group if waiter is not None)
        records = self._unsynced + [fields for fields, _ in group]
        try:
            try:
                self._append(records)
            except StorageFull:
                if not is_making_room or not self._release_reserve():
                    raise
                self._append(records)
        except (StorageError, OSError) as error:
            # Who waits is refused, and does nothing that would have to be recorded.
            self._unsynced += [fields for fields, waiter in group if waiter is None]
            self._fail(waiters, str(error), is_chain_lost=not isinstance(error, StorageFull))
            return
        self._unsynced = []
        self._written += len(records)
        if self._failure:
            self._recovered()
        if self._is_reserve_released:
            self._make_reserve()
        for waiter in waiters:
            waiter.set_result(None)

    def _append(self, records: list[dict[str, Any]]) -> None:
        chain = self._chain
        if chain is None:
            chain = self._chain = ChainWriter(self._data, self._files)
            if chain.cut_bytes:
                records = [_cut(chain), *records]
            self._make_reserve()
        for start in range(0, len(records), GROUP_MAX):
            chain.append(records[start : start + GROUP_MAX])
        chain.sync()

    def _fail(self, waiters: list[_Waiter], why: str, *, is_chain_lost: bool) -> None:
        if not self._failure:
            logger.error("the audit log cannot be written: disclosures and deletions are refused", reason=why)
            self._unsynced.append(fields_of(_alert(Alert.RECORDING_STOPPED, why)))  # also what each new attempt writes
            self._retry_s = RETRY_S
        else:
            self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)
        self._failure = why
        self._lost += len(self._unsynced[QUEUE_MAX:])
        del self._unsynced[QUEUE_MAX:]
        self._refused += len(waiters)
        if is_chain_lost and self._chain is not None:
            self._chain.end()
            self._chain = None
        for waiter in waiters:
            waiter.set_exception(AuditUnavailable(f"the audit log cannot be written: {why}"))

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


def _alert(alert: Alert, detail: str) -> Event:
    return Event(kind=Kind.ALERT, alert=alert, outcome=Outcome.SERIOUS, detail=detail)


def _cut(chain: ChainWriter) -> dict[str, Any]:
    detail = f"{chain.cut_bytes} bytes of an unfinished record at the end of chain {chain.name} were cut off"
    return fields_of(Event(kind=Kind.OPERATION, principal=SYSTEM, action="audit", detail=detail))
