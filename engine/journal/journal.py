"""Writes the journal: one process at a time, which holds DATA/hospital/journal.lock.

    append ──► (page cache) ──► synced, with all that were appended meanwhile ──► acknowledged ──► applied ──► outcome

A message that is in no acknowledged group may be lost with the power, and its sender sends it again. Outcomes are not
waited for: one that is lost is made again, since applying a message twice changes nothing the second time. So the
cursor of whoever applies is the number of the last outcome, and needs no file of its own.

A start knows the cursor and all identifiers within the window of duplicates from the tables of rows (`row_table`). It
reads what the log has behind them, and makes anew those that are missing or are not believed.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from engine import log
from engine.errors import ArchiveInUse, CorruptRecord, for_log
from engine.journal.entry import Fault, Outcome, Received, decode_outcome, decode_received, encode
from engine.journal.history import MESSAGE, NO_LIMIT, OUTCOME, History
from engine.journal.row_keeper import RowKeeper
from engine.journal.row_table import HAS_CONTROL_ID, HAS_FAULT, IS_APPLIED, IS_REFUSED, IS_THERE, MessageRow
from engine.storage.background_sync import BackgroundSync
from engine.storage.files import Files
from engine.storage.keyring import DataKey
from engine.storage.record import Kind, Position, Record, crc32c
from engine.storage.recovery import is_owned, recover_segment
from engine.storage.segment import segment_path
from engine.storage.segment_log import SegmentLog

logger = log.get("journal")

SEGMENT_BYTES = 64 << 20
"""Some ten thousand messages: retention removes whole segments."""
PREWRITE_BYTES = 16 << 20
"""Syncs of blocks that were written before need no journal commit of the file system."""
WRITE_BACK_BYTES = 64 << 10
"""The disk begins at once with a message of so many bytes. Short ones share pages, and each would cost a request of its
own before the sync that follows."""
KEPT_SEGMENTS = 2
"""Retention always leaves so many, so that no number of a message is used twice."""
WINDOW_S = 7 * 86400.0
"""How long a message that comes again is recognised."""
REFUSALS_MAX = 1000
IDENTIFIERS_MAX = 1_000_000
"""The most identifiers that are remembered: 100 MB. A site with a million messages a day has a window of a day."""


class Waiting(NamedTuple):
    """A message that has not been applied."""

    number: int
    position: Position


class Known(NamedTuple):
    """A message that has come before."""

    number: int
    received: Received
    is_same: bool
    """Whether it had the same bytes."""


class Journal:
    """The writer's end. Use it on one thread, but for `read` and `log.sync`."""

    def __init__(
        self,
        directory: str,
        files: Files,
        archive_id: bytes,
        *,
        data_key: Callable[[], DataKey] | None = None,
        clock: Callable[[], float] = time.time,
        window_s: float = WINDOW_S,
        identifiers_max: int = IDENTIFIERS_MAX,
        segment_bytes: int = SEGMENT_BYTES,
        prewrite_bytes: int = PREWRITE_BYTES,
        reserve_bytes: int = 0,
    ) -> None:
        """Recovers what a dead writer left. Raises ArchiveInUse while another process writes, StorageError."""
        self._directory = directory
        self._files = files
        self._clock = clock
        self._window_s = window_s
        self._identifiers_max = identifiers_max
        self._make_folder()
        self._lock_fd = self._lock()
        self.history = History(directory, files)
        self._rows = RowKeeper(directory, files, self.history.salt_of)
        self._places: dict[int, tuple[int, int]] = {}
        """Identifier → segment and offset of the last message that has it."""
        self._ages: deque[tuple[float, int]] = deque()
        self.waiting: deque[Waiting] = deque()
        """What is not applied, in order."""
        self.refusals: dict[int, Fault] = {}
        """Why messages were not applied, of the latest REFUSALS_MAX: their senders get the same answer again."""
        self.cursor = 0
        """The number of the last message with an outcome."""
        self.last_number = 0
        self._recover()
        self._read()
        self.log = SegmentLog(
            directory,
            files,
            archive_id,
            writer=f"journal-{os.getpid()}",
            segment_bytes=segment_bytes,
            prewrite_bytes=prewrite_bytes,
            reserve_bytes=reserve_bytes,
            data_key=data_key,
        )

    # -- opening --------------------------------------------------------------------------------

    def _make_folder(self) -> None:
        parent = os.path.dirname(self._directory)
        for path in (parent, self._directory):
            if not self._files.exists(path):
                self._files.make_directory(path)
                self._files.sync_directory(os.path.dirname(path))

    def _lock(self) -> int:
        fd = self._files.open(f"{self._directory}.lock", os.O_RDWR | os.O_CREAT)
        if not self._files.lock(fd):
            self._files.close(fd)
            raise ArchiveInUse("another process writes the journal of messages")
        return fd

    def _recover(self) -> None:
        for segment_id in self.history.segments():
            if is_owned(self._files, self._directory, segment_id):
                raise ArchiveInUse("another process writes the journal of messages")
            if self.history.sealed_end(segment_id):
                continue
            try:
                recovery = recover_segment(self._files, self._directory, segment_id, 0)
            except CorruptRecord as error:
                logger.error("a segment of the journal cannot be recovered", reason=for_log(error))
                continue
            finally:
                self.history.drop(segment_id)  # it may be gone, and the next one may get its number
            for damage in recovery.damage:
                logger.error("the journal is damaged", damage=str(damage))

    def _read(self) -> None:
        """Finds the cursor, what waits, and the identifiers of the window."""
        segments = self.history.segments()
        missing = self._rows.load(segments)
        try:
            self._read_log(segments, missing)
            self._read_window(segments)
        except CorruptRecord as error:
            logger.error("the tables of messages are made anew", reason=for_log(error))
            self.history.forget_tables()
            self._rows.forget()
            self.cursor = self.last_number = 0
            self._read_log(segments, segments)
            self._read_window(segments)

    def _read_log(self, segments: Sequence[int], missing: Sequence[int]) -> None:
        """Enters into the tables what they lack: all of the segments without one, and the end of the last segment."""
        if segments and not missing:
            self.last_number = self.history.last_number_of(segments[-1])
            records = self.history.records_after_rows(segments[-1])
            for record in records:
                self._enter(record)
        elif missing != segments:
            self.last_number = self.history.last_number_of(segments[-len(missing) - 1])
        for segment_id in missing:
            records = self.history.records(segment_id)
            messages = [record.stamp for record in records if record.flags == MESSAGE]
            others = [record.stamp + 1 for record in records if record.flags == OUTCOME]
            self._rows.begin(segment_id, messages[0] if messages else max([self.last_number + 1, *others]))
            self.last_number = max([self.last_number, *messages, *(number - 1 for number in others)])
            for record in records:
                self._enter(record)

    def _enter(self, record: Record) -> None:
        number, position = record.stamp, record.position
        self.last_number = max(self.last_number, number)
        if record.flags == MESSAGE:
            received = _received_of(record)
            if received is not None:
                self._add_row(number, received, received.key, position)
            return
        try:
            outcome = decode_outcome(record.meta)
        except msgspec.MsgspecError:
            return
        self._enter_outcome(outcome, position)

    def _add_row(self, number: int, received: Received, key: int, position: Position) -> None:
        flags = IS_THERE | (IS_REFUSED if received.fault is not None else 0)
        flags |= HAS_CONTROL_ID if received.control_id else 0
        self._rows.add(position.segment_id, number, position.offset, received.time, key, flags)

    def _enter_outcome(self, outcome: Outcome, position: Position) -> None:
        if not outcome.is_replay:
            self.cursor = max(self.cursor, outcome.number)
        flags = IS_THERE | (IS_APPLIED if outcome.number <= self.cursor else 0)
        if outcome.fault is not None and not outcome.is_replay:
            flags |= HAS_FAULT
        self._rows.add_outcome(outcome.number, position.segment_id, position.offset, flags)

    def _read_window(self, segments: Sequence[int]) -> None:
        """Reads the tables backwards until all is known. Raises CorruptRecord if one is damaged, or denies the log."""
        oldest = self._clock() - self._window_s
        ages: list[tuple[float, int]] = []
        places: dict[int, tuple[int, int]] = {}
        waiting: list[Waiting] = []
        refusals: list[MessageRow] = []
        is_window_known = False
        cursor = 0
        for segment_id in reversed(segments):
            if cursor and is_window_known:
                break
            for row in self.history.table_of(segment_id).rows_below(NO_LIMIT):
                if row.time < oldest or len(ages) >= self._identifiers_max:
                    is_window_known = True
                elif row.flags & (IS_REFUSED | HAS_CONTROL_ID) == HAS_CONTROL_ID:
                    ages.append((row.time, row.key))
                    places.setdefault(row.key, (segment_id, row.offset))
                if row.outcome_flags & IS_APPLIED:
                    cursor = cursor or row.number
                elif not cursor and not row.flags & IS_REFUSED:
                    waiting.append(Waiting(row.number, self.history.position_of(segment_id, row)))
                if row.outcome_flags & HAS_FAULT and len(refusals) < REFUSALS_MAX:
                    refusals.append(row)
        self._places, self._ages, self.waiting = places, deque(reversed(ages)), deque(reversed(waiting))
        self.cursor = max(self.cursor, cursor)
        for row in reversed(refusals):
            outcome = self.history.outcome_of(row)
            if outcome is not None:
                self._note_refusal(outcome)

    def _note_refusal(self, outcome: Outcome) -> None:
        if outcome.fault is not None and outcome.number not in self.refusals:
            self.refusals[outcome.number] = outcome.fault
            if len(self.refusals) > REFUSALS_MAX:
                del self.refusals[min(self.refusals)]

    # -- writing --------------------------------------------------------------------------------

    def append(self, received: Received, message: bytes) -> int:
        """Appends a message and returns its number; durable after a sync. Raises StorageFull, StorageFailed."""
        number = self.last_number + 1
        position = self.log.append(
            Kind.EVENT,
            MESSAGE,
            number,
            b"",
            encode(received),
            [message],
            len(message),
            crc32c(message),
            write_back=len(message) >= WRITE_BACK_BYTES,
        )
        self.last_number = number
        key = received.key
        self._rows.begin(position.segment_id, number)
        self._add_row(number, received, key, position)
        if received.fault is None:
            self._remember(received, key, position)
            self.waiting.append(Waiting(number, position))
        return number

    def append_outcome(self, outcome: Outcome) -> None:
        """Notes what a message did; it becomes durable with the next sync. Raises StorageFull, StorageFailed."""
        position = self.log.append(Kind.EVENT, OUTCOME, outcome.number, b"", encode(outcome), [], 0, 0)
        self._rows.begin(position.segment_id, self.last_number + 1)
        self._enter_outcome(outcome, position)
        if not outcome.is_replay:
            self._note_refusal(outcome)

    def known(self, received: Received, message: bytes) -> Known | None:
        """The message with the same identifier, if one came within the window; None for one without control id."""
        if not received.control_id:
            return None
        place = self._places.get(received.key)
        if place is None:
            return None
        record = self._record_at(*place)
        earlier = _received_of(record) if record is not None else None
        if record is None or earlier is None or earlier.key != received.key:
            return None
        return Known(record.stamp, earlier, self._has(record.position, message))

    def _has(self, position: Position, message: bytes) -> bool:
        """Whether these bytes are stored there. Damaged ones are not: the message is then kept once more."""
        try:
            return position.payload_crc == crc32c(message) and self.read(position) == message
        except CorruptRecord as error:
            logger.error("a message of the journal is damaged", reason=for_log(error))
            return False

    def _record_at(self, segment_id: int, offset: int) -> Record | None:
        try:
            return self.history.record_at(segment_id, offset)
        except CorruptRecord as error:
            logger.error("an entry of the journal cannot be read", reason=for_log(error))
            return None

    def _remember(self, received: Received, key: int, position: Position) -> None:
        if not received.control_id:
            return
        self._places[key] = (position.segment_id, position.offset)
        self._ages.append((received.time, key))
        oldest = received.time - self._window_s
        while self._ages and (self._ages[0][0] < oldest or len(self._ages) > self._identifiers_max):
            _, old = self._ages.popleft()
            if old != key:
                self._places.pop(old, None)

    def read(self, position: Position) -> bytes:
        """The bytes of a message. Raises CorruptRecord."""
        return self.history.read(position)

    def background_sync(self) -> BackgroundSync:
        """Syncs for an event loop."""
        return BackgroundSync(self.log)

    # -- upkeep ---------------------------------------------------------------------------------

    def seal_rolled(self) -> None:
        """Seals full segments, and makes the next one ready. Takes a moment: not for an event loop."""
        self.log.seal_rolled()
        self.log.prepare()

    def remove_before(self, time_s: float) -> int:
        """Removes segments whose messages are all older and applied; returns their number."""
        segments = self.history.segments()
        first_waiting = self.waiting[0].position.segment_id if self.waiting else segments[-1] if segments else 0
        removed = 0
        for segment_id in segments[:-KEPT_SEGMENTS]:
            path = segment_path(self._directory, segment_id)
            try:
                is_old = os.stat(path).st_mtime < time_s
            except FileNotFoundError:
                continue
            if segment_id >= first_waiting or not is_old or is_owned(self._files, self._directory, segment_id):
                break
            self._files.unlink(path)
            self._rows.remove(segment_id)
            removed += 1
        if removed:
            self._files.sync_directory(self._directory)
        return removed

    def close(self) -> None:
        """Seals the segment and gives the journal free. Raises StorageFailed."""
        try:
            self.log.close()
        finally:
            self._rows.close()
            self.history.close()
            self._files.close(self._lock_fd)


def _received_of(record: Record) -> Received | None:
    try:
        return decode_received(record.meta)
    except msgspec.MsgspecError:
        return None
