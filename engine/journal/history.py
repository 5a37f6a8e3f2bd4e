"""Reads the journal, from any process and while another one writes: what came and what it did, the newest first.

    DATA/hospital/journal/*.seg      segments of `engine.storage`, in the order of their numbers, written by one process
    DATA/hospital/journal/*.rows     where each message of a segment lies, and what it did (`row_table`): derived

    record            flags   stamp                   meta        payload
    a message         0       its number, from 1 on   Received    its bytes
    what it did       1       the message's number    Outcome     none

Numbers never repeat. An outcome follows its message, in the same segment or a later one; the last one counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine import log
from engine.errors import CorruptRecord, JournalError, SegmentGone, for_log
from engine.journal.entry import Outcome, Received, decode_outcome, decode_received
from engine.journal.row_table import MessageRow, RowTable
from engine.storage.files import Files
from engine.storage.reader import LogReader
from engine.storage.record import Kind, Position, Record
from engine.storage.recovery import read_segment
from engine.storage.segment import Walk, list_segments, read_segment_header, segment_path
from engine.storage.segment_bytes import FileBytes
from engine.storage.segment_store import LocalSegments

logger = log.get("journal.history")

MESSAGE = 0
OUTCOME = 1
FOLDER = "hospital/journal"
TABLES_MAX = 16
"""Tables that a reader keeps open."""
NO_LIMIT = 1 << 63
"""Higher than any number."""


class Row(NamedTuple):
    """One message of the journal."""

    number: int
    received: Received
    outcome: Outcome | None
    """None: it waits, or was refused at once."""
    position: Position


def folder(data: Path) -> str:
    """The journal's folder in a data directory."""
    return str(data / FOLDER)


