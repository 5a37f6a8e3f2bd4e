"""Decides whether a worker accepts new instances: by disk reserve, memory and sync latency.

It sends no refusals: `storage_scp` asks it before it accepts a data set, `acceptor` before it accepts an association.
Retrievals, queries, C-ECHO and deletions never ask. Each figure has two limits, so that the answer does not change
with every instance:

    disk reserve    refused below limits.disk_reserve_bytes free, accepted again a sixteenth above it     A700
    memory          refused above limits.memory_bytes_max resident, accepted again at nine tenths         A700, rejected
    sync latency    refused above limits.sync_latency_s_max on average, accepted again at half of it      A700, rejected

"rejected": a new association that proposes only storage is rejected as transient, local limit exceeded: this soon
passes, and a sender that waits before it sends costs less than one that sends in vain. A full disk does not recover by
itself, so each C-STORE response tells the sender about it.
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

CHECK_S = 0.25
"""The maximum age of a measurement: at 500 MB/s, 125 MB of the reserve."""

AVERAGED_S = 3.0
"""The time over which the sync latency is averaged."""

FULL_REPORT_S = 60.0
"""How long the statistics report a full disk after an instance did not fit on it."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


class Reason(Enum):
    """Why new instances are refused; senders and operators see the value."""

    DISK_RESERVE = "disk reserve"
    MEMORY = "memory"
    SYNC_LATENCY = "sync latency"

    @property
    def comment(self) -> str:
        """The Error Comment (0000,0902) of an A700."""
        return f"out of resources: {self.value}"


def resident_bytes() -> int:
    """Resident memory of this process without mapped files, which the kernel reclaims when it needs memory."""
    with open("/proc/self/statm", "rb") as file:
        fields = file.read().split()
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES


def full_comment(error: StorageFull) -> str:
    """The Error Comment for an instance that did not fit into the log: the same as if admission had refused it."""
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
        """`config`: returns the current configuration; `waiting_count`: instances that wait for their sync."""
        self._config = config
        self._metrics = metrics
        self._free_bytes = free_bytes
        self._latency = sync_latency_s
        self._waiting_count = waiting_count
        self._now = now
        self._resident = resident
        self._checked_at = -math.inf
        self._last_count, self._last_total = sync_latency_s.count, sync_latency_s.total
        self._changed_at = now()
        self._free = 0
        self._memory = 0
        self._average_s = 0.0
        self._full_at = -math.inf
        self._is_stalled = False
        self.reason: Reason | None = None
        """Why new instances are refused, as of the last measurement."""

    def refusal(self) -> InstanceRefused | None:
        """The error for a C-STORE now; None when it is accepted. Counts refusals."""
        self.look()
        if self.reason is None:
            return None
        self._metrics.counters[f"stores_refused_{self.reason.name.lower()}"] += 1
        return InstanceRefused(self.reason.comment, Refusal.OUT_OF_RESOURCES)

    def rejects(self) -> bool:
        """Whether to reject an association that only stores as transient. Counts rejections."""
        self.look()
        if self.reason in (None, Reason.DISK_RESERVE):
            return False
        self._metrics.counters["associations_rejected_for_admission"] += 1
        return True

    def look(self) -> None:
        """Measures again, at most every CHECK_S; logs when the answer changes."""
        now = self._now()
        if now - self._checked_at < CHECK_S:
            return
        self._measure(now)
        reason = self._judge()
        if reason is not self.reason:
            figures = {name: value for name, value in self.snapshot().items() if name != "reason"}
            if reason is None:
                logger.info("new instances are accepted again", **figures)
            else:
                logger.warning("new instances are refused", **figures, reason=reason.value)
            self.reason = reason

    def found_full(self) -> None:
        """Notes that an instance did not fit into the log. Does not refuse others: smaller ones may still fit."""
        self._full_at = self._now()

    def snapshot(self) -> dict[str, object]:
        """As plain data, for the statistics."""
        reason = self.reason
        if reason is None and self._now() - self._full_at < FULL_REPORT_S:
            reason = Reason.DISK_RESERVE
        return {
            "reason": reason.value if reason else None,
            "free_bytes": self._free,
            "resident_bytes": self._memory,
            "sync_latency_average_s": round(self._average_s, 4),
        }

    # -- inside ---------------------------------------------------------------------------------

    def _measure(self, now: float) -> None:
        passed_s = now - self._checked_at
        self._checked_at = now
        self._memory = self._resident()
        try:
            self._free = self._free_bytes()
        except OSError as error:
            # The next write reports what is wrong with the disk.
            logger.error("free space cannot be read", error=error.strerror)
        count, total = self._latency.count, self._latency.total
        weight = 1.0 - math.exp(-passed_s / AVERAGED_S)
        if count != self._last_count:
            mean_s = (total - self._last_total) / (count - self._last_count)
            # After a stall only the last syncs show the present latency: an average would go on refusing for 30 s.
            self._average_s += (mean_s - self._average_s) * (1.0 if self._is_stalled else weight)
            self._is_stalled = False
            self._changed_at = now
        elif self._waiting_count():
            # Nothing was synced since the last measurement: the instances that wait have waited at least that long.
            if now - self._changed_at > self._average_s:
                self._average_s = now - self._changed_at
                self._is_stalled = True
        else:
            self._average_s -= self._average_s * (1.0 if self._is_stalled else weight)
            self._is_stalled = False
            self._changed_at = now
        self._last_count, self._last_total = count, total

    def _judge(self) -> Reason | None:
        limits = self._config().limits
        current = self.reason
        margin = limits.disk_reserve_bytes // 16 if current is Reason.DISK_RESERVE else 0
        if self._free < limits.disk_reserve_bytes + margin:
            return Reason.DISK_RESERVE
        if self._memory > limits.memory_bytes_max * (0.9 if current is Reason.MEMORY else 1.0):
            return Reason.MEMORY
        if self._average_s > limits.sync_latency_s_max * (0.5 if current is Reason.SYNC_LATENCY else 1.0):
            return Reason.SYNC_LATENCY
        return None
