"""Nodes: the servers of one archive, each with a slot and an epoch.

    (none) ──join──► active ◄──rejoin: its process starts again, epoch + 1
                      │  ▲
                drain │  │ resume
                      ▼  │
                    draining ──leave: its chain is sealed──► left ─────────────────────────┐
    active, draining ──its lease is over; take_over by another, epoch + 1──► lost ──seal───┴─ remove ──► removed

A slot is given once and never again: segments keep the ids that were made with it. A node that was taken over comes
back with a new slot. Each sign of life (`heartbeat`) begins a new term of the node's lease, by PostgreSQL's clock, says
what the node has applied of all chains, and compares the clocks: stamps of records order what nodes do, so a node whose
clock is more than CLOCK_S off must refuse writes.

The lease tells others whether a node lives. What fences it is the epoch: each append carries it (`chains`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import orjson

from engine.cluster.database import Database
from engine.errors import Fenced, LeaseLost

NodeState = Literal["active", "draining", "left", "lost", "removed"]
CLOCK_S = 1.0
"""Two stores of one UID that are further apart are in the right order on all nodes."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the others see it."""

    slot: int
    name: str
    address: str
    software: str
    """Its version of Filmroom."""
    state: NodeState
    joined: datetime
    lease_s: float
    """Seconds until its lease is over, by PostgreSQL's clock; negative: it is over since then."""
    epoch: int
    number: int
    """The last group of its chain."""
    trimmed: int
    """The last group that PostgreSQL has forgotten."""
    is_sealed: bool
    taken_by: int | None
    """The slot of the node that has taken it over."""
    applied: Mapping[int, int]
    """By slot, the last group that it has applied, as of its last sign of life."""
    clock_offset_s: float | None
    """Its clock minus PostgreSQL's, as of its last sign of life."""

    @property
    def is_alive(self) -> bool:
        """Whether it may still do something: it is a member, and its lease is not over."""
        return self.state in ("active", "draining") and self.lease_s > 0

    def behind(self, nodes: Iterable[Node]) -> int:
        """The groups of other nodes that it had not applied at its last sign of life."""
        others = (node for node in nodes if node.slot != self.slot)
        return sum(max(0, node.number - self.applied.get(node.slot, 0)) for node in others)


@dataclass(frozen=True, slots=True)
class SignOfLife:
    """What a node learns with its heartbeat."""

    state: NodeState
    clock_offset_s: float
    """Our clock minus PostgreSQL's, to within `clock_error_s`."""
    clock_error_s: float

    @property
    def is_clock_wrong(self) -> bool:
        """Whether our clock is certainly more than CLOCK_S off."""
        return abs(self.clock_offset_s) - self.clock_error_s > CLOCK_S


