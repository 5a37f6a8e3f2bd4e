"""NodeLog: the end of this node's chain in the cluster, and its sign of life. For the caretaker of a server.

    no epoch ──rejoin: a higher epoch, the last number──► has an epoch ──append─┐
       ▲                                                     │  ▲──────────────┘
       └── the outcome of an append is not known ────────────┘
    Fenced: another node has taken this slot over, or an administrator has removed the node: final

After an unknown outcome the same announcement comes again; if the first has arrived after all, the row is there twice,
which changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine import log
from engine.archive.nodes.announcement import GROUP, PUBLISHED, Announcement
from engine.cluster.nodes import Membership as Term
from engine.cluster.nodes import SignOfLife
from engine.cluster.settings import ClusterSettings
from engine.errors import UnknownOutcome, WrongNumber
from engine.storage.chain import Group

if TYPE_CHECKING:
    from engine.cluster.cluster import Cluster

logger = log.get("archive.node_log")


class NodeLog:
    """Thread-safe."""

    def __init__(self, slot: int, settings: ClusterSettings, cluster: Callable[[], Cluster]) -> None:
        """`cluster` opens what the nodes agree on, at the first use."""
        self.software = ""
        """The version of this node, for the others to see."""
        self._slot = slot
        self._settings = settings
        self._cluster = cluster
        self._lock = threading.Lock()
        self._term: Term | None = None
        self._number = 0

    def append(self, announcement: Announcement) -> None:
        """Adds a row. Raises Fenced, ClusterUnreachable."""
        heads = announcement.message()
        with self._lock:
            epoch = self._joined()
            group = Group(
                self._number + 1,
                announcement.name.segment_id,
                announcement.name.salt,
                announcement.start,
                announcement.end,
                announcement.kind == PUBLISHED,
            )
            count = len(announcement.heads) if announcement.kind == GROUP else 0
            try:
                self._cluster().chains.append(epoch, group, count, heads)
            except (UnknownOutcome, WrongNumber):
                self._term = None
                raise
            self._number = group.number

    def beat(self, applied: dict[int, int]) -> SignOfLife:
        """Says that this node lives, and how far it has applied the logs of the others.

        Raises Fenced, ClusterUnreachable, UnknownOutcome.
        """
        with self._lock:
            self._joined()
            term = self._term
        assert term is not None
        return term.beat(applied)

    @property
    def epoch(self) -> int | None:
        """The epoch of this node's chain; None while it is not known."""
        return None if self._term is None else self._term.epoch

    def _joined(self) -> int:
        if self._term is None:
            settings, slot = self._settings, self._slot
            nodes = self._cluster().nodes
            epoch, self._number = nodes.rejoin(
                slot, settings.node, settings.address, settings.lease_s, software=self.software
            )
            self._term = Term(nodes, slot, epoch, settings.lease_s)
            logger.info("this node writes its chain", slot=slot, epoch=epoch)
        return self._term.epoch
