"""The one process that keeps an archive: brings the index up, checkpoints it, syncs what is written behind.

The keeper is whoever holds the flock on DATA/keeper.lock: a server's supervisor, or an import into a stopped archive.
Everybody else is a guest and only appends, applies and reads.

At start, under the lock:    restore (after a power loss) → open → replay the tails of unsealed segments → checkpoint
While it runs:               every `interval_s` with something new: checkpoint = sync the log, then the index
A guest that died:           `recover_segments` replays and seals what it left
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable

from engine import log
from engine.archive.layout import Layout
from engine.errors import ArchiveInUse, EngineError, StorageError, StorageFull
from engine.index import checkpoint, rebuild
from engine.index.tables import Index
from engine.storage.files import Files
from engine.storage.log import LogReader

logger = log.get("archive.keeper")

Progress = Callable[[str, int, int], None]
"""(what, done, total) while an archive is brought up."""


class KeeperLock:
    """The lock itself: whoever holds it is the keeper, until `close` or its death."""

    def __init__(self, layout: Layout) -> None:
        """Takes the lock. Raises ArchiveInUse when another process has it, StorageError when it cannot be opened."""
        try:
            self._fd = os.open(layout.keeper_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StorageError(f"{layout.keeper_lock} cannot be opened for writing: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            message = f"the archive {layout.data} is kept by another process (pid {pid}); stop it first"
            raise ArchiveInUse(message) from None
        os.truncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Gives the lock up."""
        os.close(self._fd)

    def __enter__(self) -> KeeperLock:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def sync_log(index: Index, reader: LogReader) -> None:
    """Makes durable whatever the index points to: syncs every segment that is not sealed."""
    for segment_id, mark in index.segment_marks().items():
        if not mark.sealed:
            reader.sync(segment_id)


class Keeper:
    """Holds the lock, and with it the duties above, from construction to `close`."""

    def __init__(self, layout: Layout, files: Files, progress: Progress | None = None) -> None:
        """Brings the archive up. Raises ArchiveInUse when another process keeps it."""
        self._lock = KeeperLock(layout)
        self._layout = layout
        self._files = files
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._one_at_a_time = threading.Lock()
        self.failed: EngineError | None = None
        self._reader = LogReader(layout.segments, files)
        try:
            restored = checkpoint.restore(layout.index, files)
            logger.info("index opens", state=restored.name.lower())
            self.index = Index.open(layout.index, files=files)
            # Before anything is written: from here on a power cut costs no more than the replay again.
            self._checkpointer = checkpoint.Checkpointer(
                self.index, layout.index, files, lambda: sync_log(self.index, self._reader)
            )
            self._replay("replayed", progress)
            self._checkpoint_or_warn()
        except BaseException:
            self._lock.close()
            raise

    def _replay(self, event: str, progress: Progress | None = None) -> None:
        report = rebuild.replay(self.index, self._layout.segments, self._files, progress=progress)
        for finding in report.findings:
            logger.error("damage in the log", finding=str(finding))
        logger.info(event, **report.summary())

    def _checkpoint_or_warn(self) -> None:
        """A full disk must not keep anybody from reading; the next checkpoint may find room."""
        try:
            self._checkpointer.checkpoint()
        except StorageFull as error:
            logger.warning("no checkpoint, the disk is full", error=str(error))

    def recover_dead_writers(self) -> None:
        """Replays and seals the segments that no living process writes any more."""
        with self._one_at_a_time:
            self.index.reader_check()
            self._replay("recovered")

    def start(self, interval_s: float, on_failure: Callable[[EngineError], None]) -> None:
        """Checkpoints in a thread every `interval_s`; `on_failure` is called from it, once, and ends it."""

        def run() -> None:
            while not self._stop.wait(interval_s):
                try:
                    self.checkpoint()
                except StorageFull as error:
                    logger.warning("no checkpoint, the disk is full", error=str(error))
                except EngineError as error:
                    self.failed = error
                    on_failure(error)
                    return

        self._thread = threading.Thread(target=run, name="keeper", daemon=True)
        self._thread.start()

    def checkpoint(self) -> None:
        """Makes everything written so far durable, if anything is new."""
        with self._one_at_a_time:
            if self._checkpointer.needs_checkpoint():
                self._checkpointer.checkpoint()

    def close(self, *, clean: bool = True) -> None:
        """Last checkpoint, then gives the lock up."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self.failed is None:
            self._checkpointer.close(clean=clean)
        self._reader.close()
        self.index.close()
        self._lock.close()
