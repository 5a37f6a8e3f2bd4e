"""Back-pressure: per-peer bandwidth, retrieval priority over ingest, shares of ingest memory.

Does not read or send: it tells connections to pause reading and to go on, which is all the back-pressure that a sender
understands. One `FlowControl` a worker, told by what takes data sets in and by what sends them out. While there is
something to look after it looks once a tick:

    bandwidth    what came of a calling AE title beyond its rate is owed, and reading waits until it is paid
    retrieval    while retrievals sent much in this or the last tick, ingest has a budget a tick; who comes when it is
                 used up waits for a next one, first come, first served
    memory       calling AE titles that hold more than their share of ingest_bytes_max wait, and all when together they
                 hold more than that, but for a few whose turn it is: they go on, so that memory comes back. Who does
                 not use its turn is ended: it holds what others need
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
"""No wait is shorter. A worker takes some ten CT instances in meanwhile."""

COMPETING_BYTES = 512 << 10
"""What retrievals must have sent in a tick (25 MB/s) to be in competition with ingest: one that waits for a slow peer
leaves us idle, and ingest does not hold it up."""

TURNS = 4
"""Connections that go on while memory is short."""

TURN_TICKS = 50
"""How long a turn lasts that ends nothing: one second."""

TURN_BYTES_MIN = 64 << 10
"""What must come in a turn."""


class Reader(Protocol):
    """A connection, as far as this module goes."""

    @property
    def held_bytes(self) -> int:
        """What it holds of messages that are incomplete."""

    @property
    def received_bytes(self) -> int:
        """Everything that has come on it."""

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
        """`config`: the present one; `share`: this worker's part of a title's associations."""
        self._config = config
        self._metrics = metrics
        self.ingest_bytes: list[Callable[[], int]] = []
        """For each front: how much room its data sets on their way in take."""
        self._share = share
        self._call_later = call_later
        self._storing: dict[Reader, str] = {}
        """Those that may store, by calling AE title, in the order in which their associations began."""
        self._bandwidth: dict[str, TokenBucket] = {}
        """Of calling AE titles that have used some of theirs lately."""
        self._owing: dict[Reader, str] = {}
        self._queue: deque[tuple[Reader, int]] = deque()
        """Who waits for a budget, and the size of what came last."""
        self._prepaid: dict[Reader, int] = {}
        self._short: set[Reader] = set()
        self._turns: dict[Reader, _Turn] = {}
        self._sent_bytes = self._sent_before = 0
        self._budget = TokenBucket()
        self._ticking = False

    @property
    def waiting_count(self) -> int:
        """Connections that are not read at the moment."""
        return len(self._owing.keys() | self._short | {reader for reader, _ in self._queue})

    @property
    def competing(self) -> bool:
        """Whether retrievals send as fast as they can."""
        return max(self._sent_bytes, self._sent_before) >= COMPETING_BYTES

    # -- told by services -----------------------------------------------------------------------

    def began(self, reader: Reader, title: str) -> None:
        """An association of that calling AE title, which may store."""
        self._storing[reader] = title

    def ended(self, reader: Reader) -> None:
        """It is over; nothing of it waits any more."""
        self._storing.pop(reader, None)
        self._owing.pop(reader, None)
        self._prepaid.pop(reader, None)
        self._turns.pop(reader, None)
        self._short.discard(reader)
        self._queue = deque(entry for entry in self._queue if entry[0] is not reader)

    def sent(self, count: int) -> None:
        """A retrieval has sent so many bytes."""
        self._sent_bytes += count
        self.wake()

    def received(self, reader: Reader, count: int) -> None:
        """A data set, or a part of one, of so many bytes has come: its sender may have to wait for its next turn."""
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
        """Something begins: ticks until there is nothing left to look after."""
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
        """Pays debts, opens a new budget and looks at the memory."""
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
            paid = self._rate(title) * TICK_S
            # What a tick pays too much is a credit for the next data set, but no more than one tick's.
            bucket.add(paid, burst=paid)
            if paid and bucket.debt >= 1:
                continue
            if not paid or bucket.tokens >= paid:
                del self._bandwidth[title]
            for reader in [reader for reader, owing in self._owing.items() if owing == title]:
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
        # What a large data set took beyond its budget is paid back first, so that its sender has no larger part.
        self._budget.add(limit, burst=limit)
        while self._queue and self._budget.tokens > 0:
            reader, count = self._queue.popleft()
            self._prepaid[reader] = count
            self._budget.take(count)
            reader.resume_reading()

    def _share_memory(self) -> None:
        limits = self._config().limits
        held = {reader: count for reader in self._storing if (count := reader.held_bytes)}
        by_title: dict[str, int] = {}
        for reader, count in held.items():
            by_title[self._storing[reader]] = by_title.get(self._storing[reader], 0) + count
        total_over = sum(held.values()) > limits.ingest_bytes_max
        share = limits.ingest_bytes_max * limits.ingest_share_max
        over = [reader for reader in held if total_over or by_title[self._storing[reader]] > share]
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
        """Those that go on: every title's first before any title's second."""
        for reader, turn in list(self._turns.items()):
            if reader not in over:
                del self._turns[reader]
                continue
            turn.ticks += 1
            if turn.ticks < TURN_TICKS:
                continue
            del self._turns[reader]
            self._storing[reader] = self._storing.pop(reader)  # the others first, next time
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
