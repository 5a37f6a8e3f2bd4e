"""The newest events of the server's log, in two files of bounded length, for people who search them on the page.

    DATA/log/events.jsonl       lines of JSON as `log` makes them, of all processes of the server; O_APPEND
    DATA/log/events.1.jsonl     the lines before them

An event is one write, so lines of several processes do not mix. The process whose line makes the newer file longer
than half of the bound renames it; the others see another inode and open the new file. Nothing is synced, and an error
loses the line here only: the log itself goes to standard error.

A cursor is the inode and the offset of a line's end. It is valid while that file exists.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

NEWER: Final = "events.jsonl"
OLDER: Final = "events.1.jsonl"
LEVELS: Final = ("debug", "info", "warning", "error")
RETRY_S: Final = 10.0
"""After an error, and on a full disk, nothing is written for so long."""
FREE_BYTES_MIN: Final = 1 << 20
"""Nothing is written below this free space: the last pages of a full disk are for the index, which a start needs."""
WAITING_MAX: Final = 200
"""Lines that wait until the archive's folder is there."""
BLOCK_BYTES: Final = 256 << 10
LINE_BYTES_MAX: Final = 1 << 20

_CURSOR: Final = re.compile(r"(\d{1,20})-(\d{1,20})")


class KeptLog:
    """The files, for a process that writes events. One thread writes at a time; lines of others may come between."""

    def __init__(self, data: Path, bytes_max: int) -> None:
        self._data = data
        self._folder = data / "log"
        self._half_bytes = bytes_max // 2
        self._fd = -1
        self._inode = 0
        self._retry_at = 0.0
        self._waiting: list[str] = []

    def append(self, line: str) -> None:
        """Writes one line, without its end; never raises OSError."""
        if self._fd < 0 and not self._has_folder():
            self._waiting.append(line)
            del self._waiting[:-WAITING_MAX]
            return
        if time.monotonic() < self._retry_at:
            return
        lines, self._waiting = [*self._waiting, line], []
        try:
            for each in lines:
                self._write(each)
        except OSError:
            self._retry_at = time.monotonic() + RETRY_S

    def _has_folder(self) -> bool:
        """Whether this is the folder of an archive; a new one must be empty when it is founded."""
        return os.path.exists(self._data / "archive.json")

    def _write(self, line: str) -> None:
        path = self._folder / NEWER
        if self._fd < 0 or _inode(path) != self._inode:
            self._open(path)
        status = os.fstatvfs(self._fd)
        if status.f_bavail * status.f_frsize < FREE_BYTES_MIN:
            self._retry_at = time.monotonic() + RETRY_S
            return
        os.write(self._fd, line.encode("utf-8", "backslashreplace") + b"\n")
        if os.lseek(self._fd, 0, os.SEEK_CUR) > self._half_bytes:
            self._turn(path)

    def _open(self, path: Path) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._folder.mkdir(mode=0o750, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._inode = os.fstat(self._fd).st_ino

    def _turn(self, path: Path) -> None:
        """Begins a new file, unless another process has just done it."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if _inode(path) == self._inode:
                os.replace(path, self._folder / OLDER)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)


class _LogSettings(Protocol):
    @property
    def kept_bytes(self) -> int: ...


class _Settings(Protocol):
    @property
    def data(self) -> Path: ...
    @property
    def log(self) -> _LogSettings: ...


def keeper(config: _Settings) -> KeptLog | None:
    """What a process of this configuration keeps its events with; None: they are not kept."""
    return KeptLog(config.data, config.log.kept_bytes) if config.log.kept_bytes else None


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions that an event must meet, all of them."""

    level: str = "debug"
    """The least severe level."""
    text: str = ""
    """Occurs somewhere in its line, in any case."""
    event: str = ""
    """Occurs in the text of the event, in any case."""
    peer: str = ""
    """Its address, AE title or user is this."""
    since: str = ""
    """Not before this time: ISO 8601 in UTC, or its beginning."""
    until: str = ""
    """Before this time."""

    def parse(self, line: bytes) -> dict[str, Any] | None:
        """The event of a line; None if it does not meet the conditions or is no event."""
        lowered = line.lower()
        if any(text and text.lower().encode() not in lowered for text in (self.text, self.event, self.peer)):
            return None
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(event, dict) or not all(isinstance(event.get(name), str) for name in ("time", "event")):
            return None
        level = event.get("level")
        if level not in LEVELS or LEVELS.index(level) < LEVELS.index(self.level):
            return None
        if (self.since and event["time"] < self.since) or (self.until and event["time"] >= self.until):
            return None
        if self.event.lower() not in event["event"].lower():
            return None
        if self.peer and self.peer not in (event.get(name) for name in _PEER_FIELDS):
            return None
        return event


_PEER_FIELDS: Final = ("peer", "host", "calling", "calling_ae_title", "called", "destination", "aet", "by")
"""Fields with who is at the other end."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, the newest first."""

    events: list[dict[str, Any]]
    older: str | None
    """The cursor for the events before these; None: there are none."""
    newest: str
    """The cursor for events that come later."""


def read(data: Path, condition: Filter, limit: int, *, before: str = "", after: str = "") -> Page:
    """At most `limit` events: the newest ones, those `before` a cursor, or those `after` one.

    A cursor whose file is gone is `before` everything that is kept, and `after` nothing of it. Raises ValueError for an
    invalid one.
    """
    first, last = _place(before), _place(after)
    events: list[dict[str, Any]] = []
    newest, older = "", None
    is_reached = before == ""
    for name in (NEWER, OLDER):
        try:
            fd = os.open(data / "log" / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            stat = os.fstat(fd)
            end = stat.st_size
            newest = newest or f"{stat.st_ino}-{end}"
            if not is_reached:
                if stat.st_ino != first[0]:
                    continue
                is_reached, end = True, min(end, first[1])
            start = min(last[1], end) if stat.st_ino == last[0] else 0
            for offset, line in _backwards(fd, start, end):
                event = condition.parse(line)
                if event is None:
                    continue
                if len(events) == limit:
                    return Page(events, older, newest)
                events.append(event)
                older = f"{stat.st_ino}-{offset}"
            if stat.st_ino == last[0]:
                break
        finally:
            os.close(fd)
    return Page(events, None, newest)


def _place(cursor: str) -> tuple[int, int]:
    if not cursor:
        return -1, 0
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise ValueError("is not a cursor")
    return int(match[1]), int(match[2])


def _backwards(fd: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file between two offsets with the offset of each, the last one first."""
    tail, is_newest = b"", True
    while end > start:
        length = min(BLOCK_BYTES, end - start)
        end -= length
        head, *lines = (os.pread(fd, length, end) + tail).split(b"\n")
        if is_newest and lines:
            lines.pop()  # behind the last line end: nothing, or a line that is being written
            is_newest = False
        places, offset = [], end + len(head) + 1
        for line in lines:
            places.append((offset, line))
            offset += len(line) + 1
        yield from reversed(places)
        tail = head if len(head) <= LINE_BYTES_MAX else b""  # no line of ours is longer: `log` cuts values
    if tail and not is_newest:
        yield start, tail
