"""FeedWriter: the one thread of an archive that follows the log and writes the feed's journal.

    woken by a commit of any process (`wake`), at most every GATHER_S, every BUSY_GATHER_S while much is stored
      intake: records below the marks, by stamp → translation: events → journal: one block → quiet: due events
    every SAVE_S with new events, and at the end: sync the journal, then write `state`; remove old journal files

Writers of the log pay only for the wake: the feed reads their records from the page cache. After a failure (a full
disk) it goes back to the end of the journal and tries again. The log keeps all records that the feed has not read,
since a compaction waits for it.

    no state, of another archive or lineage, or damaged      begins anew, from now on; old cursors are refused
    state and journal                                        continues, in a new epoch (see `cursor`)
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from engine import guards, log
from engine.archive.copies.replica import read_status
from engine.archive.feed import event as actions
from engine.archive.feed import journal
from engine.archive.feed.cursor import Epochs, read_epochs, write_epochs
from engine.archive.feed.event import Event, decode_lines, encode, time_text
from engine.archive.feed.intake import Intake
from engine.archive.feed.journal import JournalWriter
from engine.archive.feed.layout import directory_of
from engine.archive.feed.quiet import QuietTimes, QuietTracker
from engine.archive.feed.state import State, read_state, write_state
from engine.archive.feed.study_watch import Announced, StudyWatch
from engine.archive.feed.translation import Translator
from engine.archive.feed.wake import Wake
from engine.errors import ArchiveInUse, EngineError, FeedDamaged, StorageError, for_log
from engine.storage.files import Files, raise_write_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.archive.layout import Layout
    from engine.index.catalog import Catalog

logger = log.get("archive.feed")

GATHER_S = 0.08
"""The interval of passes over the log: records of this time become one block, and an event is written within it."""
BUSY_EVENTS = 16
"""After a pass with this many events the next one waits longer: each pass costs as much as fifteen events."""
BUSY_GATHER_S = 0.4
"""The longer interval, which leaves ingest its processor time; under load an event is written within it."""
SAVE_S = 10.0
"""Events of this time are read from the log and written again after a power cut."""
RETRY_S = 1.0
REPLICA_S = 2.0
"""The interval of checks on a replica's progress, while there are events that it may have."""
BLOCK_BYTES = 1 << 20
DAY_S = 86_400.0
_MOMENTS_MAX = 4096


@dataclass(frozen=True, slots=True)
class FeedOptions:
    """How long a feed keeps events, and when it makes events of quiet series and studies."""

    keep_days: float = 30.0
    quiet: QuietTimes = QuietTimes()  # noqa: RUF009 frozen
    announced: Announced | None = None
    """Tells of a quiet study whether all that other systems announced is here; None: nobody announces."""