class History:
    """The journal for readers."""

    def __init__(self, directory: str, files: Files) -> None:
        self._directory = directory
        self._files = files
        self._reader = LogReader(LocalSegments(directory, files))
        self._tables: dict[int, RowTable] = {}

    def rows(self, before: int = 0) -> Iterator[Row]:
        """All messages, the newest first; only those with a number below `before`, unless it is 0.

        Where a segment has no table to believe, segments after the next one are not read: what a replay did much later
        is missing. Raises StorageError, KeyMissing.
        """
        segments = self._segments_below(before) if before else self.segments()
        limit = before or NO_LIMIT
        outcomes: dict[int, Outcome] | None = {}
        for at in range(len(segments) - 1, -1, -1):
            table = self._table(segments[at])
            if table is not None:
                try:
                    for row in self._tabled(table, limit):
                        limit = row.number
                        yield row
                    outcomes = None
                    continue
                except CorruptRecord as error:
                    logger.error("a table of messages is not believed", reason=for_log(error))
            if outcomes is None:
                outcomes = self._outcomes_of(segments[at + 1 : at + 2])
            yield from self._walked(segments[at], limit, outcomes)

    def _tabled(self, table: RowTable, limit: int) -> Iterator[Row]:
        """The messages of a segment by its table. Raises CorruptRecord if the table and the log disagree."""
        for row in table.rows_below(limit):
            record = self._record(table.segment_id, row.offset, MESSAGE, row.number)
            received = _received(record)
            if received is not None:
                yield Row(row.number, received, self.outcome_of(row), record.position)

    def _record(self, segment_id: int, offset: int, flags: int, number: int) -> Record:
        record = self._reader.record_at(segment_id, offset)
        if (record.kind, record.flags, record.stamp) != (Kind.EVENT, flags, number):
            raise CorruptRecord(f"another record lies where the table has message {number}", segment_id, offset)
        return record

    def outcome_of(self, row: MessageRow) -> Outcome | None:
        """What the message of a row did. Raises CorruptRecord if the table and the log disagree."""
        if not row.outcome_flags:
            return None
        return _outcome(self._record(row.outcome_segment, row.outcome_offset, OUTCOME, row.number))

    def position_of(self, segment_id: int, row: MessageRow) -> Position:
        """Where the message of a row lies. Raises CorruptRecord if the table and the log disagree."""
        return self._record(segment_id, row.offset, MESSAGE, row.number).position

    def _walked(self, segment_id: int, limit: int, outcomes: dict[int, Outcome]) -> Iterator[Row]:
        """The messages of a segment without a table; `outcomes` of later segments gets those of this one."""
        for record in reversed(self.records(segment_id)):
            if record.flags == OUTCOME:
                if (outcome := _outcome(record)) is not None:
                    outcomes.setdefault(outcome.number, outcome)
            elif record.stamp >= limit:
                outcomes.pop(record.stamp, None)
            elif (received := _received(record)) is not None:
                yield Row(record.stamp, received, outcomes.pop(record.stamp, None), record.position)

    def _outcomes_of(self, segments: Sequence[int]) -> dict[int, Outcome]:
        found: dict[int, Outcome] = {}
        for segment_id in segments:
            for record in reversed(self.records(segment_id)):
                if record.flags == OUTCOME and (outcome := _outcome(record)) is not None:
                    found.setdefault(outcome.number, outcome)
        return found

    def _table(self, segment_id: int) -> RowTable | None:
        """The table of a segment, if there is one to believe."""
        known = self._tables.get(segment_id)
        if known is not None and not known.is_current:
            self._tables.pop(segment_id).close()  # its writer has removed it, or made another one
        if segment_id not in self._tables:
            try:
                table = RowTable(self._directory, self._files, segment_id, self.salt_of(segment_id))
            except (CorruptRecord, OSError):
                return None  # the writer logs why, and makes it again
            self._tables[segment_id] = table
            while len(self._tables) > TABLES_MAX:
                self._tables.pop(next(iter(self._tables))).close()
        return self._tables[segment_id]

    def table_of(self, segment_id: int) -> RowTable:
        """The table of a segment. Raises CorruptRecord if there is none to believe."""
        table = self._table(segment_id)
        if table is None:
            raise CorruptRecord("its table of messages cannot be read", segment_id, 0)
        return table

    def forget_tables(self) -> None:
        """Opens them again when they are asked for."""
        while self._tables:
            self._tables.popitem()[1].close()

    def last_number_of(self, segment_id: int) -> int:
        """The highest number up to the end of a segment, by its table. Raises CorruptRecord."""
        table = self.table_of(segment_id)
        return table.first - 1 + len(table)

    def records_after_rows(self, segment_id: int) -> list[Record]:
        """The records of a segment behind those that its table has. Raises CorruptRecord."""
        last = 0
        for row in self.table_of(segment_id).rows_below(NO_LIMIT):
            last = max(last, row.offset, row.outcome_offset if row.outcome_segment == segment_id else 0)
        if last and self._reader.record_at(segment_id, last).position.end == self.sealed_end(segment_id):
            return []
        return self.records(segment_id, last)

    def sealed_end(self, segment_id: int) -> int:
        """The end of the records of a sealed segment; 0 if it is not sealed."""
        try:
            trailer = self._reader.trailer(segment_id)
        except CorruptRecord:
            return 0
        return trailer.tail if trailer is not None else 0

    def drop(self, segment_id: int) -> None:
        """Closes the file of a segment, which another one may have replaced."""
        self._reader.drop(segment_id)

    def salt_of(self, segment_id: int) -> int:
        """The salt of a segment. Raises CorruptRecord."""
        return self._reader.header(segment_id).salt

    def _segments_below(self, before: int) -> list[int]:
        """The segments with messages below a number, and the one after them, which may have what they did."""
        segments = self.segments()
        low, high = 0, len(segments)  # the first segment whose messages all have that number or a higher one
        while low < high:
            middle = (low + high) // 2
            first = self._first_number(segments[middle])
            if first and first >= before:
                high = middle
            else:
                low = middle + 1
        return segments[: low + 1]

    def _first_number(self, segment_id: int) -> int:
        """The number of the first message of a segment; 0 if it has none that can be read."""
        table = self._table(segment_id)
        if table is not None:
            return table.first
        try:
            fd = self._files.open(segment_path(self._directory, segment_id), os.O_RDONLY)
        except FileNotFoundError:
            return 0
        try:
            data = FileBytes(self._files, fd)
            for record in Walk(data, read_segment_header(data, segment_id)):
                if isinstance(record, Record) and record.kind == Kind.EVENT and record.flags == MESSAGE:
                    return record.stamp
            return 0
        except CorruptRecord:
            return 0  # `records` logs it
        finally:
            self._files.close(fd)

    def segments(self) -> list[int]:
        """The segments, the oldest first."""
        return list_segments(self._directory, self._files) if self._files.exists(self._directory) else []

    def records(self, segment_id: int, start_offset: int = 0) -> list[Record]:
        """The whole records of a segment from a place on. Damage is logged."""
        try:
            recovery = read_segment(self._files, self._directory, segment_id, start_offset)
        except CorruptRecord as error:
            logger.error("a segment of the journal cannot be read", reason=for_log(error))
            return []
        for damage in recovery.damage:
            logger.error("the journal is damaged", damage=str(damage))
        return [record for record in recovery.records if record.kind == Kind.EVENT]

    def rows_after(self, number: int, limit: int) -> list[Row]:
        """The messages after a number, in their order, of the next `limit` numbers, or of later ones where these have
        none. Raises StorageError, KeyMissing.
        """
        newest = next((row.number for row in self.rows()), 0)
        while number < newest:
            rows: list[Row] = []
            for row in self.rows(number + limit + 1):
                if row.number <= number:
                    break
                rows.append(row)
            if rows:
                return rows[::-1]
            number += limit
        return []

    def find(self, number: int) -> Row:
        """One message. Raises JournalError if it is not there."""
        segments = self._segments_below(number + 1)
        has_table = any(self._table(each) is not None for each in segments[-2:])
        for row in self.rows(number + 1 if has_table else 0):
            if row.number == number:
                return row
            if row.number < number:
                break
        raise JournalError(f"the journal has no message {number}")

    def record_at(self, segment_id: int, offset: int) -> Record | None:
        """The record that begins there; None if the segment has been removed. Raises CorruptRecord."""
        try:
            return self._reader.record_at(segment_id, offset)
        except SegmentGone:
            return None

    def read(self, position: Position) -> bytes:
        """The bytes of a message. Raises CorruptRecord."""
        return self._reader.read(position)

    def close(self) -> None:
        """Closes the files."""
        self.forget_tables()
        self._reader.close()


def _received(record: Record) -> Received | None:
    try:
        return decode_received(record.meta)
    except msgspec.MsgspecError as error:
        logger.error("an entry of the journal cannot be read", number=record.stamp, reason=for_log(error))
        return None


def _outcome(record: Record) -> Outcome | None:
    try:
        return decode_outcome(record.meta)
    except msgspec.MsgspecError as error:
        logger.error("an entry of the journal cannot be read", number=record.stamp, reason=for_log(error))
        return None
