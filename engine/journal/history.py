"""Reads the journal, from any process and while another one writes: what came and what it did, the newest first.

    DATA/hospital/journal/*.seg      segments of `engine.storage`, in the order of their numbers, written by one process

    record            flags   stamp                   meta        payload
    a message         0       its number, from 1 on   Received    its bytes
    what it did       1       the message's number    Outcome     none

Numbers never repeat. An outcome follows its message, in the same segment or a later one; the last one counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine import log
from engine.errors import CorruptRecord, JournalError
from engine.journal.entry import Outcome, Received, decode_outcome, decode_received
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

    def rows(self, before: int = 0) -> Iterator[Row]:
        """All messages, the newest first; only those with a number below `before`, unless it is 0.

        Then segments after the next one are not read: what a replay did much later is missing. Raises StorageError,
        KeyMissing.
        """
        outcomes: dict[int, Outcome] = {}
        for segment_id in reversed(self._segments_below(before) if before else self.segments()):
            for record in reversed(self.records(segment_id)):
                if record.flags == OUTCOME:
                    if (outcome := _outcome(record)) is not None:
                        outcomes.setdefault(outcome.number, outcome)
                elif before and record.stamp >= before:
                    outcomes.pop(record.stamp, None)
                elif (received := _received(record)) is not None:
                    yield Row(record.stamp, received, outcomes.pop(record.stamp, None), record.position)

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

    def records(self, segment_id: int) -> list[Record]:
        """The whole records of a segment. Damage is logged."""
        try:
            recovery = read_segment(self._files, self._directory, segment_id, 0)
        except CorruptRecord as error:
            logger.error("a segment of the journal cannot be read", reason=str(error))
            return []
        for damage in recovery.damage:
            logger.error("the journal is damaged", damage=str(damage))
        return [record for record in recovery.records if record.kind == Kind.EVENT]

    def find(self, number: int) -> Row:
        """One message. Raises JournalError if it is not there."""
        for row in self.rows():
            if row.number == number:
                return row
            if row.number < number:
                break
        raise JournalError(f"the journal has no message {number}")

    def record_at(self, segment_id: int, offset: int) -> Record | None:
        """The record that begins there. Raises CorruptRecord."""
        try:
            fd = self._files.open(segment_path(self._directory, segment_id), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            data = FileBytes(self._files, fd)
            walk = Walk(data, read_segment_header(data, segment_id), offset)
            record = next(iter(walk), None)
            return record if isinstance(record, Record) and record.position.offset == offset else None
        finally:
            self._files.close(fd)

    def read(self, position: Position) -> bytes:
        """The bytes of a message. Raises CorruptRecord."""
        return self._reader.read(position)

    def close(self) -> None:
        """Closes the files."""
        self._reader.close()


def _received(record: Record) -> Received | None:
    try:
        return decode_received(record.meta)
    except msgspec.MsgspecError as error:
        logger.error("an entry of the journal cannot be read", number=record.stamp, reason=str(error))
        return None


def _outcome(record: Record) -> Outcome | None:
    try:
        return decode_outcome(record.meta)
    except msgspec.MsgspecError as error:
        logger.error("an entry of the journal cannot be read", number=record.stamp, reason=str(error))
        return None
