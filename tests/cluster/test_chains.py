"""Chains are dense and in order for followers; of two writers one wins; a lost answer is settled by asking."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from engine.cluster.cluster import Cluster
from engine.errors import ChainTrimmed, ClusterError, ClusterUnreachable, Fenced, UnknownOutcome, WrongNumber
from engine.storage.chain import Group
from engine.storage.segment_ids import SLOT_MAX, segment_id_of
from tests.cluster.clusters import TERM_S, append, archive_id, cluster, group, heads, joined, made
from tests.cluster.postgres import Postgres, server

__all__ = ["archive_id", "cluster", "made", "server"]


def test_a_chain_gives_back_what_was_appended(cluster: Cluster) -> None:
    slot, epoch = cluster.nodes.join("one", "", TERM_S)
    groups = [group(1), group(2), group(3, seals=True)]
    append(cluster, epoch, *groups)
    found = cluster.chains.after(slot, 0)
    assert [each.group for each in found] == groups
    assert [each.heads for each in found] == [heads(1), heads(2), heads(3)]
    assert [each.group.number for each in cluster.chains.after(slot, 1, limit=1)] == [2]
    assert cluster.chains.after(slot, 3) == []
    assert cluster.chains.positions() == {slot: 3}


def test_segment_ids_and_salts_keep_all_their_bits(cluster: Cluster) -> None:
    slot, epoch = cluster.nodes.join("last", "", TERM_S, slot=SLOT_MAX)
    last = Group(1, segment_id_of(slot, (1 << 48) - 1), (1 << 64) - 1, 0, (1 << 62), True)
    cluster.chains.append(epoch, last, 1, b"")
    assert cluster.chains.after(slot, 0)[0].group == last
    assert cluster.chains.has(last)


def test_two_archives_in_one_database_do_not_mix(server: Postgres, made: str) -> None:
    with joined(server, made) as (one,), joined(server, made) as (other,):
        append(one, 1, group(1), group(2))
        append(other, 1, group(1, counter=9))
        assert (one.chains.positions(), other.chains.positions()) == ({1: 2}, {1: 1})
        assert [each.group for each in other.chains.after(1, 0)] == [group(1, counter=9)]
        assert [node.name for node in other.nodes.list()] == ["node-1"]


def test_a_number_that_does_not_follow_is_refused(cluster: Cluster) -> None:
    _, epoch = cluster.nodes.join("one", "", TERM_S)
    append(cluster, epoch, group(1))
    for number in (1, 3, 0):
        with pytest.raises(WrongNumber) as refused:
            cluster.chains.append(epoch, group(number), 1, b"")
        assert refused.value.last == 1
    assert len(cluster.chains.after(1, 0)) == 1


def test_an_old_epoch_is_refused_and_so_is_one_that_was_never_given(cluster: Cluster) -> None:
    slot, epoch = cluster.nodes.join("one", "", TERM_S)
    append(cluster, epoch, group(1))
    newer, last = cluster.nodes.rejoin(slot, "one", "", TERM_S)
    assert (newer, last) == (epoch + 1, 1)
    for wrong in (epoch, newer + 1):
        with pytest.raises(Fenced):
            cluster.chains.append(wrong, group(2), 1, b"")
    append(cluster, newer, group(2))
    with pytest.raises(ClusterError, match="no node of slot 7"):
        cluster.chains.append(1, group(1, slot=7), 1, b"")


def test_a_sealed_chain_takes_nothing_more(cluster: Cluster) -> None:
    slot, epoch = cluster.nodes.join("one", "", TERM_S)
    append(cluster, epoch, group(1))
    assert cluster.chains.seal(slot, epoch) == cluster.chains.seal(slot, epoch) == 1
    with pytest.raises(Fenced, match="sealed"):
        cluster.chains.append(epoch, group(2), 1, b"")
    with pytest.raises(Fenced):
        cluster.chains.seal(slot, epoch - 1)


def test_a_follower_that_comes_too_late_is_told(server: Postgres, made: str) -> None:
    with joined(server, made, 2) as (one, two):
        append(one, 1, group(1), group(2, seals=True), group(3, counter=1), group(4, counter=2, seals=True))
        assert one.chains.trim(1) == 0, "the other node has applied nothing"
        two.nodes.heartbeat(2, 1, TERM_S, {1: 4})
        assert one.chains.trim(1, limit=1) == 1
        assert one.chains.trim(1) == 2, "the segment of group 3 still grows"
        assert one.chains.trim(1) == 2
        assert [each.group.number for each in two.chains.after(1, 2)] == [3, 4]
        for number in (0, 1):
            with pytest.raises(ChainTrimmed) as refused:
                two.chains.after(1, number)
            assert refused.value.trimmed == 2
        append(one, 1, group(5, counter=1, seals=True))
        assert one.chains.trim(1) == 4, "group 5 is not applied yet"
        assert one.chains.has(group(2, seals=True))
        with pytest.raises(ChainTrimmed):
            two.chains.after(1, 3)
        two.nodes.heartbeat(2, 1, TERM_S, {1: 5})
        assert one.chains.trim(1) == 5
        with pytest.raises(ChainTrimmed):
            two.chains.after(1, 4)
        assert two.chains.after(1, 5) == []


def test_a_long_feed_comes_in_parts_that_fit_into_memory(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    slot, epoch = cluster.nodes.join("one", "", TERM_S)
    monkeypatch.setattr("engine.cluster.chains.READ_BYTES", 1000)
    for number in range(1, 6):
        cluster.chains.append(epoch, group(number), 1, bytes(600))
    assert [each.group.number for each in cluster.chains.after(slot, 0)] == [1, 2]
    assert [each.group.number for each in cluster.chains.after(slot, 2)] == [3, 4]
    assert [each.group.number for each in cluster.chains.after(slot, 4)] == [5]


def test_positions_that_go_back_are_not_believed(server: Postgres, made: str) -> None:
    """A fail-over to a standby that lagged: nobody is up to date until the node has appended its groups again."""
    with joined(server, made, 2) as (one, two):
        append(one, 1, group(1), group(2))
        assert two.chains.positions() == {1: 2, 2: 0}
        lost = f"archive = '{one.archive_id.hex()}' and number = 2"
        server.execute(f"delete from filmroom.feed where {lost}", made)
        server.execute(f"update filmroom.chains set number = 1 where {lost}", made)
        for each in (one, two):
            with pytest.raises(ClusterUnreachable, match="the chain of slot 1 was at 2 and is at 1"):
                each.chains.positions()
        append(one, 1, group(2))
        assert two.chains.positions() == {1: 2, 2: 0}


def lost_answers(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, *, is_done: Sequence[bool]) -> list[str]:
    """The next changes lose their answers: after, or before, they were made. Returns the statements that came."""
    database, change = cluster.database, cluster.database.change
    outcomes, came = iter(is_done), []

    def lossy(statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        came.append(statement)
        outcome = next(outcomes, None)
        rows = change(statement, values) if outcome is not False else []
        if outcome is None:
            return rows
        raise UnknownOutcome("the connection ended")

    monkeypatch.setattr(database, "change", lossy)
    return came


@pytest.mark.parametrize(("is_done", "attempts"), [([True], 1), ([False], 2)])
def test_a_lost_answer_is_settled_by_asking(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, is_done: list[bool], attempts: int
) -> None:
    slot, epoch = cluster.nodes.join("one", "", TERM_S)
    append(cluster, epoch, group(1))
    came = lost_answers(cluster, monkeypatch, is_done=is_done)
    append(cluster, epoch, group(2))
    assert len(came) == attempts
    append(cluster, epoch, group(3))
    assert [each.group for each in cluster.chains.after(slot, 0)] == [group(1), group(2), group(3)]


def test_two_lost_answers_are_for_the_caller_to_settle(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    _, epoch = cluster.nodes.join("one", "", TERM_S)
    lost_answers(cluster, monkeypatch, is_done=[False, True])
    with pytest.raises(UnknownOutcome):
        append(cluster, epoch, group(1))
    assert cluster.chains.has(group(1))
    assert not cluster.chains.has(group(2))


def test_the_lost_statement_that_is_done_after_all_counts_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was still under way when the chain was asked: the second attempt finds the number taken, by our own group."""
    slot, epoch = cluster.nodes.join("one", "", TERM_S)
    lost_answers(cluster, monkeypatch, is_done=[True])
    answers = iter([False])
    has = cluster.chains.has
    monkeypatch.setattr(cluster.chains, "has", lambda group: next(answers, None) is not False and has(group))
    append(cluster, epoch, group(1))
    assert [each.group for each in cluster.chains.after(slot, 0)] == [group(1)]


