"""How far a replica is behind now, and whether a replication is running.

The status file of a replication that has ended no longer changes. So it also records the log of that time: the last
number of a segment in each slot and the ends of unsealed segments. Whatever the log has beyond that is new since then.

    lag now    what was missing then, and what has come since; not known (None) of a status that older versions wrote
    running    the process of the status is there, and is the same; at the replica: somebody has its lock
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from engine.archive.copies import extent, shipped_logs
from engine.archive.copies.replica import read_status
from engine.archive.layout import REPLICA, Layout
from engine.errors import CorruptRecord
from engine.storage.files import Files
from engine.storage.segment import FIRST_RECORD
from engine.storage.segment_bytes import FileBytes
from engine.storage.segment_ids import newest_of_slots, slot_of

_STATUS_FILE: Final = re.compile(r"replica(tion-[0-9a-f]{16})?\.json")


def seen(present: Iterable[int], ends: dict[int, int], *, has_hospital: bool) -> dict[str, object]:
    """The present state of the logs, for a status file; `ends` are those of the segments that can still grow."""
    return {
        "hospital": has_hospital,
        "last": max(filter(shipped_logs.is_image_log, present), default=-1),  # for older versions, which know one slot
        "newest": sorted(newest_of_slots(present).values()),
        "open": [[segment_id, end] for segment_id, end in ends.items()],
    }


def states(layout: Layout, paths: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """The replications of an archive with their present lag; of a replica, the last status from its source.

    `paths`: of the status files; None: all of the archive.
    """
    if paths is None:
        paths = [f"{layout.data}/{name}" for name in sorted(os.listdir(layout.data)) if _STATUS_FILE.fullmatch(name)]
    statuses = ((path, read_status(path)) for path in paths)
    return [_state(layout, status, path) for path, status in statuses if status is not None]


def _state(layout: Layout, status: dict[str, Any], path: str) -> dict[str, Any]:
    is_source = not path.endswith("replica.json")
    status["running"] = is_alive(status) if is_source else layout.role == REPLICA and is_written(layout)
    if is_source:
        status["lag_bytes"] = now_bytes(layout, status)
    if not status["running"]:
        is_behind = status["lag_bytes"] != 0 if is_source else status.get("state") != "caught up"
        status["state"] = "behind, not running" if is_behind else "caught up, not running"
    caught_up = status.get("caught_up")
    if isinstance(caught_up, str) and (status["lag_bytes"] != 0 or not is_source):
        status["lag_s"] = round(max(0.0, time.time() - datetime.fromisoformat(caught_up).timestamp()), 1)
    elif isinstance(caught_up, str):
        status["lag_s"] = 0.0
    return {key: value for key, value in status.items() if key not in ("seen", "process")}


def now_bytes(layout: Layout, status: dict[str, object]) -> int | None:
    """The lag now. Raises OSError."""
    files = Files()
    match status.get("seen"), status.get("lag_bytes"):
        case {"newest": list(noted), "open": list(entries), **more}, int(lag_bytes):
            has_hospital = more.get("hospital") is True
            newest = newest_of_slots(map(int, noted))
        case {"last": int(last), "open": list(entries)}, int(lag_bytes):
            newest, has_hospital = {0: last}, False
        case _:
            return None
    ends = {int(entry[0]): int(entry[1]) for entry in entries}
    for segment_id in shipped_logs.stable(layout.data, files, has_hospital=has_hospital):
        if segment_id > newest.get(slot_of(segment_id), -1) or segment_id in ends:
            lag_bytes += max(0, _end(layout, segment_id, files) - ends.get(segment_id, 0))
    return lag_bytes


def _end(layout: Layout, segment_id: int, files: Files) -> int:
    """How much of a segment a replication would ship."""
    try:
        fd = files.open(shipped_logs.path_of(layout.data, segment_id), os.O_RDONLY)
    except FileNotFoundError:
        return 0  # just compacted away
    try:
        there = extent.look(FileBytes(files, fd), shipped_logs.id_of(segment_id))
    except CorruptRecord:
        return files.size(fd)  # unreadable: it cannot be shipped
    finally:
        files.close(fd)
    return 0 if there is None or there.is_empty else there.end


def growing(found: extent.Extent | None) -> int:
    """The end to note for a segment that can still grow: 0 while there is nothing to ship."""
    return 0 if found is None or found.end <= FIRST_RECORD else found.end


def process() -> list[int]:
    """Identifies this process by number and start time, since numbers come again."""
    return [os.getpid(), _started(os.getpid())]


def is_alive(status: dict[str, object]) -> bool:
    """Whether the process that wrote a status is still running."""
    match status.get("process"), status.get("pid"):
        case [int(pid), int(started)], _:
            return _started(pid) == started
        case _, int(pid):
            return _started(pid) > 0
    return False


def _started(pid: int) -> int:
    """When a process began, in clock ticks since the start of the machine; 0 when it does not exist or is dead."""
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            fields = file.read().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0


def is_written(layout: Layout) -> bool:
    """Whether a replication writes to a replica here."""
    try:
        fd = os.open(layout.data / "replica.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
