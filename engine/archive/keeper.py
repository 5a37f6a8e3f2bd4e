"""The keeper: the one process that recovers the index, checkpoints it, and syncs what was written behind.

The keeper is the process that holds the flock on DATA/keeper.lock: a server's supervisor, or an import into a stopped
archive. Every other process is a guest, which only appends, applies and reads.

At start, under the lock:    restore (after a power loss) → open → replay the tails of unsealed segments → checkpoint
While it runs:               every `interval_s` with something new: checkpoint = sync the log, then the index
                             an index of another version is discarded before the replay, which makes a new one
After a guest has died:      `recover_dead_writers` replays and seals its segments; on a full disk, again each interval
Of a replica:                another machine writes the log; every `interval_s` the index follows it
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from engine import guards, log
from engine.archive.layout import REPLICA, Layout
from engine.archive.lifecycle import losses, reserve_file
from engine.archive.lifecycle.ledger_copy import LedgerCopy
from engine.archive.register import Register
from engine.dicom.schema import STANDARD, Schema
from engine.errors import (
    ArchiveInUse,
    EngineError,
    IndexDamaged,
    IndexOutdated,
    SegmentGone,
    StorageError,
    StorageFailed,
    StorageFull,
    for_log,
)
from engine.index.catalog import Catalog, RestoreResult
from engine.index.format.types import SegmentMark
from engine.index.upkeep import rebuild
from engine.storage.files import Files
from engine.storage.reader import LogReader
from engine.storage.recovery import NONE_SEALED
from engine.storage.segment import list_segments

logger = log.get("archive.keeper")

TRIES = 3
"""Unexpected failures in a row after which the process gives up. More than one, since a second without memory must not
end a server; few, since records written behind must not stay unsynced."""

_UNTOUCHED = frozenset((RestoreResult.CLEAN, RestoreResult.IN_USE))

Progress = Callable[[str, int, int], None]
"""(name of the step, done, total) while an archive is opened."""


class KeeperLock:
    """The keeper's lock: its holder is the keeper until `close` or the end of the process."""

    def __init__(self, layout: Layout, files: Files | None = None) -> None:
        """Takes the lock. Raises ArchiveInUse when another process has it, StorageError when it cannot be opened."""
        self._files = files = files or Files()
        try:
            self._fd = files.open(layout.keeper_lock, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise StorageError(f"{layout.keeper_lock} cannot be opened for writing: {error.strerror}") from error
        try:
            if not files.lock(self._fd):
                pid = files.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
                raise ArchiveInUse(f"the archive {layout.data} is kept by another process (pid {pid}); stop it first")
            self._note_pid()
        except BaseException:
            files.close(self._fd)
            raise

    def _note_pid(self) -> None:
        """Writes the process id into the lock file, for people to read. On a full disk it is left out."""
        try:
            self._files.truncate(self._fd, 0)
            self._files.pwritev(self._fd, [f"{os.getpid()}\n".encode()], 0)
        except StorageFull as error:
            logger.warning("the process id is not in keeper.lock", error=for_log(error))

    def close(self) -> None:
        """Releases the lock."""
        self._files.close(self._fd)

    def __enter__(self) -> KeeperLock:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def sync_log(index: Catalog, reader: LogReader) -> dict[int, SegmentMark]:
    """Syncs every unsealed segment, so that every record in the index is durable. Returns the marks it used."""
    marks = index.segment_marks()
    for segment_id, mark in marks.items():
        if not mark.sealed:
            try:
                reader.sync(segment_id)
            except SegmentGone:
                continue  # the replay has reported the missing segment
    return marks


class Keeper:
    """Keeps the archive, as the head of this module describes, from construction to `close`."""

    def __init__(
        self, layout: Layout, files: Files, progress: Progress | None = None, schema: Schema = STANDARD
    ) -> None:
        """Recovers and opens the archive. Raises ArchiveInUse when another process keeps it."""
        self._lock = KeeperLock(layout, files)
        self._layout = layout
        self._files = files
        self._schema = schema
        self._follows = layout.role == REPLICA
        self._reported: set[str] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._one_at_a_time = threading.Lock()
        self._must_recover = False
        """Whether a dead writer's segments wait for room on the disk."""
        self.failed: EngineError | None = None
        self._reader = LogReader(layout.segment_store(files))
        self.register = Register(layout, files)
        self._marks: dict[int, SegmentMark] = {}
        """The marks of the last checkpoint."""
        try:
            restored = Catalog.restore(layout.index, files)
            logger.info("opening the index", state=restored.name.lower())
            if restored is RestoreResult.DAMAGED:
                logger.error("the index is made anew from the log", reason=restored.value)
            self._open_and_bring_up(restored, progress)
        except BaseException:
            self._lock.close()
            raise

    def _open_index(self) -> Catalog:
        """Opens the index. Discards one that is damaged or of another version: the replay then makes a new one."""
        try:
            return Catalog.open(self._layout.index, files=self._files, schema=self._schema)
        except IndexOutdated as error:
            logger.warning("the index is made anew", reason=for_log(error))
        except IndexDamaged as error:
            logger.error("the index is made anew from the log", reason=for_log(error))
        Catalog.discard(self._layout.index, self._files)
        return Catalog.open(self._layout.index, files=self._files, schema=self._schema)

    def _open_and_bring_up(self, restored: RestoreResult, progress: Progress | None) -> None:
        self.index = self._open_index()
        try:
            self._bring_up(restored, progress)
        except IndexDamaged as error:
            logger.error("the index is made anew from the log", reason=for_log(error))
            Catalog.discard(self._layout.index, self._files)
            self.index = Catalog.open(self._layout.index, files=self._files, schema=self._schema)
            self._bring_up(RestoreResult.DISCARDED, progress)

    def _renew_epoch_id(self, restored: RestoreResult) -> None:
        """Begins a new epoch of ids, since a replay may give entities other ids than clients have seen."""
        if restored is RestoreResult.CHECKPOINT or not self.index.epoch_id():
            try:
                self.index.renew_epoch_id()
            except StorageFull as error:
                logger.warning("long queries cannot be continued, the disk is full", error=for_log(error))

    def _bring_up(self, restored: RestoreResult, progress: Progress | None) -> None:
        try:
            self._renew_epoch_id(restored)
            # Checkpoint before anything is written: a power cut from here on costs only another replay.
            make = partial(self.index.checkpointer, self._sync_log)
            self._checkpointer = reserve_file.with_reserve(self._layout, self._files, make)
            try:
                report = self._replay("replayed", progress)
                if not self._follows:
                    self._keep_losses(report, self._settle_ledger(restored, report))
                losses.tell(self._layout, self._files, self.index)
                self._checkpoint_or_warn()
            except BaseException:
                self._checkpointer.close(clean=False)
                raise
        except BaseException:
            self.index.close()
            raise

    def _sync_log(self) -> None:
        if self._layout.study_keys is not None:
            self._layout.study_keys.sync()
        self._marks = sync_log(self.index, self._reader)

    def _note_sealed(self, marks: Mapping[int, SegmentMark], *, is_complete: bool = False) -> None:
        """Notes sealed segments in the register. If that fails, the next checkpoint tries again."""
        if self._follows:
            return
        try:
            self.register.note(marks, is_complete=is_complete)
        except ArchiveInUse as error:
            logger.warning("sealed segments are not noted yet", reason=for_log(error))

    def _replay(self, event: str, progress: Progress | None = None) -> rebuild.Report:
        report = rebuild.replay(
            self.index,
            self._layout.segments,
            self._files,
            progress=progress,
            follow=self._follows,
            archive_id=self._layout.archive_id,
            elsewhere=self._layout.elsewhere,
            own_slot=self._layout.own_slot,
            sealed_segments=NONE_SEALED if self._follows else self.register.load(),
            attempt=partial(reserve_file.with_reserve, self._layout, self._files),
        )
        for finding in map(str, report.findings):
            # A replica's keeper meets the same damage at each look: log it once.
            if finding not in self._reported:
                logger.error("damage in the log", finding=finding)
            if self._follows:
                self._reported.add(finding)
        for old_id, new_id in report.renamed:
            logger.warning("a segment had a wrong name", old_id=f"{old_id:016x}", new_id=f"{new_id:016x}")
        if report.records or not self._follows:
            logger.info(event, **report.summary())
        if not self._follows:
            self._note_sealed(self.index.segment_marks(), is_complete=True)
        return report

    def _settle_ledger(self, restored: RestoreResult, report: rebuild.Report) -> set[int]:
        """Restores lost tombstones, holds and corrections from the ledger's copy.

        Returns the segments whose losses it has all restored.
        """
        copy = LedgerCopy(self._layout, self._files)
        is_certain = restored in _UNTOUCHED and not report.records and not report.lost
        if is_certain and not copy.must_settle():
            return set()
        return copy.settle(self.index, report.lost, self.register.record_counts())

    def _keep_losses(self, report: rebuild.Report, healed: Collection[int] = ()) -> None:
        """Records losses, which stay until somebody acknowledges them. On a full disk the next start records them."""
        damages = [damage for damage in report.lost if damage.segment_id not in healed]
        try:
            losses.note(self._layout, self._files, losses.of_damage(damages, time.time_ns()))
        except (StorageFull, ArchiveInUse) as error:
            logger.error("losses cannot be recorded", reason=for_log(error))

    def _checkpoint_or_warn(self) -> None:
        """Checkpoints; a full disk is only a warning, since everything can still be read."""
        try:
            self._checkpointer.checkpoint()
        except StorageFull as error:
            logger.warning("no checkpoint, the disk is full", error=for_log(error))

    def recover_dead_writers(self) -> None:
        """Replays and seals the segments of writers that have died.

        Without room on the disk it waits for room: all that these writers acknowledged is in the index already.
        """
        with self._one_at_a_time, self._final_failures():
            self.index.reader_check()
            try:
                self._keep_losses(self._replay("recovered"))
            except StorageFull as error:
                if not self._must_recover:
                    logger.warning(
                        "a dead process's segments are not sealed yet, the disk is full", error=for_log(error)
                    )
                self._must_recover = True
            else:
                self._must_recover = False

    @contextmanager
    def _final_failures(self) -> Iterator[None]:
        """Turns a failed write or sync into the end of this keeper: it syncs no more and does not close cleanly."""
        try:
            yield
        except StorageFailed as error:
            self.failed = error
            raise

    def start(self, interval_s: float, on_failure: Callable[[EngineError], None]) -> None:
        """Checkpoints in a thread every `interval_s`; `on_failure` is called from it, once, and ends it.

        Only a failure may end the thread: it alone syncs what was written behind.
        """

        def fail(error: EngineError) -> None:
            self.failed = error
            on_failure(error)

        def run() -> None:
            failures = 0
            while not self._stop.wait(interval_s):
                try:
                    if self._follows:
                        self.follow()
                    if self._must_recover:
                        self.recover_dead_writers()
                    self.checkpoint()
                    failures = 0
                except StorageFull as error:
                    logger.warning("no checkpoint, the disk is full", error=for_log(error))
                except EngineError as error:
                    fail(error)
                    return
                except Exception as error:
                    failures += 1
                    logger.error("no checkpoint", error=for_log(error), failures=failures)
                    if failures == TRIES:
                        fail(StorageFailed(f"no checkpoint {TRIES} times in a row: {error!r}"))
                        return

        def crashed(error: BaseException) -> None:
            fail(StorageFailed(f"the keeper's thread ended: {error!r}"))

        self._thread = guards.start("keeper", run, crashed)

    def follow(self) -> None:
        """Applies new records of a replica's log."""
        with self._one_at_a_time:
            try:
                self._replay("followed")
                segment_ids = list_segments(self._layout.segments, self._files)
            except OSError as error:
                raise StorageError(f"the replica's log cannot be read: {error.strerror}") from error
            for segment_id, mark in self.index.segment_marks().items():
                # The source has compacted it: its records lie elsewhere now.
                if segment_id not in segment_ids and not mark.live_count:
                    self.index.forget_segment(segment_id, [])
                    self._reader.drop(segment_id)

    def checkpoint(self) -> None:
        """Makes everything written so far durable, if anything is new."""
        with self._one_at_a_time, self._final_failures():
            self._reader.sweep()
            # Clear the readers of dead guests too: LMDB would keep the pages that they read forever.
            self.index.reader_check()
            if self._checkpointer.needs_checkpoint():
                self._checkpointer.checkpoint()
                self._note_sealed(self._marks)

    def close(self, *, clean: bool = True) -> None:
        """Makes a last checkpoint and releases the lock; without it (a damaged index) the next start recovers."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            is_clean = clean and self.failed is None
            self._checkpointer.close(clean=is_clean)
            if is_clean:
                self._note_sealed(self._marks)
        except IndexDamaged as error:
            logger.error("no last checkpoint", error=for_log(error))
        finally:
            self._reader.close()
            self.index.close()
            self._lock.close()
