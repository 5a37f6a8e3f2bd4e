"""Decides whether a worker accepts new instances: by disk reserve, memory and sync latency.

It refuses nothing itself: `storage_scp` asks before it accepts a data set, `acceptor` before it accepts an association.
Retrievals, queries, C-ECHO and deletions never ask. Each figure has two limits, so that the answer does not change
with every instance:

    disk reserve    refused below limits.disk_reserve_bytes free, taken again a sixteenth above it     A700
    memory          refused above limits.memory_bytes_max resident, taken again at nine tenths         A700, rejected
    sync latency    refused above limits.sync_latency_s_max on average, taken again at half of it      A700, rejected

"rejected": a new association that proposes nothing but storage is rejected as transient, local limit exceeded: this
soon passes, and a sender that waits before it sends costs less than one that sends in vain. A full disk does not
pass by itself: its senders are told with each instance what is wrong.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from engine import log
from engine.errors import InstanceRefused, Refusal, StorageFull

if TYPE_CHECKING:
    from engine.config import Config
    from engine.metrics import Histogram, Metrics

logger = log.get("runtime.admission")

LOOK_S = 0.25
"""How old a figure may be: at 500 MB/s, 125 MB of the reserve."""

AVERAGED_S = 3.0
"""The time over which the sync latency is averaged."""

FULL_TOLD_S = 60.0
"""How long the statistics say that the disk is full after an instance found no room."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


class Reason(Enum):
    """Why no new instances are taken; the value is said to senders and people."""

    DISK_RESERVE = "disk reserve"
    MEMORY = "memory"
    SYNC_LATENCY = "sync latency"

    @property
    def comment(self) -> str:
        """The Error Comment (0000,0902) of an A700."""
        return f"out of resources: {self.value}"


def resident_bytes() -> int:
    """Resident memory of this process without mapped files, which the kernel takes back when it needs room."""
    with open("/proc/self/statm", "rb") as file:
        fields = file.read().split()
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES


def full_comment(error: StorageFull) -> str:
    """The Error Comment for an instance that the log found no room for: as if it had not been tried."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in _NO_DESCRIPTORS:
        return "out of resources: open files"
    if isinstance(cause, OSError) and cause.errno == errno.ENOMEM:
        return Reason.MEMORY.comment
    return Reason.DISK_RESERVE.comment


class Admission:
    """The admission state of one worker. Cheap to ask."""

    def __init__(
        self,
        config: Callable[[], Config],
        metrics: Metrics,
        *,
        free_bytes: Callable[[], int],
        sync_latency_s: Histogram,
        waiting_count: Callable[[], int],
        now: Callable[[], float],
        resident: Callable[[], int] = resident_bytes,
    ) -> None:
        """`config`: the present one; `waiting_count`: instances that wait for their sync."""
        self._config = config
        self._metrics = metrics
        self._free_bytes = free_bytes
        self._latency = sync_latency_s
        self._waiting_count = waiting_count
        self._now = now
        self._resident = resident
        self._looked_at = -math.inf
        self._seen_count, self._seen_total = sync_latency_s.count, sync_latency_s.total
        self._changed_at = now()
        self._free = 0
        self._memory = 0
        self._average_s = 0.0
        self._found_full_at = -math.inf
        self._stood_still = False
        self.reason: Reason | None = None
        """Why new instances are refused, as of the last look."""

    def refusal(self) -> InstanceRefused | None:
        """What answers a C-STORE now; None when it is taken. Counts what is refused."""
        self.look()
        if self.reason is None:
            return None
        self._metrics.counters[f"stores_refused_{self.reason.name.lower()}"] += 1
        return InstanceRefused(self.reason.comment, Refusal.OUT_OF_RESOURCES)

    def rejects(self) -> bool:
        """Whether an association that only stores is to be rejected as transient. Counts what is rejected."""
        self.look()
        if self.reason in (None, Reason.DISK_RESERVE):
            return False
        self._metrics.counters["associations_rejected_for_admission"] += 1
        return True

    def look(self) -> None:
        """Takes the figures anew, at most every LOOK_S; says so in the log when the answer changes."""
        now = self._now()
        if now - self._looked_at < LOOK_S:
            return
        self._measure(now)
        reason = self._judge()
        if reason is not self.reason:
            figures = {name: value for name, value in self.snapshot().items() if name.partition("_")[0] != "reason"}
            if reason is None:
                logger.info("new instances are taken again", **figures)
            else:
                logger.warning("new instances are refused", **{**figures, "reason": reason.value})
            self.reason = reason

    def found_full(self) -> None:
        """Notes that the log had no room for an instance. Smaller ones may still fit, so nothing is refused for it."""
        self._found_full_at = self._now()

    def snapshot(self) -> dict[str, object]:
        """As plain data, for the statistics."""
        reason = self.reason
        if reason is None and self._now() - self._found_full_at < FULL_TOLD_S:
            reason = Reason.DISK_RESERVE
        return {
            "reason": reason.value if reason else None,
            "free_bytes": self._free,
            "resident_bytes": self._memory,
            "sync_latency_average_s": round(self._average_s, 4),
        }

    # -- inside ---------------------------------------------------------------------------------

    def _measure(self, now: float) -> None:
        passed_s = now - self._looked_at
        self._looked_at = now
        self._memory = self._resident()
        try:
            self._free = self._free_bytes()
        except OSError as error:
            # The next write says what is wrong with the disk.
            logger.error("free space is not known", error=error.strerror)
        count, total = self._latency.count, self._latency.total
        weight = 1.0 - math.exp(-passed_s / AVERAGED_S)
        if count != self._seen_count:
            mean_s = (total - self._seen_total) / (count - self._seen_count)
            # After a standstill the last syncs say how it is now; an average would refuse for half a minute more.
            self._average_s += (mean_s - self._average_s) * (1.0 if self._stood_still else weight)
            self._stood_still = False
            self._changed_at = now
        elif self._waiting_count():
            # Nothing was synced since the last look: whoever waits has waited for so long at least.
            if now - self._changed_at > self._average_s:
                self._average_s = now - self._changed_at
                self._stood_still = True
        else:
            self._average_s -= self._average_s * (1.0 if self._stood_still else weight)
            self._stood_still = False
            self._changed_at = now
        self._seen_count, self._seen_total = count, total

    def _judge(self) -> Reason | None:
        limits = self._config().limits
        refused = self.reason
        margin = limits.disk_reserve_bytes // 16 if refused is Reason.DISK_RESERVE else 0
        if self._free < limits.disk_reserve_bytes + margin:
            return Reason.DISK_RESERVE
        if self._memory > limits.memory_bytes_max * (0.9 if refused is Reason.MEMORY else 1.0):
            return Reason.MEMORY
        if self._average_s > limits.sync_latency_s_max * (0.5 if refused is Reason.SYNC_LATENCY else 1.0):
            return Reason.SYNC_LATENCY
        return None
