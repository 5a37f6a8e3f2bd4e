"""Sealed segments are noted once, go forward only, and an old epoch notes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.cluster.cluster import Cluster
from engine.cluster.segments import NotedSegment
from engine.errors import ClusterError, Fenced
from engine.storage.segment_ids import SLOT_MAX, segment_id_of
from tests.cluster.clusters import OVER_S, TERM_S, archive_id, cluster, made
from tests.cluster.postgres import server

__all__ = ["archive_id", "cluster", "made", "server"]


def noted(counter: int, slot: int = 1) -> NotedSegment:
    return NotedSegment(segment_id_of(slot, counter), (1 << 64) - 7, 1 << 30, 2000, 0xFFFF_FFFF, "sealed")


def test_segments_come_back_in_order(cluster: Cluster) -> None:
    slot, epoch = cluster.nodes.join("last", "", TERM_S, slot=SLOT_MAX)
    segments = [noted(counter, slot) for counter in (0, 1, (1 << 48) - 1)]
    for segment in reversed(segments):
        assert cluster.segments.note(slot, epoch, segment) == "sealed"
    assert cluster.segments.after(slot) == segments
    assert cluster.segments.after(slot, segments[0].segment_id, limit=1) == segments[1:2]
    assert cluster.segments.after(slot, segments[2].segment_id) == []


def test_a_state_only_goes_forward(cluster: Cluster) -> None:
    slot, epoch = cluster.nodes.join("one", "", TERM_S)
    segment = noted(0)
    states = [cluster.segments.note(slot, epoch, replace(segment, state=state))
              for state in ("sealed", "published", "sealed", "removed", "published")]  # fmt: skip
    assert states == ["sealed", "published", "published", "removed", "removed"]
    assert cluster.segments.after(slot) == [replace(segment, state="removed")]


def test_other_bytes_under_one_id_are_refused(cluster: Cluster) -> None:
    slot, epoch = cluster.nodes.join("one", "", TERM_S)
    cluster.segments.note(slot, epoch, noted(0))
    for other in (replace(noted(0), crc=1), replace(noted(0), size=1, state="removed")):
        with pytest.raises(ClusterError, match="segment 1000000000000 was noted with other bytes"):
            cluster.segments.note(slot, epoch, other)
    assert cluster.segments.after(slot) == [noted(0)]


def test_a_node_that_was_taken_over_notes_nothing_and_its_successor_does(cluster: Cluster) -> None:
    slot, epoch = cluster.nodes.join("one", "", OVER_S)
    taker, takers_epoch = cluster.nodes.join("two", "", TERM_S)
    cluster.nodes.take_over(slot, by=taker)
    with pytest.raises(Fenced):
        cluster.segments.note(slot, epoch, noted(0))
    assert cluster.segments.note(taker, takers_epoch, noted(0)) == "sealed"
    assert cluster.segments.after(slot) == [noted(0)]
