"""Decides whether a retention rule, or the trash, may run by itself: a wrong clock must not delete studies.

A rule is refused when

    the clock was set forward    since the last application in this boot, the clock has advanced by more than the time
    there was a long gap         the last application, or without one the newest segment, is longer ago than the rule's
                                 gap_days_max: an empty CMOS battery, a wrong NTP server, or a server that was off
    it would delete too much     more than the rule's share_max of all studies, and more than STUDIES_MIN

    DATA/retention.json    {"applied_ns", "boottime_ns", "boot_id"}: the last application of rules; disposable

A slow clock deletes nothing too early, so it is accepted; the recorded time stays. A confirmation (`filmroom retention
apply --anyway`) records the present time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from engine.boot import boot_id
from engine.errors import RetentionRefused, StorageError
from engine.storage import files as storage_files
from engine.storage.hints import read_header_or_trailer

if TYPE_CHECKING:
    from engine.archive.parts import Parts
    from engine.config import Retention

DAY_NS = 86_400 * 10**9

JUMP_NS = DAY_NS
"""A clock may be set forward by this much: for a wrong time zone, or the drift of a winter."""

STUDIES_MIN = 20
"""A rule may always delete this many studies at a time, since a share of a small archive means little."""


class _Applied(msgspec.Struct, forbid_unknown_fields=True):
    applied_ns: int
    boottime_ns: int
    boot_id: str


def check_clock(parts: Parts, gap_days_max: float, now_ns: int) -> None:
    """Raises RetentionRefused when `now_ns` is implausible."""
    last = _read(parts)
    if last is not None and last.boot_id == boot_id():
        jumped_ns = (now_ns - last.applied_ns) - (_boottime_ns() - last.boottime_ns)
        if jumped_ns > JUMP_NS:
            raise _refused(f"the clock was set forward by {_days(jumped_ns)} days since rules were applied last")
    known_ns = last.applied_ns if last is not None else _newest_ns(parts)
    if known_ns and now_ns - known_ns > gap_days_max * DAY_NS:
        event = "rules were applied last" if last is not None else "something was stored last"
        raise _refused(
            f"by the clock, {event} {_days(now_ns - known_ns)} days ago, more than gap_days_max"
            f" ({gap_days_max:g}): is the clock right?"
        )


def check_share(parts: Parts, rule: Retention, due_count: int) -> None:
    """Raises RetentionRefused when a rule would delete too many studies."""
    total = parts.index.stats()["studies"]
    if due_count > STUDIES_MIN and due_count > rule.share_max * total:
        raise _refused(
            f"it would delete at least {due_count} of {total} studies, more than the rule's share_max"
            f" ({rule.share_max:g})"
        )


def note(parts: Parts, now_ns: int, *, is_confirmed: bool) -> None:
    """Records `now_ns` as the time of an application. Raises StorageFull or StorageFailed."""
    last = _read(parts)
    if last is not None and now_ns < last.applied_ns and not is_confirmed:
        return
    content = msgspec.json.encode(_Applied(now_ns, _boottime_ns(), boot_id()))
    storage_files.replace_file(parts.files, _path(parts), content)


def _refused(reason: str) -> RetentionRefused:
    return RetentionRefused(f"{reason}; `filmroom retention apply --anyway` or `filmroom trash expire` confirms it")


def _path(parts: Parts) -> str:
    return str(parts.layout.data / "retention.json")


def _read(parts: Parts) -> _Applied | None:
    try:
        with open(_path(parts), "rb") as file:
            return msgspec.json.decode(file.read(4096), type=_Applied)
    except (OSError, msgspec.DecodeError):
        return None


def _newest_ns(parts: Parts) -> int:
    """Creation time of the newest segment; 0 if none can be read."""
    for segment_id in reversed(parts.segments.segment_ids()):
        try:
            return int(read_header_or_trailer(parts.segments.open(segment_id), segment_id).created_ns)
        except (StorageError, OSError):
            continue  # damaged or gone: recovery and scrub report it
    return 0


def _boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _days(nanoseconds: int) -> str:
    return f"{nanoseconds / DAY_NS:.0f}"
