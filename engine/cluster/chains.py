"""Chains: the groups of each node's log, numbered without gaps (`storage.chain`), where all nodes see them.

    slot 1   1 ─ 2 ─ 3 ─ … ─ 812          one row of `chains` a slot: epoch and last number; the barrier
    slot 2   1 ─ 2 ─ … ─ 640 (sealed)     one row of `feed` a group, with the heads of its records

A group is appended in one call, which refuses an old epoch (Fenced) and a number that does not follow (WrongNumber).
So of two writers of one chain one wins, and what a follower reads is dense and in order: a chain has no number before
the one below it is committed, which a sequence of the database cannot promise.

A lost answer is settled by asking: the number is in the chain with this group, or it is not. Then it may be appended
again, also while the lost statement is still under way: only one of both takes the number.

PostgreSQL may lose what it has acknowledged when a standby that lagged is promoted. Positions then go back. Nobody is
told to be up to date meanwhile: `positions` refuses until the chain has come back, appended again by its own node.
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass

from engine import log
from engine.cluster import wake
from engine.cluster.database import Database
from engine.cluster.unsigned import signed, unsigned
from engine.errors import ChainTrimmed, ClusterError, ClusterUnreachable, UnknownOutcome, WrongNumber
from engine.storage.chain import Group

logger = log.get("cluster.chains")

GROUPS_READ = 256
"""Groups read at once."""
READ_BYTES = 16 << 20
"""Bytes of heads read at once: about 20 000 records."""


@dataclass(frozen=True, slots=True)
class AnnouncedGroup:
    """A group with what the index takes from its records."""

    group: Group
    record_count: int
    heads: bytes


class Chains:
    """The chains of an archive. Thread-safe."""

    def __init__(self, database: Database, archive: uuid.UUID) -> None:
        self._database = database
        self._archive = archive
        self._lock = threading.Lock()
        self._seen: dict[int, int] = {}
        """The highest number of each slot that was read or written here."""

    def append(self, epoch: int, group: Group, record_count: int, heads: bytes) -> None:
        """Appends a group to the chain of its slot; again after a lost answer, if it is not there.

        Raises Fenced, WrongNumber, ClusterUnreachable (nothing was appended) or UnknownOutcome (ask `has` later).
        """
        try:
            self._append(epoch, group, record_count, heads)
        except UnknownOutcome as error:
            self._settle(epoch, group, record_count, heads, error)
        self._note(group.slot, group.number)
        self._wake(group.slot)

    def has(self, group: Group) -> bool:
        """Whether the chain has this group. Raises ClusterUnreachable; WrongNumber if another group has its number."""
        rows = self._database.ask(
            "select c.number, c.trimmed, f.segment, f.salt, f.start_offset, f.end_offset, f.is_sealed"
            " from filmroom.chains c left join filmroom.feed f"
            " on f.archive = c.archive and f.slot = c.slot and f.number = %s"
            " where c.archive = %s and c.slot = %s",
            [group.number, self._archive, group.slot],
        )
        if not rows or rows[0][0] < group.number:
            return False
        last, trimmed, *row = rows[0]
        if group.number <= trimmed or _group(group.number, *row) == group:
            return True
        raise WrongNumber(f"number {group.number} of slot {group.slot} is another group's", last)

    def positions(self) -> dict[int, int]:
        """The number of the last group of each slot: the barrier. Raises ClusterUnreachable, also when a chain is
        shorter than it was."""
        with self._lock:
            seen = dict(self._seen)
        rows = self._database.ask("select slot, number from filmroom.chains where archive = %s", [self._archive])
        positions: dict[int, int] = dict(rows)
        for slot, number in seen.items():
            if positions.get(slot, 0) < number:
                raise ClusterUnreachable(
                    f"PostgreSQL has lost groups: the chain of slot {slot} was at {number} and is at "
                    f"{positions.get(slot, 0)}"
                )
        for slot, number in positions.items():
            if seen.get(slot, 0) < number:
                self._note(slot, number)
        return positions

    def after(self, slot: int, number: int, limit: int = GROUPS_READ) -> list[AnnouncedGroup]:
        """The next groups behind a number, in order and without a gap: at most `limit`, and READ_BYTES of heads
        unless one group has more. Raises ChainTrimmed if they are gone, ClusterUnreachable."""
        rows = self._database.ask(
            "select number, segment, salt, start_offset, end_offset, is_sealed, record_count, heads from ("
            " select f.*, sum(length(heads)) over (order by number) - length(heads) as bytes_before from ("
            "  select * from filmroom.feed where archive = %s and slot = %s and number > %s order by number limit %s"
            " ) f) g where bytes_before < %s order by number",
            [self._archive, slot, number, limit, READ_BYTES],
        )
        numbers = [row[0] for row in rows]
        if numbers[:1] != [number + 1]:
            self._refuse_trimmed(slot, number)
        if numbers != list(range(number + 1, number + 1 + len(rows))):
            raise ClusterError(f"the feed of slot {slot} has a gap behind number {number}")
        return [AnnouncedGroup(_group(*row[:6]), row[6], row[7]) for row in rows]

    def seal(self, slot: int, epoch: int) -> int:
        """Ends a chain for ever; returns its last number. Again is nothing. Raises Fenced, ClusterUnreachable,
        UnknownOutcome (seal again)."""
        rows = self._database.change("select filmroom.chain_seal(%s, %s, %s)", [self._archive, slot, epoch])
        self._wake(slot)
        return int(rows[0][0])

    def trim(self, slot: int, limit: int = GROUPS_READ) -> int:
        """Forgets at most `limit` groups that all nodes have applied, of segments that are all sealed; returns the
        number of the last that is gone. Nodes that are lost do not count: they come back with a new slot. Raises
        ClusterUnreachable, UnknownOutcome (trim again)."""
        rows = self._database.change("select filmroom.chain_trim(%s, %s, %s)", [self._archive, slot, limit])
        return int(rows[0][0])

    def _append(self, epoch: int, group: Group, record_count: int, heads: bytes) -> None:
        self._database.change(
            "select filmroom.chain_append(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %b)",
            [self._archive, group.slot, epoch, group.number, signed(group.segment_id), signed(group.salt),
             group.start, group.end, group.is_sealed, record_count, heads],
        )  # fmt: skip

    def _settle(self, epoch: int, group: Group, record_count: int, heads: bytes, doubt: UnknownOutcome) -> None:
        """After a lost answer: asks, and appends once more what is not there."""
        try:
            if self.has(group):
                return
            self._append(epoch, group, record_count, heads)
        except WrongNumber:
            # The lost statement may have been done between the question and the second attempt.
            if not self.has(group):
                raise
        except (ClusterUnreachable, UnknownOutcome):
            raise doubt from None

    def _wake(self, slot: int) -> None:
        """Tells those who listen. Not in the transaction of the append: one that notifies keeps all others that do from
        committing, until the disk and the standbys have it, and nodes would wait for each other's disks."""
        try:
            self._database.ask(
                "select set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)",
                [wake.channel(self._archive), str(slot)],
            )
        except ClusterUnreachable as error:
            logger.debug("nobody was told of a new group", reason=error.for_log)

    def _refuse_trimmed(self, slot: int, number: int) -> None:
        rows = self._database.ask(
            "select trimmed from filmroom.chains where archive = %s and slot = %s", [self._archive, slot]
        )
        if rows and rows[0][0] > number:
            raise ChainTrimmed(f"groups to {rows[0][0]} of slot {slot} are no longer in PostgreSQL", rows[0][0])

    def _note(self, slot: int, number: int) -> None:
        with self._lock:
            self._seen[slot] = max(number, self._seen.get(slot, 0))


def _group(number: int, segment: int, salt: int, start: int, end: int, is_sealed: bool) -> Group:
    return Group(number, unsigned(segment), unsigned(salt), start, end, is_sealed)
