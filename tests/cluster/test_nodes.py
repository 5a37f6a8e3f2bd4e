"""Slots are given once; a lease tells whether a node lives; an epoch fences the one that was taken over."""

from __future__ import annotations

import pytest

from engine.cluster.cluster import Cluster
from engine.cluster.nodes import Membership, SignOfLife
from engine.errors import ClusterError, ClusterUnreachable, Fenced, LeaseLost
from engine.storage.segment_ids import SLOT_MAX
from tests.cluster.clusters import OVER_S, TERM_S, append, archive_id, cluster, group, joined, made
from tests.cluster.postgres import Postgres, server

__all__ = ["archive_id", "cluster", "made", "server"]


def states(cluster: Cluster) -> dict[int, str]:
    return {node.slot: node.state for node in cluster.nodes.list(everything=True)}


def test_each_node_gets_a_slot_that_nobody_had(cluster: Cluster) -> None:
    assert cluster.nodes.join("a", "", OVER_S) == (1, 1)
    assert cluster.nodes.join("b", "", TERM_S) == (2, 1)
    epoch, _ = cluster.nodes.take_over(1, by=2)
    cluster.chains.seal(1, epoch)
    cluster.nodes.remove(1)
    assert cluster.nodes.join("a", "", TERM_S) == (3, 1)
    assert [node.slot for node in cluster.nodes.list()] == [2, 3]


def test_an_archive_of_one_node_keeps_its_slot_once(cluster: Cluster) -> None:
    assert cluster.nodes.join("first", "", TERM_S, slot=0) == (0, 1)
    assert cluster.nodes.join("second", "", TERM_S) == (1, 1)
    with pytest.raises(ClusterError, match="slot 0 has been given"):
        cluster.nodes.join("third", "", TERM_S, slot=0)


def test_the_slots_of_other_logs_are_never_given(cluster: Cluster) -> None:
    cluster.nodes.join("last", "", TERM_S, slot=SLOT_MAX)
    with pytest.raises(ClusterError, match="as many nodes as it can have"):
        cluster.nodes.join("one too many", "", TERM_S)


def test_two_nodes_cannot_have_one_name(cluster: Cluster) -> None:
    cluster.nodes.join("a", "", TERM_S)
    with pytest.raises(ClusterError, match="there is a node a already, with slot 1"):
        cluster.nodes.join("a", "", TERM_S)


def test_a_node_that_starts_again_fences_its_last_process(cluster: Cluster) -> None:
    slot, old = cluster.nodes.join("a", "host:1", TERM_S)
    new, _ = cluster.nodes.rejoin(slot, "a", "host:1", TERM_S)
    with pytest.raises(Fenced):
        append(cluster, old, group(1))
    with pytest.raises(Fenced):
        cluster.nodes.heartbeat(slot, old, TERM_S, {})
    append(cluster, new, group(1))


def test_a_copy_of_a_node_on_another_machine_is_refused_while_it_lives(cluster: Cluster) -> None:
    slot, epoch = cluster.nodes.join("a", "host:1", TERM_S)
    with pytest.raises(ClusterError, match="runs at host:1"):
        cluster.nodes.rejoin(slot, "a", "clone:1", TERM_S)
    with pytest.raises(ClusterError, match="slot 1 is that of the node a"):
        cluster.nodes.rejoin(slot, "b", "host:1", TERM_S)
    cluster.nodes.heartbeat(slot, epoch, OVER_S, {})
    assert cluster.nodes.rejoin(slot, "a", "clone:1", TERM_S)[0] == epoch + 1


def test_a_node_is_taken_over_only_when_its_lease_is_over(cluster: Cluster) -> None:
    slot, epoch = cluster.nodes.join("a", "", TERM_S)
    taker, _ = cluster.nodes.join("b", "", TERM_S)
    append(cluster, epoch, group(1))
    with pytest.raises(ClusterError, match="the node a is alive"):
        cluster.nodes.take_over(slot, by=taker)
    cluster.nodes.heartbeat(slot, epoch, OVER_S, {})
    newer, last = cluster.nodes.take_over(slot, by=taker)
    assert (newer, last) == (epoch + 1, 1)
    with pytest.raises(Fenced):
        append(cluster, epoch, group(2))
    with pytest.raises(Fenced):
        cluster.nodes.heartbeat(slot, epoch, TERM_S, {})
    append(cluster, newer, group(2))  # what the dead node had, and PostgreSQL had not
    assert cluster.chains.seal(slot, newer) == 2
    with pytest.raises(Fenced, match="needs a new slot"):
        cluster.nodes.rejoin(slot, "a", "", TERM_S)
    assert states(cluster) == {slot: "lost", taker: "active"}