class FeedWriter:
    """Writes the feed of an archive, from construction to `close`; `start` gives it a thread."""

    def __init__(self, layout: Layout, files: Files, index: Catalog, options: FeedOptions) -> None:
        """Continues the feed, or begins one. If that fails, the thread tries again later.

        Raises ArchiveInUse when another process writes this feed, StorageError when there is no folder for it.
        """
        self._layout = layout
        self._files = files
        self._sealing = layout.sealing
        self._index = index
        self._options = options
        self._directory = directory_of(layout)
        files.make_directory(self._directory)
        self._lock_fd = self._locked()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._wake: Wake | None = None
        self.error = ""
        """Why no events are written at the moment; "" while all is well."""
        self._saved_at = 0.0
        self._saved_sequence = -1
        self._replicas: dict[str, int] = {}
        self._moments: deque[tuple[float, int]] = deque(maxlen=_MOMENTS_MAX)
        """Times and the sequences written by then, a second apart, to compute the progress of replicas."""
        self._looked_at_replicas = 0.0
        self._replicas_listed_at = -SAVE_S
        self._replica_names: list[str] = []
        self._last_change = 0
        """The sequence of the last event that is not about a replica."""
        self._journal = JournalWriter(self._directory, files, 0, self._sealing)
        self._take(State(), QuietTracker(options.quiet))
        try:
            self._begin()
        except (EngineError, OSError) as error:
            self._failed(error)

    def _locked(self) -> int:
        path = f"{self._directory}/lock"
        try:
            fd = self._files.open(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise_write_error(error, f"open {path}")
        if not self._files.lock(fd):
            self._files.close(fd)
            raise ArchiveInUse("another process writes the feed of this archive")
        return fd

    # -- beginning ------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Goes to the end of the journal, in a new epoch."""
        epochs = read_epochs(self._directory, self._files)
        state = read_state(self._directory, self._files)
        epoch = int.from_bytes(os.urandom(4), "little")
        is_ours = epochs is not None and (epochs.archive_id, epochs.lineage) == (
            self._layout.archive_id,
            self._layout.lineage,
        )
        self._journal = JournalWriter(self._directory, self._files, epoch, self._sealing)
        if epochs is not None and state is not None and is_ours:
            try:
                self._go_on(state)
                write_epochs(self._directory, self._files, epochs.begin(epoch, self._journal.last + 1))
                return
            except FeedDamaged as error:
                logger.error("the feed begins anew", reason=for_log(error))
        elif epochs is not None:
            logger.warning(
                "the feed begins anew", reason="it is of another archive" if state else "its state is missing"
            )
        self._begin_anew(epoch)

    def _go_on(self, state: State) -> None:
        tracker = QuietTracker(self._options.quiet, state.growths)
        for block in self._journal.recover(state.sequence):
            for segment_id, (salt, offset) in block.unpacked_marks().items():
                if not state.progress.is_done(segment_id):
                    state.progress.move(segment_id, salt, offset)
            events = decode_lines(block.lines)
            tracker.observe_all(events)
            for event in events:
                if event.action == actions.REPLICATED:
                    state.replicas[event.replica] = event.through
        self._take(state, tracker)
        self._intake.forget_replaced()

    def _begin_anew(self, epoch: int) -> None:
        self._files.unlink(f"{self._directory}/state")
        for first in journal.list_files(self._directory, self._files):
            self._files.unlink(journal.path_of(self._directory, first))
        self._journal = JournalWriter(self._directory, self._files, epoch, self._sealing)
        self._take(State(), QuietTracker(self._options.quiet))
        self._intake.begin_now()
        archive_id, lineage = self._layout.archive_id, self._layout.lineage
        write_epochs(self._directory, self._files, Epochs(archive_id, lineage, ((epoch, 1),)))
        self.save()

    def _take(self, state: State, tracker: QuietTracker) -> None:
        state.progress.changed.clear()
        self._tracker = tracker
        self._studies = StudyWatch(self._index, tracker, self._options.announced)
        self._replicas = state.replicas
        self._intake = Intake(
            self._index, self._layout.segment_store(self._files), state.progress, self._layout.writes
        )
        self._translator = Translator(self._index, state.progress)
        self._last_change = self._journal.last
        self._moments.clear()
        self._note_moment()

    # -- following the log ----------------------------------------------------------------------

    def start(self) -> None:
        """Follows the log in a thread until `close`."""
        self._wake = Wake(f"{self._layout.index}/data.mdb", once=True)
        self._thread = guards.start("feed", self._run)

    def _run(self) -> None:
        assert self._wake is not None
        while not self._stopping.is_set():
            commit, before = self._index.last_commit(), self._journal.last
            if not self._tried():
                self._stopping.wait(RETRY_S)
                continue
            looked_at = time.monotonic()
            self._wake.wait(partial(self._is_news, commit), self._pause_s())
            is_busy = self._journal.last - before >= BUSY_EVENTS and time.monotonic() - looked_at < GATHER_S
            self._stopping.wait(BUSY_GATHER_S if is_busy else GATHER_S)

    def _is_news(self, commit: int) -> bool:
        return self._index.last_commit() != commit or self._stopping.is_set()

    def _tried(self) -> bool:
        try:
            if self.error:
                self._journal.close()
                self._begin()
            self.follow()
            if self._is_unsaved and time.monotonic() - self._saved_at >= SAVE_S:
                self.save()
            self.error = ""
            return True
        except (EngineError, OSError) as error:
            self._failed(error)
            return False

    def _failed(self, error: Exception) -> None:
        if not self.error:
            logger.error("no events are written to the feed", reason=for_log(error))
        self.error = str(error) or repr(error)

    @property
    def _is_unsaved(self) -> bool:
        return self._journal.last != self._saved_sequence or self._intake.progress.is_dirty

    def _pause_s(self) -> float | None:
        """The longest wait for a commit."""
        pauses = []
        due_s = self._tracker.next_due_s()
        if due_s is not None:
            pauses.append(due_s - time.time())
        if self._is_unsaved:
            pauses.append(self._saved_at + SAVE_S - time.monotonic())
        if self._is_replica_behind():
            pauses.append(REPLICA_S)
        return max(0.0, min(pauses)) if pauses else None

    def follow(self) -> None:
        """Writes events for new visible records, and for quiet series and studies. Raises EngineError."""
        for records in self._intake.read():
            self._append(self._translator.events(records))
        now_s = time.time()
        for events in self._studies.due(now_s):
            self._append(events)
        self._look_at_replicas(now_s)

    def _append(self, events: Sequence[Event]) -> None:
        """Adds events to the journal; the last block has the progress in the log."""
        progress = self._intake.progress
        events = self._studies.with_reopenings(events)
        self._tracker.observe_all(events)
        lines: list[bytes] = []
        length = 0
        for number, event in enumerate(events, self._journal.last + 1):
            event.sequence = number
            lines.append(encode(event))
            length += len(lines[-1])
            if length >= BLOCK_BYTES and event is not events[-1]:
                self._journal.append(lines, {})
                lines, length = [], 0
        if lines:
            self._journal.append(lines, progress.changed)
            progress.changed.clear()
            if events[-1].action != actions.REPLICATED:
                self._last_change = self._journal.last
                self._note_moment()

    # -- replicas -------------------------------------------------------------------------------

    def _replica_files(self) -> list[str]:
        """The status files of replications, cached for some seconds."""
        now_s = time.monotonic()
        if now_s - self._replicas_listed_at >= SAVE_S:
            self._replicas_listed_at = now_s
            names = self._files.list_directory(str(self._layout.data))
            self._replica_names = [name for name in names if name.startswith("replication-") and name.endswith(".json")]
        return self._replica_names

    def _is_replica_behind(self) -> bool:
        return len(self._replicas) < len(self._replica_files()) or any(
            through < self._last_change for through in self._replicas.values()
        )

    def _look_at_replicas(self, now_s: float) -> None:
        """Writes events for replicas that have everything that was written before a certain time."""
        if now_s - self._looked_at_replicas < REPLICA_S or not self._is_replica_behind():
            return
        self._looked_at_replicas = now_s
        events = []
        for name in self._replica_files():
            replica, caught_up_s = _caught_up(read_status(f"{self._layout.data}/{name}") or {})
            through = max((sequence for at_s, sequence in self._moments if at_s <= caught_up_s), default=0)
            if through > self._replicas.get(replica, 0):
                self._replicas[replica] = through
                event = Event(sequence=0, action=actions.REPLICATED, time=time_text(int(now_s * 1e9)))
                event.replica, event.through = replica, through
                events.append(event)
        self._append(events)

    def _note_moment(self) -> None:
        """Records the time and the last sequence, a second apart, the latest always."""
        now_s = time.time()
        if len(self._moments) > 1 and now_s - self._moments[-2][0] < 1.0:
            self._moments.pop()
        self._moments.append((now_s, self._last_change))

    # -- keeping --------------------------------------------------------------------------------

    def save(self) -> None:
        """Makes written events durable, and removes expired ones. Raises StorageFull, StorageFailed."""
        self._journal.sync()
        write_state(
            self._directory,
            self._files,
            State(self._journal.last, self._intake.progress, self._tracker.describe(), self._replicas),
        )
        self._intake.progress.is_dirty = False
        self._saved_sequence = self._journal.last
        self._saved_at = time.monotonic()
        self._journal.trim(time.time() - self._options.keep_days * DAY_S)

    def stats(self) -> dict[str, object]:
        """Statistics, for people and for monitoring."""
        return {
            "sequence": self._journal.last,
            "growing": len(self._tracker),
            "unreadable": self._intake.unreadable + self._translator.unreadable,
            "error": self.error,
        }

    def close(self) -> None:
        """Writes the remaining events, and ends."""
        self._stopping.set()
        if self._wake is not None:
            self._wake.stop()
        if self._thread is not None:
            self._thread.join()
        try:
            if self._tried():
                self.save()
        except StorageError as error:
            logger.warning("the feed's state cannot be saved", reason=for_log(error))
        finally:
            self._journal.close()
            if self._wake is not None:
                self._wake.close()
            self._files.close(self._lock_fd)


def switch_off(layout: Layout, files: Files) -> None:
    """Removes the feed's state, so that compaction no longer waits for it. Switched on again, the feed begins anew."""
    files.unlink(f"{directory_of(layout)}/state")


def _caught_up(status: dict[str, object]) -> tuple[str, float]:
    """A replica, and the Unix time before which it has everything; 0 if unknown."""
    try:
        return str(status["destination"]), datetime.fromisoformat(str(status["caught_up"])).timestamp()
    except (KeyError, ValueError):
        return "", 0.0
