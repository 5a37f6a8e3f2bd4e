"""Chain: the groups of one node's log, numbered 1, 2, 3, ... in the order in which they are told to other nodes.

A group is a range of one segment. Other nodes apply groups in this order (`archive.nodes.follower`), each once: a
number that is missing shows a gap, which the order of files or the end of a segment cannot. `cluster.chains` keeps
them.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.storage.segment_ids import slot_of


@dataclass(frozen=True, slots=True)
class Group:
    """Records that became durable together."""

    number: int
    segment_id: int
    salt: int
    start: int
    """The offset of its first record."""
    end: int
    """The end of its last record."""
    is_sealed: bool
    """Whether the segment ends with it."""

    @property
    def slot(self) -> int:
        """The slot of the node that wrote it."""
        return slot_of(self.segment_id)