def test_of_two_nodes_that_take_over_one_does_it(cluster: Cluster) -> None:
    slot, _ = cluster.nodes.join("a", "", OVER_S)
    first, first_epoch = cluster.nodes.join("b", "", TERM_S)
    second, _ = cluster.nodes.join("c", "", TERM_S)
    begun, _ = cluster.nodes.take_over(slot, by=first)
    with pytest.raises(ClusterError, match=f"slot {first} takes over already"):
        cluster.nodes.take_over(slot, by=second)
    cluster.nodes.heartbeat(first, first_epoch, OVER_S, {})  # the taker dies too
    continued, _ = cluster.nodes.take_over(slot, by=second)
    with pytest.raises(Fenced):
        cluster.chains.seal(slot, begun)
    cluster.chains.seal(slot, continued)
    with pytest.raises(ClusterError, match="sealed already"):
        cluster.nodes.take_over(slot, by=second)


def test_a_node_leaves_in_order(cluster: Cluster) -> None:
    slot, epoch = cluster.nodes.join("a", "", TERM_S)
    cluster.nodes.drain(slot)
    assert cluster.nodes.heartbeat(slot, epoch, TERM_S, {}).state == "draining"
    cluster.nodes.resume(slot)
    assert cluster.nodes.heartbeat(slot, epoch, TERM_S, {}).state == "active"
    with pytest.raises(ClusterError, match="not sealed"):
        cluster.nodes.leave(slot)
    with pytest.raises(ClusterError, match="not sealed"):
        cluster.nodes.remove(slot)
    cluster.nodes.drain(slot)
    cluster.chains.seal(slot, epoch)
    with pytest.raises(ClusterError, match="alive: drain it first"):
        cluster.nodes.remove(slot)
    cluster.nodes.leave(slot)
    cluster.nodes.leave(slot)
    with pytest.raises(ClusterError, match="the node a is left"):
        cluster.nodes.drain(slot)
    with pytest.raises(Fenced):
        cluster.nodes.heartbeat(slot, epoch, TERM_S, {})
    cluster.nodes.remove(slot)
    assert states(cluster) == {slot: "removed"}
    with pytest.raises(ClusterError, match="no node of slot 9"):
        cluster.nodes.drain(9)


def test_the_others_see_what_a_node_has_applied_and_its_clock(server: Postgres, made: str) -> None:
    with joined(server, made, 3) as (one, two, _):
        append(one, 1, group(1), group(2))
        two.nodes.heartbeat(2, 1, TERM_S, {1: 1}, -3.25)
        nodes = one.nodes.list()
        assert [node.behind(nodes) for node in nodes] == [0, 1, 2]
        assert (nodes[1].applied, nodes[1].clock_offset_s) == ({1: 1}, -3.25)
        assert all(node.is_alive for node in nodes)


def test_a_clock_that_is_off_is_told_so(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    slot, epoch = cluster.nodes.join("a", "", TERM_S)
    import engine.cluster.nodes as module

    right = cluster.nodes.heartbeat(slot, epoch, TERM_S, {})
    assert not right.is_clock_wrong
    monkeypatch.setattr(module.time, "time", lambda now=module.time.time: now() + 3600)
    wrong = cluster.nodes.heartbeat(slot, epoch, TERM_S, {})
    assert wrong.is_clock_wrong and wrong.clock_offset_s > 3000
    assert not SignOfLife("active", 1.4, 0.5).is_clock_wrong, "a slow answer proves nothing"
    assert SignOfLife("active", -1.6, 0.5).is_clock_wrong


def test_a_member_knows_by_its_own_clock_when_its_term_is_over(cluster: Cluster) -> None:
    slot, epoch = cluster.nodes.join("a", "", TERM_S)
    now = [100.0]
    member = Membership(cluster.nodes, slot, epoch, 10.0, lambda: now[0])
    with pytest.raises(LeaseLost):
        member.check()
    member.beat({})
    now[0] += 9.9
    member.check()
    now[0] += 0.2
    with pytest.raises(LeaseLost):
        member.check()
    member.beat({})
    member.check()
    cluster.nodes.rejoin(slot, "a", "", TERM_S)
    with pytest.raises(Fenced):
        member.beat({})
    with pytest.raises(Fenced):
        member.check()


def test_a_member_that_does_not_reach_the_database_keeps_its_term(cluster: Cluster) -> None:
    slot, epoch = cluster.nodes.join("a", "", TERM_S)
    member = Membership(cluster.nodes, slot, epoch, 10.0)
    member.beat({})
    cluster.close()
    with pytest.raises(ClusterUnreachable):
        member.beat({})
    assert member.remaining_s < 10.0