class Nodes:
    """The nodes of an archive. Thread-safe."""

    def __init__(self, database: Database, archive: uuid.UUID) -> None:
        self._database = database
        self._archive = archive

    def join(
        self, name: str, address: str, term_s: float, slot: int | None = None, *, software: str = ""
    ) -> tuple[int, int]:
        """A new node; returns its slot and epoch. `slot`: of an archive that had this one (0) before it had several
        nodes; only if it was never given. Raises ClusterError if a node of this name is a member; ClusterUnreachable;
        UnknownOutcome (look for the name in `list`)."""
        rows = self._database.change(
            "select its_slot, its_epoch from filmroom.node_join(%s, %s, %s, %s, %s, %s)",
            [self._archive, name, address, software, float(term_s), slot],
        )
        return int(rows[0][0]), int(rows[0][1])

    def rejoin(self, slot: int, name: str, address: str, term_s: float, *, software: str = "") -> tuple[int, int]:
        """The node of a slot after a restart; returns its new epoch and the last number of its chain. Raises Fenced if
        it was taken over: it needs a new slot. ClusterError if another machine runs this node; ClusterUnreachable;
        UnknownOutcome (rejoin again)."""
        rows = self._database.change(
            "select its_epoch, its_number from filmroom.node_rejoin(%s, %s, %s, %s, %s, %s)",
            [self._archive, slot, name, address, software, float(term_s)],
        )
        return int(rows[0][0]), int(rows[0][1])

    def heartbeat(
        self, slot: int, epoch: int, term_s: float, applied: Mapping[int, int], clock_offset_s: float | None = None
    ) -> SignOfLife:
        """Begins a new term of the node's lease. `clock_offset_s` is that of the last heartbeat, for the others to see.
        Raises Fenced if the node was taken over or has left; ClusterUnreachable; UnknownOutcome."""
        self._database.look_around()
        sent = time.time()
        sent_at = time.monotonic()
        rows = self._database.change(
            "select its_state, at from filmroom.node_heartbeat(%s, %s, %s, %s, %s, %s)",
            [self._archive, slot, epoch, float(term_s), orjson.dumps({str(k): v for k, v in applied.items()}).decode(),
             clock_offset_s],
        )  # fmt: skip
        half_s = (time.monotonic() - sent_at) / 2
        state, at = rows[0]
        return SignOfLife(state, sent + half_s - float(at), half_s)

    def drain(self, slot: int) -> None:
        """The node is to take nothing new; its next heartbeat tells it. Raises ClusterError, ClusterUnreachable,
        UnknownOutcome (again is nothing; so for the next four)."""
        self._change_state(slot, "draining")

    def resume(self, slot: int) -> None:
        """A node that was to be drained stays."""
        self._change_state(slot, "active")

    def leave(self, slot: int) -> None:
        """A drained node goes, after it has sealed its chain."""
        self._change_state(slot, "left")

    def remove(self, slot: int) -> None:
        """A node is forgotten, but for its slot: its lease must be over, and its chain sealed."""
        self._change_state(slot, "removed")

    def take_over(self, slot: int, by: int) -> tuple[int, int]:
        """Takes over what a node has begun whose lease is over; returns the new epoch and the last number of its chain.
        From now on nothing is accepted from it. The caller appends what it finds of the node's groups, and seals the
        chain. Raises ClusterError if it is alive, or another node is at it; ClusterUnreachable; UnknownOutcome (again:
        the epoch rises once more)."""
        rows = self._database.change(
            "select its_epoch, its_number from filmroom.node_take_over(%s, %s, %s)", [self._archive, slot, by]
        )
        return int(rows[0][0]), int(rows[0][1])

    def list(self, *, everything: bool = False) -> list[Node]:
        """The nodes by slot; `everything`: those that were removed too. Raises ClusterUnreachable."""
        rows = self._database.ask(
            "select n.slot, n.name, n.address, n.software, n.state, n.joined,"
            " extract(epoch from n.until - clock_timestamp())::float8, c.epoch, c.number, c.trimmed, c.is_sealed,"
            " n.taken_by, n.applied::text, n.clock_offset_s"
            " from filmroom.nodes n join filmroom.chains c using (archive, slot)"
            " where archive = %s and (%s or n.state <> 'removed') order by slot",
            [self._archive, everything],
        )
        return [_node(*row) for row in rows]

    def _change_state(self, slot: int, state: NodeState) -> None:
        self._database.change("select filmroom.node_state(%s, %s, %s)", [self._archive, slot, state])


def _node(*row: Any) -> Node:
    applied = {int(slot): number for slot, number in orjson.loads(row[12]).items()}
    return Node(*(*row[:12], applied, *row[13:]))


class Membership:
    """This process's own place among the nodes: its slot and epoch, and until when others will leave it alone.

    The term is counted here from before each heartbeat is sent, on the clock that never jumps: it is over here before
    it is over for the others. One thread beats; any may check.
    """

    def __init__(
        self, nodes: Nodes, slot: int, epoch: int, term_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Beats first when the caller says so; until then the term is over."""
        self.slot = slot
        self.epoch = epoch
        self._nodes = nodes
        self._term_s = term_s
        self._now = now
        self._until = -1.0
        self._lost: Fenced | None = None
        self.last: SignOfLife | None = None
        """What the last heartbeat said."""

    def beat(self, applied: Mapping[int, int]) -> SignOfLife:
        """One heartbeat. Raises as `Nodes.heartbeat`; after Fenced the membership has ended."""
        begun = self._now()
        try:
            sign = self._nodes.heartbeat(
                self.slot, self.epoch, self._term_s, applied, self.last.clock_offset_s if self.last else None
            )
        except Fenced as error:
            self._lost = error.without_frames()
            raise
        self.last = sign
        self._until = begun + self._term_s
        return sign

    @property
    def remaining_s(self) -> float:
        """Seconds until the term is over."""
        return self._until - self._now()

    def check(self) -> None:
        """Raises Fenced once the node was taken over, LeaseLost while its term is over. Asks nobody."""
        if self._lost is not None:
            raise Fenced(str(self._lost))
        if self.remaining_s <= 0:
            raise LeaseLost("this node has not reached PostgreSQL in the term of its lease: another may take over")
