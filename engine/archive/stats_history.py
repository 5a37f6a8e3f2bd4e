"""Statistics of the last days: two files of fixed length in DATA/stats, one record a minute and one an hour.

    head       8 KiB: magic, then JSON: the columns and the number of records; a file with another head is begun anew
    record     at (number of the minute or hour) % records: crc32 u32, number u32, one float64 a column; little endian

A minute is overwritten after a day, an hour after 90 days, so the files never grow. An hour is made from its minutes
when it is over: the sum of counts, the last of levels, the highest of peaks. A record with a wrong checksum or of
another time counts as missing: nothing is synced, and a power cut costs a minute. One process writes (the one that
runs jobs); any may read.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from engine.storage.files import Files, raise_write_error

if TYPE_CHECKING:
    from engine.archive.layout import Layout

MINUTE_S: Final = 60
HOUR_S: Final = 3600
KEPT: Final = {MINUTE_S: 24 * 60, HOUR_S: 90 * 24}
"""Step → records: a day of minutes, 90 days of hours."""

COUNTS: Final = (
    "instances", "instance_bytes", "operations", "failures", "received_bytes", "sent_bytes",
)  # fmt: skip
"""Counted within that time."""
PEAKS: Final = ("associations", "connections", "queue_depth", "store_p99_s", "sync_p99_s")
LEVELS: Final = ("free_bytes", "archive_studies", "archive_instances", "archive_bytes")
COLUMNS: Final = (*COUNTS, *PEAKS, *LEVELS)

Row = tuple[float, ...]

_HEAD_BYTES: Final = 8192
_MAGIC: Final = b"FRSTATS1"
_RECORD: Final = struct.Struct(f"<II{len(COLUMNS)}d")
_NAMES: Final = {MINUTE_S: "minutes", HOUR_S: "hours"}


class StatsHistory:
    """The history of statistics: both files."""

    def __init__(self, layout: Layout, files: Files) -> None:
        self._directory = f"{layout.data}/stats"
        self._files = files

    def add(self, time_s: float, values: Mapping[str, float]) -> None:
        """Writes the minute of a moment, and after the last minute of an hour also that hour. Raises StorageFull,
        StorageFailed."""
        minute = int(time_s) // MINUTE_S
        self._write(MINUTE_S, minute, tuple(float(values.get(name, 0.0)) for name in COLUMNS))
        hour = minute // 60
        rows = [row for number, row in sorted(self._read(MINUTE_S)) if number // 60 == hour]
        self._write(HOUR_S, hour, _rolled_up(rows))

    def rows(self, step_s: int, since_s: float = 0.0) -> list[tuple[int, Row]]:
        """Time in seconds since 1970 and values, the oldest first, unfinished hours included."""
        rows = [(number * step_s, row) for number, row in self._read(step_s)]
        newest = max((time_s for time_s, _ in rows), default=0)
        oldest = max(since_s, newest - KEPT[step_s] * step_s + 1)
        return sorted((time_s, row) for time_s, row in rows if time_s >= oldest)

    def _read(self, step_s: int) -> list[tuple[int, Row]]:
        try:
            with open(self._path(step_s), "rb") as file:
                content = file.read(_HEAD_BYTES + KEPT[step_s] * _RECORD.size)
        except OSError:
            return []
        if content[:_HEAD_BYTES] != _head(step_s):
            return []
        rows = []
        for at in range(_HEAD_BYTES, len(content) - _RECORD.size + 1, _RECORD.size):
            crc, number, *values = _RECORD.unpack_from(content, at)
            if crc == zlib.crc32(content[at + 4 : at + _RECORD.size]) and number:
                rows.append((number, tuple(values)))
        return rows

    def _write(self, step_s: int, number: int, row: Row) -> None:
        record = _RECORD.pack(0, number, *row)
        record = struct.pack("<I", zlib.crc32(record[4:])) + record[4:]
        self._files.make_directory(self._directory)
        path = self._path(step_s)
        try:
            fd = self._files.open(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise_write_error(error, f"open {path}")
        try:
            head = _head(step_s)
            if self._files.pread(fd, _HEAD_BYTES, 0) != head:
                os.ftruncate(fd, 0)
                self._files.pwritev(fd, [head], 0)
            self._files.pwritev(fd, [record], _HEAD_BYTES + number % KEPT[step_s] * _RECORD.size)
        finally:
            self._files.close(fd)

    def _path(self, step_s: int) -> str:
        return f"{self._directory}/{_NAMES[step_s]}"


def _head(step_s: int) -> bytes:
    text = json.dumps({"columns": COLUMNS, "records": KEPT[step_s]}).encode()
    return (_MAGIC + text).ljust(_HEAD_BYTES, b"\0")


def _rolled_up(rows: list[Row]) -> Row:
    """The record of an hour from those of its minutes."""
    columns = list(zip(*rows, strict=True))
    row: list[float] = []
    for number, _ in enumerate(COLUMNS):
        values = columns[number]
        add: Callable[[tuple[float, ...]], float] = sum if number < len(COUNTS) else max
        row.append(values[-1] if number >= len(COUNTS) + len(PEAKS) else add(values))
    return tuple(row)
