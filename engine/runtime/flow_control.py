"""Back-pressure: per-peer bandwidth, retrieval priority over ingest, shares of ingest memory.

It only makes connections pause and resume reading, which is all the back-pressure that a sender understands. Each
worker has one `FlowControl`; the services that receive and send data sets report the bytes to it. It works once a tick
while there is something to do:

    bandwidth    bytes that a calling AE title sends beyond its rate are a debt; reading pauses until it is paid
    retrieval    while retrievals sent much in this or the last tick, ingest has a budget for each tick; connections
                 that come when it is used up wait for the next one, first come, first served
    memory       a calling AE title that holds more than its share of ingest_bytes_max waits; all titles wait when they
                 hold more than ingest_bytes_max together. A few connections have a turn and go on, so that they
                 complete their data sets and free memory. One that does not use its turn is aborted
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from engine import log
from engine.rate_limiter import TokenBucket

if TYPE_CHECKING:
    from engine.config import Config
    from engine.metrics import Metrics

logger = log.get("runtime.flow_control")

TICK_S = 0.02
"""The shortest wait. A worker stores some ten CT instances in that time."""

COMPETING_BYTES = 512 << 10
"""Bytes that retrievals must have sent in a tick (25 MB/s) to compete with ingest: a retrieval that waits for a slow
peer leaves us idle, and ingest does not delay it."""

TURNS = 4
"""Connections that may be read while memory is short."""

TURN_TICKS = 50
"""The longest turn: one second."""

TURN_BYTES_MIN = 64 << 10
"""Bytes that a connection must send in its turn."""


class Reader(Protocol):
    """The part of a connection that this module needs."""

    @property
    def held_bytes(self) -> int:
        """Bytes in memory of its incomplete messages."""

    @property
    def received_bytes(self) -> int:
        """All bytes that were read from it."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def abort(self, why: str, source: int = 0, reason: int = 0) -> None: ...


@dataclass(slots=True)
class _Turn:
    ticks: int
    received_bytes: int


