"""TLS handshakes in progress in one front: a further one than the limit ends the oldest of the address that has most.

So half-open handshakes of one address cost that address its own, and a client from elsewhere always gets one.
"""

from __future__ import annotations

import asyncio
from collections import Counter


class Handshakes:
    """Tasks that each shake hands on one connection, the oldest first."""

    def __init__(self) -> None:
        self._hosts: dict[asyncio.Task[None], str] = {}

    def __len__(self) -> int:
        return len(self._hosts)

    def make_room(self, count_max: int) -> bool:
        """Call this before `add`. Returns whether it had to end a handshake."""
        if len(self._hosts) < count_max:
            return False
        busiest, _ = Counter(self._hosts.values()).most_common(1)[0]
        oldest = next(task for task, host in self._hosts.items() if host == busiest)
        del self._hosts[oldest]
        oldest.cancel()
        return True

    def add(self, task: asyncio.Task[None], host: str) -> None:
        """Counts a handshake until its task ends."""
        self._hosts[task] = host
        task.add_done_callback(lambda task: self._hosts.pop(task, None))

    def end_all(self, why: str) -> None:
        """Ends all of them."""
        for task in list(self._hosts):
            task.cancel(why)
