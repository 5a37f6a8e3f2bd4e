"""SecondCopy: holds answers back until their records are durable elsewhere too: at the replica, or in the bucket.

    written here ─► COMING: it is sent while this disk is at work
    committed here ─► waits ─► HAVE (`archive.receipts`) ─► answered
                        └─ wait_s have passed: refused (A700, 503)
                        └─ the same, or who copies is away for GRACE_S, `when_away = "local"`: answered, counted

    state    AWAY ⇄ READY, as who copies says, or AWAY because nobody gives receipts.  FENCED is final: another machine
             continues this archive, and nothing is answered alone either

What is refused here is stored all the same. A sender that repeats it is answered when the record is elsewhere. While
nobody gives receipts for longer than wait_s, `check` refuses before anything is stored.

All that was committed together is asked for by one message. Runs on the loop's thread, and blocks on nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import socket
from collections import defaultdict
from collections.abc import Callable, MutableMapping
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from engine import guards, log
from engine.archive import receipts
from engine.archive.receipts import Kind
from engine.archive.settings import Durable, SecondCopySettings
from engine.errors import EngineError, StorageError
from engine.metrics import Histogram
from engine.storage.record import Position

logger = log.get("archive.second_copy")

GRACE_S: Final = 1.0
"""While nobody gives receipts for a shorter time, as after a start, nothing is answered alone."""
RETRY_S: Final = 0.25
"""The pause between two attempts to connect."""
LOOK_S: Final = 0.25
"""The interval of the look for answers that have waited too long."""
LEAST_BYTES_PER_S: Final = 8 << 20
"""What a line to a second copy must carry: an object of a gigabyte may take two minutes more than wait_s."""
FENCED: Final = "another machine continues this archive"
NAMES: Final = {"peer": "the replica", "object": "the object store"}

Release: TypeAlias = Callable[[StorageError | None], None]
"""Called once: None when the record is elsewhere, or need not be."""


class _Waiter(NamedTuple):
    """An answer that is held back; ordered by the ends of records."""

    end: int
    number: int
    since_s: float
    record_bytes: int
    release: Release

    def due_s(self, wait_s: float) -> float:
        """When it has waited too long."""
        return self.since_s + wait_s + self.record_bytes / LEAST_BYTES_PER_S


class SecondCopy:
    """One place where records have to be."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        place: Durable,
        socket_path: Path,
        settings: Callable[[], SecondCopySettings],
        counters: MutableMapping[str, int],
    ) -> None:
        self._loop = loop
        self._place = place
        self._path = socket_path
        self._settings = settings
        self._counters = counters
        self._sock: socket.socket | None = None
        self._state = Kind.AWAY
        self._away_since_s = loop.time()
        self._waiting: dict[int, list[_Waiter]] = defaultdict(list)
        """By segment, as heaps."""
        self._numbers = count()
        self._unasked: dict[int, int] = {}
        """Ends for the next message."""
        self._is_asking_due = False
        self._coming: dict[int, int] = {}
        self._is_telling_due = False
        self._takes_coming = False
        """Whether who copies understands COMING."""
        self._is_looking = False
        self._is_closed = False
        self.latency_s = Histogram(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
        self._connect()

    # -- for ingest -----------------------------------------------------------------------------

    def check(self) -> None:
        """Raises StorageError while an instance that is stored now would not be answered in time."""
        settings = self._settings()
        if self._state is Kind.FENCED:
            raise self._refusal(FENCED)
        if settings.when_away == "refuse" and self.away_s > settings.wait_s:
            raise self._refusal("does not take records")

    def expect(self, position: Position) -> None:
        """A record is written, and will be held when it is durable here: its bytes may be sent meanwhile."""
        if self._state is not Kind.READY or not self._takes_coming:
            return
        self._coming[position.segment_id] = max(position.end, self._coming.get(position.segment_id, 0))
        if not self._is_telling_due:  # the first one at once, since the loop may wait for the disk now
            self._is_telling_due = True
            self._loop.call_soon(self._tell_others)
            self._tell()

    def hold(self, position: Position, release: Release) -> None:
        """Calls `release` when a record is elsewhere, which is durable here."""
        if self._may_go_alone() and self.away_s > GRACE_S:
            self._alone(release)
            return
        segment_id, end = position.segment_id, position.end
        waiter = _Waiter(end, next(self._numbers), self._loop.time(), position.record_bytes, release)
        heapq.heappush(self._waiting[segment_id], waiter)
        self._unasked[segment_id] = max(end, self._unasked.get(segment_id, 0))
        if not self._is_asking_due:
            self._is_asking_due = True
            self._loop.call_soon(self._ask)
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_later(LOOK_S, self._look)

    @property
    def waiting_count(self) -> int:
        """Instances whose answer is held back."""
        return sum(map(len, self._waiting.values()))

    @property
    def away_s(self) -> float:
        """Seconds since nobody has given receipts; 0: all is well."""
        return 0.0 if self._state is Kind.READY else self._loop.time() - self._away_since_s

    def snapshot(self) -> dict[str, object]:
        """For the statistics."""
        return {
            "state": self._state.name.lower(),
            "away_s": round(self.away_s, 1),
            "when_away": self._settings().when_away,
            "waiting": self.waiting_count,
            "latency_s": self.latency_s.snapshot(),
        }

    def close(self) -> None:
        """Refuses what waits."""
        self._is_closed = True
        self._disconnect()
        for waiter in self._taken():
            self._release(waiter.release, self._refusal("the server ends"))

    # -- who waits ------------------------------------------------------------------------------

    def _may_go_alone(self) -> bool:
        return self._settings().when_away == "local" and self._state is not Kind.FENCED

    def _look(self) -> None:
        """Answers what has waited too long."""
        self._is_looking = False
        now_s, wait_s = self._loop.time(), self._settings().wait_s
        is_alone = self._may_go_alone() and self.away_s > GRACE_S
        late = self._taken(lambda waiter: is_alone or now_s > waiter.due_s(wait_s))
        if late and self._state is Kind.READY:
            self._turn(Kind.AWAY, "no receipt came in time")
        for waiter in late:
            if self._may_go_alone():
                self._alone(waiter.release)
            else:
                self._refuse(waiter, "has not taken the record in time")
        if any(self._waiting.values()):
            self._is_looking = True
            self._loop.call_later(LOOK_S, self._look)

    def _taken(self, is_meant: Callable[[_Waiter], bool] = lambda waiter: True) -> list[_Waiter]:
        """Takes some out, in the order in which they came."""
        taken: list[_Waiter] = []
        for segment_id, heap in list(self._waiting.items()):
            taken += [each for each in heap if is_meant(each)]
            left = [each for each in heap if not is_meant(each)]
            if left:
                heapq.heapify(left)
                self._waiting[segment_id] = left
            else:
                del self._waiting[segment_id]
        return sorted(taken, key=lambda each: each.number)

    def _alone(self, release: Release) -> None:
        self._counters[f"second_copy_{self._place}_alone"] += 1
        self._release(release, None)

    def _release(self, release: Release, error: StorageError | None) -> None:
        guards.call("answer after the second copy", release, error)

    def _refusal(self, why: str) -> StorageError:
        return StorageError(f"out of resources: no second copy: {NAMES[self._place]}: {why}")

    # -- who copies -----------------------------------------------------------------------------

    def _turn(self, state: Kind, why: str) -> None:
        if state is self._state or self._state is Kind.FENCED:
            return
        if state is not Kind.READY:
            if self._state is Kind.READY:
                self._away_since_s = self._loop.time()
            alone = self._settings().when_away == "local" and state is Kind.AWAY
            what = "instances are acknowledged without a second copy" if alone else "instances are refused soon"
            logger.error(f"{what}: {NAMES[self._place]} gives no receipts", why=why)
        else:
            logger.info("instances have their second copy", place=NAMES[self._place])
        self._state = state
        if state is Kind.FENCED:
            for waiter in self._taken():
                self._refuse(waiter, FENCED)

    def _refuse(self, waiter: _Waiter, why: str) -> None:
        self._counters[f"second_copy_{self._place}_refused"] += 1
        self._release(waiter.release, self._refusal(why))

    def _connect(self) -> None:
        if self._is_closed:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        try:
            with receipts.address(self._path.parent, self._path.name) as path:
                sock.connect(path)
        except OSError:  # nobody copies now, or too many connect at once
            sock.close()
            self._loop.call_later(RETRY_S, self._connect)
            return
        self._sock = sock
        self._loop.add_reader(sock, self._receive)
        for segment_id, heap in self._waiting.items():
            self._unasked[segment_id] = max(each.end for each in heap)
        self._ask()

    def _disconnect(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_reader(sock)
            sock.close()

    def _lost(self, why: str) -> None:
        if self._sock is None:
            return
        self._disconnect()
        self._turn(Kind.AWAY, why)
        if not self._is_closed:
            self._loop.call_later(RETRY_S, self._connect)

    def _ask(self) -> None:
        self._is_asking_due = False
        if self._sock is None:
            return  # all is asked for by the next connection
        ends, self._unasked = self._unasked, {}
        if not ends:
            return
        try:
            for message in receipts.pack(Kind.WANT, ends):
                self._sock.send(message)
        except OSError as error:
            self._lost(os.strerror(error.errno or 0))

    def _tell_others(self) -> None:
        self._is_telling_due = False
        self._tell()

    def _tell(self) -> None:
        coming, self._coming = self._coming, {}
        if not coming or self._sock is None:
            return
        try:
            for message in receipts.pack(Kind.COMING, coming):
                self._sock.send(message)
        except BlockingIOError:
            pass  # who copies has enough to do
        except OSError as error:
            self._lost(os.strerror(error.errno or 0))

    def _receive(self) -> None:
        assert self._sock is not None
        try:
            message = self._sock.recv(receipts.MESSAGE_BYTES_MAX)
            if not message:
                self._lost("nobody copies the log")
                return
            kind, ends = receipts.unpack(message)
        except BlockingIOError:
            return
        except (OSError, EngineError) as error:
            self._lost(str(error))
            return
        if kind is not Kind.HAVE:
            self._takes_coming = bool(ends)
            self._turn(kind, "it cannot be reached" if kind is Kind.AWAY else FENCED)
            return
        self._turn(Kind.READY, "")
        now_s = self._loop.time()
        for segment_id, end in ends.items():
            heap = self._waiting.get(segment_id, [])
            while heap and heap[0].end <= end:
                waiter = heapq.heappop(heap)
                self.latency_s.observe(now_s - waiter.since_s)
                self._counters[f"second_copy_{self._place}_acknowledged"] += 1
                self._release(waiter.release, None)
            if not heap:
                self._waiting.pop(segment_id, None)


class SecondCopies:
    """The places that instances of one process have to be at, each made when it is first asked for."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        data: Path,
        settings: Callable[[], SecondCopySettings],
        counters: MutableMapping[str, int],
    ) -> None:
        """`settings`: those in force."""
        self._loop = loop
        self._data = data
        self._settings = settings
        self._counters = counters
        self._places: dict[Durable, SecondCopy] = {}

    def at(self, place: Durable) -> SecondCopy:
        """The one of a place that is not "local"."""
        found = self._places.get(place)
        if found is None:
            name = receipts.OBJECT_STORE if place == "object" else receipts.replication_name(self._settings().replica)
            found = SecondCopy(self._loop, place, self._data / name, self._settings, self._counters)
            self._places[place] = found
        return found

    @property
    def waiting_count(self) -> int:
        """Instances whose answer is held back."""
        return sum(each.waiting_count for each in self._places.values())

    def snapshot(self) -> dict[str, object]:
        """For the statistics, by place."""
        return {place: each.snapshot() for place, each in self._places.items()}

    def close(self) -> None:
        """Refuses what waits."""
        for each in self._places.values():
            each.close()
