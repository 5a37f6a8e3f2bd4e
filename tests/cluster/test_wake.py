"""A follower hears of a group at once, and loses nothing when it does not."""

from __future__ import annotations

import threading

import pytest

from engine.errors import ClusterUnreachable
from tests.cluster.clusters import append, archive_id, cluster, group, joined, made
from tests.cluster.postgres import Postgres, server

__all__ = ["archive_id", "cluster", "made", "server"]


def test_a_listener_hears_of_the_chains_of_its_archive(server: Postgres, made: str) -> None:
    with joined(server, made, 2) as (one, two), joined(server, made) as (other,):
        wake = two.wake()
        assert wake.wait(60) == set(), "it has begun to listen: read the chains"
        append(other, 1, group(1))
        append(one, 1, group(1))
        append(two, 1, group(1, slot=2))
        heard: set[int] = set()
        while heard != {1, 2}:
            found = wake.wait(60)
            assert found
            heard |= found
        assert wake.wait(0) == set()
        one.chains.seal(1, 1)
        assert wake.wait(60) == {1}
        wake.close()


def test_a_listener_waits(server: Postgres, made: str) -> None:
    with joined(server, made, 2) as (one, two):
        wake = two.wake()
        wake.wait(0)
        heard: list[set[int]] = []
        thread = threading.Thread(target=lambda: heard.append(wake.wait(60)))
        thread.start()
        append(one, 1, group(1))
        thread.join(60)
        assert heard == [{1}]
        wake.close()


def test_a_listener_whose_connection_ends_says_so_and_listens_again(server: Postgres, made: str) -> None:
    with joined(server, made) as (one,):
        wake = one.wake()
        wake.wait(0)
        server.execute(
            "select pg_terminate_backend(pid, 60000) from pg_stat_activity"
            f" where datname = '{made}' and query like 'listen%{one.archive_id.hex()}%'"
        )
        with pytest.raises(ClusterUnreachable):
            wake.wait(60)
        assert wake.wait(60) == set()
        append(one, 1, group(1))
        assert wake.wait(60) == {1}
        wake.close()
        one.close()
        with pytest.raises(ClusterUnreachable):
            wake.wait(1)
