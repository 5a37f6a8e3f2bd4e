"""Statistics of the last days: two files of fixed length in DATA/stats, one record a minute and one an hour.

    head       8 KiB: magic, then JSON: the columns and the number of records
    record     at (number of the minute or hour) % records: crc32 u32, number u32, one float64 a column; little endian

A minute is overwritten after a day, an hour after 90 days, so the files never grow. An hour is made from its minutes
when it is over: the sum of counts, the last of levels, the highest of peaks. A record with a wrong checksum or of
another time counts as missing: nothing is synced, and a power cut costs a minute. Records of the future, which a wrong
clock has made, are left out until their time comes or their place is overwritten. One process writes (the one that
samples); any may read.

A file with other columns, of another version, is converted at the next write: values keep their names, and a column
that it lacks is 0. A file with another magic or length is begun anew.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from engine.storage.files import Files, raise_write_error, replace_file

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
LATENCIES: Final = tuple(
    f"{kind}_p{percent}_s" for kind in ("store", "query", "web", "sync") for percent in (50, 95, 99)
)
"""Percentiles of the minute; of an hour, the highest of its minutes. query: C-FIND and QIDO-RS; web: other DICOMweb."""
PEAKS: Final = ("associations", "connections", "queue_depth", *LATENCIES)
LEVELS: Final = ("free_bytes", "archive_studies", "archive_instances", "archive_bytes")
COLUMNS: Final = (*COUNTS, *PEAKS, *LEVELS)

Row = tuple[float, ...]

_HEAD_BYTES: Final = 8192
_MAGIC: Final = b"FRSTATS1"
_COLUMNS_MAX: Final = 200
_NAMES: Final = {MINUTE_S: "minutes", HOUR_S: "hours"}


class StatsHistory:
    """The history of statistics: both files."""

    def __init__(self, layout: Layout, files: Files, now: Callable[[], float] = time.time) -> None:
        self._directory = f"{layout.data}/stats"
        self._files = files
        self._now = now

    def add(self, time_s: float, values: Mapping[str, float]) -> None:
        """Writes the minute of a moment, and the hour that it belongs to. Raises StorageFull, StorageFailed."""
        minute = int(time_s) // MINUTE_S
        self._write(MINUTE_S, minute, tuple(float(values.get(name, 0.0)) for name in COLUMNS))
        hour = minute // 60
        rows = [row for number, row in sorted(self._read(MINUTE_S)) if number // 60 == hour]
        self._write(HOUR_S, hour, _rolled_up(rows))

    def rows(self, step_s: int, since_s: float = 0.0) -> list[tuple[int, Row]]:
        """Time in seconds since 1970 and values, the oldest first, unfinished hours included."""
        now_s = self._now()
        oldest = max(since_s, now_s - (KEPT[step_s] + 1) * step_s)
        rows = [(number * step_s, row) for number, row in self._read(step_s)]
        return sorted((time_s, row) for time_s, row in rows if oldest <= time_s <= now_s)

    def _read(self, step_s: int) -> list[tuple[int, Row]]:
        """The records by number, with the columns of this version."""
        try:
            with open(self._path(step_s), "rb") as file:
                columns = _columns(file.read(_HEAD_BYTES), step_s)
                record = _record(len(columns))
                content = file.read(KEPT[step_s] * record.size)
        except OSError:
            return []
        places = [columns.index(name) if name in columns else -1 for name in COLUMNS]
        rows = []
        for at in range(0, len(content) - record.size + 1 if columns else 0, record.size):
            crc, number, *values = record.unpack_from(content, at)
            if crc == zlib.crc32(content[at + 4 : at + record.size]) and number:
                rows.append((number, tuple(values[place] if place >= 0 else 0.0 for place in places)))
        return rows

    def _write(self, step_s: int, number: int, row: Row) -> None:
        self._files.make_directory(self._directory)
        path = self._path(step_s)
        try:
            fd = self._files.open(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise_write_error(error, f"open {path}")
        try:
            if self._files.pread(fd, _HEAD_BYTES, 0) == _head(step_s):
                self._files.pwritev(fd, [_packed(number, row)], _place(number, step_s))
                return
        finally:
            self._files.close(fd)
        self._replace(step_s, [*self._read(step_s), (number, row)])

    def _replace(self, step_s: int, rows: list[tuple[int, Row]]) -> None:
        """Writes a file anew, in the form of this version."""
        content = bytearray(_HEAD_BYTES + KEPT[step_s] * _record(len(COLUMNS)).size)
        content[:_HEAD_BYTES] = _head(step_s)
        for number, row in rows:
            record, at = _packed(number, row), _place(number, step_s)
            content[at : at + len(record)] = record
        replace_file(self._files, self._path(step_s), bytes(content), is_durable=False)

    def _path(self, step_s: int) -> str:
        return f"{self._directory}/{_NAMES[step_s]}"


def _record(column_count: int) -> struct.Struct:
    return struct.Struct(f"<II{column_count}d")


def _place(number: int, step_s: int) -> int:
    return _HEAD_BYTES + number % KEPT[step_s] * _record(len(COLUMNS)).size


def _packed(number: int, row: Row) -> bytes:
    record = _record(len(COLUMNS)).pack(0, number, *row)
    return struct.pack("<I", zlib.crc32(record[4:])) + record[4:]


def _head(step_s: int) -> bytes:
    text = json.dumps({"columns": COLUMNS, "records": KEPT[step_s]}).encode()
    return (_MAGIC + text).ljust(_HEAD_BYTES, b"\0")


def _columns(head: bytes, step_s: int) -> list[str]:
    """The columns of a file with this head; none if it is not one of ours, or of another length."""
    if not head.startswith(_MAGIC):
        return []
    try:
        facts = json.loads(head[len(_MAGIC) :].rstrip(b"\0"))
        columns = facts["columns"]
        is_ours = facts["records"] == KEPT[step_s] and all(isinstance(name, str) for name in columns)
    except (ValueError, KeyError, TypeError):
        return []
    return list(columns) if is_ours and len(columns) <= _COLUMNS_MAX else []


def _rolled_up(rows: list[Row]) -> Row:
    """The record of an hour from those of its minutes."""
    columns = list(zip(*rows, strict=True))
    row: list[float] = []
    for number, _ in enumerate(COLUMNS):
        values = columns[number]
        add: Callable[[tuple[float, ...]], float] = sum if number < len(COUNTS) else max
        row.append(values[-1] if number >= len(COUNTS) + len(PEAKS) else add(values))
    return tuple(row)