class FlowControl:
    """Decides which connections of one worker are read. All calls come on the loop's thread."""

    def __init__(
        self,
        config: Callable[[], Config],
        metrics: Metrics,
        *,
        share: Callable[[str], float],
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
    ) -> None:
        """`config`: returns the current configuration; `share`: this worker's fraction of a title's associations."""
        self._config = config
        self._metrics = metrics
        self.ingest_bytes: list[Callable[[], int]] = []
        """For each front: the bytes in memory of its data sets that are not stored yet."""
        self._share = share
        self._call_later = call_later
        self._storing: dict[Reader, str] = {}
        """The calling AE title of each connection that may store, in the order in which the associations began."""
        self._bandwidth: dict[str, TokenBucket] = {}
        """By calling AE title: only those that have sent bytes lately."""
        self._owing: dict[Reader, str] = {}
        self._queue: deque[tuple[Reader, int]] = deque()
        """Connections that wait for the retrieval budget, with the size of what each received last."""
        self._prepaid: dict[Reader, int] = {}
        self._short: set[Reader] = set()
        self._turns: dict[Reader, _Turn] = {}
        self._sent_bytes = self._sent_before = 0
        self._budget = TokenBucket()
        self._ticking = False

    @property
    def waiting_count(self) -> int:
        """Connections that are paused."""
        return len(self._owing.keys() | self._short | {reader for reader, _ in self._queue})

    @property
    def competing(self) -> bool:
        """Whether retrievals send as fast as they can."""
        return max(self._sent_bytes, self._sent_before) >= COMPETING_BYTES

    # -- called by services ---------------------------------------------------------------------

    def began(self, reader: Reader, title: str) -> None:
        """Registers an association of that calling AE title, which may store."""
        self._storing[reader] = title

    def ended(self, reader: Reader) -> None:
        """Forgets an association that has ended."""
        self._storing.pop(reader, None)
        self._owing.pop(reader, None)
        self._prepaid.pop(reader, None)
        self._turns.pop(reader, None)
        self._short.discard(reader)
        self._queue = deque(entry for entry in self._queue if entry[0] is not reader)

    def sent(self, count: int) -> None:
        """Reports bytes that a retrieval has sent."""
        self._sent_bytes += count
        self.wake()

    def received(self, reader: Reader, count: int) -> None:
        """Reports the bytes of a received data set, or of a part of one. May pause the connection."""
        title = self._storing.get(reader)
        if title is None:
            return
        self.wake()
        self._charge(reader, title, count)
        if self.competing and self._config().limits.ingest_during_retrieval_bytes_per_s_max:
            self._budget.take(count - self._prepaid.pop(reader, 0))
            if self._budget.tokens <= 0 and all(waiting is not reader for waiting, _ in self._queue):
                self._queue.append((reader, count))
                self._metrics.counters["ingest_waits_for_retrieval"] += 1
                reader.pause_reading()

    def wake(self) -> None:
        """Starts the ticks; they end when there is nothing to do."""
        if not self._ticking:
            self._ticking = True
            self._call_later(TICK_S, self._on_tick)

    # -- once a tick ----------------------------------------------------------------------------

    def _on_tick(self) -> None:
        self.tick()
        self._ticking = False
        if self._sent_before or self._bandwidth or self._queue or self._short or self._chunks_bytes():
            self.wake()

    def tick(self) -> None:
        """Pays debts, opens a new budget and checks the memory."""
        self._sent_before, self._sent_bytes = self._sent_bytes, 0
        self._pay()
        self._serve_queue()
        limits = self._config().limits
        if self._short or self._chunks_bytes() > limits.ingest_bytes_max * limits.ingest_share_max:
            self._share_memory()

    # -- inside ---------------------------------------------------------------------------------

    def _chunks_bytes(self) -> int:
        return sum(taken() for taken in self.ingest_bytes)

    def _rate(self, title: str) -> float:
        limit = self._config().settings_of(title).bandwidth_bytes_per_s_max
        return limit * self._share(title) if limit else 0.0

    def _charge(self, reader: Reader, title: str, count: int) -> None:
        rate = self._rate(title)
        if not rate:
            return
        bucket = self._bandwidth.setdefault(title, TokenBucket())
        bucket.take(count)
        if bucket.debt > rate * TICK_S and reader not in self._owing:
            self._owing[reader] = title
            self._metrics.counters["waits_for_bandwidth"] += 1
            reader.pause_reading()

    def _pay(self) -> None:
        for title, bucket in list(self._bandwidth.items()):
            payment = self._rate(title) * TICK_S
            # A surplus is a credit for the next data set, of at most one tick's payment.
            bucket.add(payment, burst=payment)
            if payment and bucket.debt >= 1:
                continue
            if not payment or bucket.tokens >= payment:
                del self._bandwidth[title]
            for reader in [reader for reader, debtor in self._owing.items() if debtor == title]:
                del self._owing[reader]
                reader.resume_reading()

    def _serve_queue(self) -> None:
        limit = int(self._config().limits.ingest_during_retrieval_bytes_per_s_max * TICK_S)
        if not limit or not self.competing:
            self._budget = TokenBucket(limit)
            self._prepaid.clear()
            while self._queue:
                self._queue.popleft()[0].resume_reading()
            return
        # Pay first for what a large data set took beyond its budget, so that its sender gets no larger share.
        self._budget.add(limit, burst=limit)
        while self._queue and self._budget.tokens > 0:
            reader, count = self._queue.popleft()
            self._prepaid[reader] = count
            self._budget.take(count)
            reader.resume_reading()

    def _share_memory(self) -> None:
        limits = self._config().limits
        holders = {reader: count for reader in self._storing if (count := reader.held_bytes)}
        by_title: dict[str, int] = {}
        for reader, count in holders.items():
            by_title[self._storing[reader]] = by_title.get(self._storing[reader], 0) + count
        is_total_exceeded = sum(holders.values()) > limits.ingest_bytes_max
        share = limits.ingest_bytes_max * limits.ingest_share_max
        over = [reader for reader in holders if is_total_exceeded or by_title[self._storing[reader]] > share]
        self._give_turns(over)
        for reader in over:
            if reader not in self._turns and reader not in self._short:
                self._short.add(reader)
                self._metrics.counters["waits_for_memory"] += 1
                reader.pause_reading()
        for reader in self._short - {reader for reader in over if reader not in self._turns}:
            self._short.discard(reader)
            reader.resume_reading()

    def _give_turns(self, over: list[Reader]) -> None:
        """Ends and gives turns: every title gets its first turn before any title gets a second."""
        for reader, turn in list(self._turns.items()):
            if reader not in over:
                del self._turns[reader]
                continue
            turn.ticks += 1
            if turn.ticks < TURN_TICKS:
                continue
            del self._turns[reader]
            self._storing[reader] = self._storing.pop(reader)  # to the end: the others come first next time
            if reader.received_bytes - turn.received_bytes < TURN_BYTES_MIN:
                self._metrics.counters["ended_for_memory"] += 1
                over.remove(reader)
                reader.abort("too slow while memory is short", 2, 0)
        rank: dict[str, int] = {}
        ranked = []
        for reader in over:
            title = self._storing[reader]
            rank[title] = rank.get(title, 0) + 1
            ranked.append((rank[title], reader))
        for _, reader in sorted(ranked, key=lambda entry: entry[0]):
            if len(self._turns) >= TURNS:
                break
            if reader not in self._turns:
                self._turns[reader] = _Turn(0, reader.received_bytes)