def test_a_number_that_another_group_has_taken_is_not_taken_for_ours(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, epoch = cluster.nodes.join("one", "", TERM_S)
    append(cluster, epoch, group(1, counter=5))
    with pytest.raises(WrongNumber):
        cluster.chains.has(group(1))
    lost_answers(cluster, monkeypatch, is_done=[False])
    with pytest.raises(WrongNumber):
        append(cluster, epoch, group(1))


def race(writers: Sequence[Cluster], epoch: int, rounds: int) -> list[int]:
    """Each number is appended by all writers at once. How many succeeded, by number."""
    wins = [0] * rounds
    barrier = threading.Barrier(len(writers))

    def write(place: int, writer: Cluster) -> None:
        for number in range(1, rounds + 1):
            barrier.wait(60)
            try:
                append(writer, epoch, group(number, counter=place))
            except WrongNumber:
                continue
            wins[number - 1] += 1

    threads = [threading.Thread(target=write, args=each) for each in enumerate(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wins


def test_of_two_writers_of_one_chain_exactly_one_wins_each_number(server: Postgres, made: str) -> None:
    with joined(server, made) as (one,):
        other = Cluster(server.settings(made), one.archive_id)
        try:
            assert race([one, other], 1, 20) == [1] * 20
            assert [each.group.number for each in one.chains.after(1, 0)] == list(range(1, 21))
        finally:
            other.close()


WITHOUT_NUMBERS = """
    create or replace function filmroom.chain_append(
        a uuid, s int, e bigint, n bigint, segment bigint, salt bigint, start_offset bigint, end_offset bigint,
        seals boolean, record_count int, heads bytea
    ) returns void language plpgsql as $$
    begin
        perform number from filmroom.chains where archive = a and slot = s and epoch = e;
        insert into filmroom.feed values (a, s, nextval('everybody'), segment, salt, start_offset, end_offset, seals,
            record_count, heads);
    end $$"""


def followed(server: Postgres, database: str, archive: str, seed: int) -> list[list[int]]:
    """Two appends of random length in open transactions, and a follower that reads between any two steps of theirs;
    returns what it read, in order. The statements are those of `Chains`, on connections that commit when told to."""
    import psycopg

    choose = random.Random(seed)
    append_one = "select filmroom.chain_append(%s, %s, 1, %s, %s, 0, 0, 0, false, 1, '')"
    read: dict[int, list[int]] = {1: [], 2: []}
    with psycopg.connect(server.words(database), autocommit=True) as follower:
        writers = {slot: psycopg.connect(server.words(database)) for slot in (1, 2)}
        written, waiting = dict.fromkeys(writers, 0), set[int]()
        try:
            for _ in range(40):
                slot = choose.choice([1, 2])
                step = choose.choice(["write", "commit", "read"])
                if step == "write" and slot not in waiting:
                    written[slot] += 1
                    writers[slot].execute(append_one, [archive, slot, written[slot], slot])
                    waiting.add(slot)
                elif step == "commit":
                    writers[slot].commit()
                    waiting.discard(slot)
                elif step == "read":
                    _read(follower, archive, read)
            for writer in writers.values():
                writer.commit()
            _read(follower, archive, read)
        finally:
            for writer in writers.values():
                writer.close()
    return [read[1], list(range(1, written[1] + 1)), read[2], list(range(1, written[2] + 1))]


def _read(follower: Any, archive: str, read: dict[int, list[int]]) -> None:
    for slot, so_far in read.items():
        rows = follower.execute(
            "select number from filmroom.feed where archive = %s and slot = %s and number > %s order by number",
            [archive, slot, so_far[-1] if so_far else 0],
        ).fetchall()
        so_far += [number for (number,) in rows]


@pytest.mark.parametrize("seed", range(6))
def test_every_follower_sees_each_chain_dense_and_in_order(server: Postgres, made: str, seed: int) -> None:
    with joined(server, made, 2) as (one, _):
        found = followed(server, made, one.archive_id.hex(), seed)
    assert found[0] == found[1] and found[2] == found[3]


def test_control_with_one_sequence_for_all_a_follower_misses_groups(server: Postgres) -> None:
    """Numbers that are given before they are committed: a reader passes one, and never sees it."""
    name = "control_of_chains"
    server.execute(f"create database {name} template template0 strategy wal_log")
    with joined(server, name, 2) as (one, _):
        server.execute("create sequence everybody", name)
        server.execute(WITHOUT_NUMBERS, name)
        # Both nodes write the chain of slot 1, as a feed with one sequence would be.
        import psycopg

        statement = "select filmroom.chain_append(%s, 1, 1, 0, %s, 0, 0, 0, false, 1, '')"
        with (
            psycopg.connect(server.words(name)) as first,
            psycopg.connect(server.words(name)) as second,
        ):
            first.execute(statement, [one.archive_id.hex(), 1])
            second.execute(statement, [one.archive_id.hex(), 2])
            second.commit()
            seen = max(row[0] for row in server.execute("select number from filmroom.feed", name))
            first.commit()
        missed = server.execute(f"select number from filmroom.feed where number < {seen}", name)
        assert missed == [(1,)], "the follower is at 2, and 1 came later"
