"""The one process that keeps an archive: brings the index up after a stop, checkpoints it, syncs what is written behind.

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
from engine.errors import ArchiveInUse, EngineError
from engine.index import checkpoint, rebuild
from engine.index.tables import Index
from engine.storage.files import Files
from engine.storage.log import LogReader

logger = log.get("archive.keeper")

Progress = Callable[[str, int, int], None]
"""(what, done, total) while an archive is brought up."""


def take_lock(layout: Layout) -> int | None:
    """The lock's descriptor, or None when another process is the keeper."""
    fd = os.open(layout.keeper_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    os.truncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def keeper_pid(layout: Layout) -> int | None:
    """Who keeps the archive, as far as the lock file says."""
    try:
        with open(layout.keeper_lock, encoding="ascii") as file:
            return int(file.read().strip() or 0) or None
    except (OSError, ValueError):
        return None


class Keeper:
    """Holds the lock, and with it the duties above, from construction to `close`."""

    def __init__(self, layout: Layout, files: Files, progress: Progress | None = None) -> None:
        """Brings the archive up. Raises ArchiveInUse when another process keeps it."""
        fd = take_lock(layout)
        if fd is None:
            raise ArchiveInUse(
                f"the archive {layout.data} is kept by another process (pid {keeper_pid(layout)}); stop it first"
            )
        self._lock_fd = fd
        self._layout = layout
        self._files = files
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._one_at_a_time = threading.Lock()
        self.failed: EngineError | None = None
        try:
            self.index = self._bring_up(progress)
            self._reader = LogReader(layout.segments, files)
            self._checkpointer = checkpoint.Checkpointer(self.index, layout.index, files, self._sync_log)
            self._checkpointer.checkpoint()
        except BaseException:
            os.close(fd)
            raise

    def _bring_up(self, progress: Progress | None) -> Index:
        restored = checkpoint.restore(self._layout.index, self._files)
        logger.info("index", state=str(restored))
        index = Index.open(self._layout.index)
        report = rebuild.replay(index, self._layout.segments, self._files, progress=progress)
        logger.info("replayed", **report.summary())
        for finding in report.findings:
            logger.error("corrupt record", finding=str(finding))
        return index

    def recover_writer(self, label: str) -> None:
        """Replays and seals the segments that a dead writer of that label left."""
        self.index.reader_check()
        report = rebuild.replay(self.index, self._layout.segments, self._files, writer=label)
        logger.info("recovered", writer=label, **report.summary())

    def start(self, interval_s: float, on_failure: Callable[[EngineError], None]) -> None:
        """Checkpoints in a thread every `interval_s`; `on_failure` is called from it, once, and ends it."""

        def run() -> None:
            while not self._stop.wait(interval_s):
                try:
                    self.checkpoint()
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

    def _sync_log(self) -> None:
        for segment_id, mark in self.index.segment_marks().items():
            if not mark.sealed:
                self._reader.sync(segment_id)

    def close(self, *, clean: bool = True) -> None:
        """Last checkpoint, then gives the lock up."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self.failed is None:
            self._checkpointer.close(clean=clean)
        self._reader.close()
        self.index.close()
        os.close(self._lock_fd)
