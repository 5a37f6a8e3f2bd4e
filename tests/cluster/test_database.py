"""Which server is believed, and what is said of a change whose answer is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.cluster import driver
from engine.cluster.cluster import Cluster
from engine.cluster.database import Database
from engine.cluster.unsigned import signed
from engine.errors import ClusterError, ClusterUnreachable, UnknownOutcome, WrongNumber
from tests.cluster.clusters import TERM_S, append, archive_id, group, joined, made
from tests.cluster.postgres import Postgres, database, private, server

APPEND_TWO = (
    f"select filmroom.chain_append(%s, 1, 1, 2, {group(2).segment_id}, {signed(group(2).salt)}, 200, 300, false, 1, '')"
)
"""`group(2)`, as `Chains` appends it, but asks nobody about a lost answer."""

__all__ = ["archive_id", "database", "made", "server"]


def test_the_server_says_what_it_may_lose(server: Postgres, made: str) -> None:
    found = Database(server.settings(made)).look()
    assert found.warnings == [f"PostgreSQL at {server.folder} has fsync off"]


def test_our_sessions_wait_for_the_disk_also_where_the_server_does_not(server: Postgres, database: str) -> None:
    server.execute(f"alter database {database} set synchronous_commit = off")
    opened = Database(server.settings(database))
    assert opened.ask("show synchronous_commit") == [("on",)]
    assert any("synchronous_commit off" in each for each in opened.look().warnings)
    opened.close()


def test_a_database_without_tables_says_what_to_do(server: Postgres, database: str) -> None:
    with Cluster(server.settings(database), bytes(16)) as cluster:
        for call in (cluster.check, cluster.chains.positions):
            with pytest.raises(ClusterError, match="filmroom cluster init"):
                call()
        assert cluster.init()
        cluster.check()
        assert not cluster.init()


def test_two_nodes_may_make_the_tables_at_once(server: Postgres, database: str) -> None:
    clusters = [Cluster(server.settings(database), bytes(16)) for _ in range(3)]
    made: list[bool] = []
    threads = [threading.Thread(target=lambda each=each: made.append(each.init())) for each in clusters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, True]
    for each in clusters:
        each.close()


def test_tables_of_a_newer_version_are_left_alone(server: Postgres, database: str) -> None:
    with Cluster(server.settings(database), bytes(16)) as cluster:
        cluster.init()
        server.execute("update filmroom.version set number = 9", database)
        cluster.check()  # whose makers say that this software can still use them
        server.execute("update filmroom.version set oldest_reader = 9", database)
        for call in (cluster.check, cluster.init):
            with pytest.raises(ClusterError, match="version 9; this software knows versions to 1"):
                call()


def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path, server: Postgres) -> None:
    for words in (f"host={tmp_path}", "host=127.0.0.1 port=1", f"host={tmp_path},127.0.0.1 port=1"):
        settings = server.settings("x", database=words)
        with pytest.raises(ClusterUnreachable, match=r"PostgreSQL at .* does not let us in"):
            Database(settings).ask("select 1")


def test_after_close_nothing_connects_again(server: Postgres, made: str) -> None:
    opened = Database(server.settings(made))
    assert opened.ask("select 1") == [(1,)]
    opened.close()
    with pytest.raises(ClusterUnreachable):
        opened.ask("select 1")


def test_each_thread_has_a_connection_of_its_own(server: Postgres, made: str) -> None:
    opened = Database(server.settings(made))
    pids = {opened.ask("select pg_backend_pid()")[0][0] for _ in range(3)}
    thread = threading.Thread(target=lambda: pids.add(opened.ask("select pg_backend_pid()")[0][0]))
    thread.start()
    thread.join()
    assert len(pids) == 2
    opened.close()


def test_a_statement_that_is_too_slow_has_changed_nothing(
    server: Postgres, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends it first, and says so: the outcome is known."""
    monkeypatch.setattr(driver, "_SERVER_PART", 0.005)
    opened = Database(server.settings(made))
    with pytest.raises(ClusterUnreachable, match="57014"):
        opened.change("select pg_sleep(60)")
    assert opened.ask("select 1") == [(1,)]
    opened.close()


def test_an_idle_connection_that_the_server_has_ended_is_made_anew(server: Postgres, made: str) -> None:
    opened = Database(server.settings(made))
    (pid,) = opened.ask("select pg_backend_pid()")[0]
    server.execute(f"select pg_terminate_backend({pid}, 60000)")
    assert opened.ask("select pg_backend_pid()") != [(pid,)]
    opened.close()


def test_a_connection_that_ends_in_an_append_is_settled(server: Postgres, made: str) -> None:
    """Both ways: ended before anything came, and while the statement waits for a lock."""
    with joined(server, made) as (one,):
        append(one, 1, group(1))
        (pid,) = one.database.ask("select pg_backend_pid()")[0]
        server.execute(f"select pg_terminate_backend({pid}, 60000)")
        append(one, 1, group(2))
        assert one.chains.positions() == {1: 2}
        with pytest.raises(UnknownOutcome):
            one.database.change("select pg_terminate_backend(pg_backend_pid())")
        append(one, 1, group(3))
        assert [each.group.number for each in one.chains.after(1, 0)] == [1, 2, 3]


def test_an_append_that_waits_behind_a_lost_one_is_not_counted_twice(server: Postgres, made: str) -> None:
    """The first statement holds the chain in a transaction that nobody ends; its sender has given up. What comes after
    waits, gives up too, and finds the number taken once the first is done after all."""
    import psycopg

    with joined(server, made) as (one,):
        one.database.ask("set statement_timeout = 500")
        values = [one.archive_id.hex()]
        with psycopg.connect(server.words(made)) as lost:
            lost.execute("select filmroom.chain_append(%s, 1, 1, 1, 7, 7, 0, 9, false, 1, '')", values)
            with pytest.raises(ClusterUnreachable):
                append(one, 1, group(1))
            lost.commit()
        with pytest.raises(WrongNumber):
            append(one, 1, group(1))
        assert one.chains.positions() == {1: 1}


@contextmanager
def without_its_standby(postgres: Postgres) -> Iterator[None]:
    """No commit is acknowledged: each waits for a standby that is not there."""
    postgres.execute("alter system set synchronous_standby_names = 'nobody'")
    postgres.execute("select pg_reload_conf()")
    while postgres.execute("show synchronous_standby_names") != [("nobody",)]:
        pass
    yield
    postgres.execute("alter system reset synchronous_standby_names")
    postgres.execute("select pg_reload_conf()")


def waiting_sessions(postgres: Postgres) -> list[int]:
    """Those that wait for a standby at commit; waits for the first."""
    while True:
        rows = postgres.execute("select pid from pg_stat_activity where wait_event = 'SyncRep'")
        if rows:
            return [pid for (pid,) in rows]


def test_the_wait_for_a_standby_ends_by_our_limit_and_what_was_committed_counts_once(server: Postgres) -> None:
    """The server's own limit, which is shorter, does not end this wait."""
    with private(server) as postgres, joined(postgres, "postgres") as (one,):
        append(one, 1, group(1))
        with without_its_standby(postgres):
            one.database.ask("set statement_timeout = 100")
            one.database._session().connection.limit_s = 1.0
            with pytest.raises(UnknownOutcome, match="no answer in 1 s"):
                one.database.change(APPEND_TWO, [one.archive_id.hex()])
            waiting_sessions(postgres)
            assert one.chains.positions() == {1: 1}, "nobody sees what waits"
        while not one.chains.has(group(2)):
            pass
        append(one, 1, group(3))
        assert [each.group for each in one.chains.after(1, 0)] == [group(1), group(2), group(3)]


def test_a_wait_for_a_standby_that_somebody_cancels_is_no_success(server: Postgres) -> None:
    with private(server) as postgres, joined(postgres, "postgres") as (one,):
        append(one, 1, group(1))
        outcomes: list[str] = []

        def change() -> None:
            try:
                outcomes.append(str(one.database.change(APPEND_TWO, [one.archive_id.hex()])))
            except UnknownOutcome as error:
                outcomes.append(error.for_log)

        with without_its_standby(postgres):
            thread = threading.Thread(target=change)
            thread.start()
            for pid in waiting_sessions(postgres):
                postgres.execute(f"select pg_cancel_backend({pid})")
            thread.join()
        assert "has not waited for its standby" in outcomes[0]
        assert one.chains.has(group(2)), "it is committed here, and a fail-over may lose it"


def test_a_frozen_server_is_given_up_and_its_late_append_counts_once(server: Postgres) -> None:
    with private(server) as postgres, joined(postgres, "postgres") as (one,):
        append(one, 1, group(1))
        one.database.timeout_s = 0.3
        one.database._session().connection.limit_s = 0.3
        postgres.signal_all(signal.SIGSTOP)
        with pytest.raises(UnknownOutcome):
            append(one, 1, group(2))
        with pytest.raises(ClusterUnreachable):
            one.chains.positions()
        postgres.signal_all(signal.SIGCONT)
        one.database.timeout_s = 60.0
        if not one.chains.has(group(2)):
            append(one, 1, group(2))
        append(one, 1, group(3))
        assert [each.group for each in one.chains.after(1, 0)] == [group(1), group(2), group(3)]


def test_what_was_appended_is_there_after_the_server_was_killed(server: Postgres) -> None:
    with private(server, "-c", "fsync=on") as postgres, joined(postgres, "postgres") as (one,):
        append(one, 1, group(1), group(2))
        postgres.kill()
        with pytest.raises(UnknownOutcome):
            append(one, 1, group(3))
        with pytest.raises(ClusterUnreachable):
            one.chains.positions()
        (postgres.folder / "data/postmaster.pid").unlink()
        postgres.start("-c", "fsync=on")
        assert one.chains.positions() == {1: 2}
        append(one, 1, group(3))
        assert [each.group.number for each in one.chains.after(1, 0)] == [1, 2, 3]


def test_a_primary_that_was_replaced_and_a_standby_are_not_believed(server: Postgres, tmp_path: Path) -> None:
    """Three servers of one cluster: a standby, a primary, and the one that was promoted in its place."""
    with private(server) as old:
        with Cluster(old.settings("postgres"), bytes(16)) as cluster:
            cluster.init()
            cluster.nodes.join("a", "", TERM_S)
        old.stop()
        with private(server, of=old.folder / "data") as new:
            new.stop()
            (new.folder / "data/standby.signal").touch()
            new.start()
            with pytest.raises(ClusterUnreachable, match="is a standby"):
                Database(new.settings("postgres")).ask("select 1")
            old.start()
            words = f"host={new.folder},{old.folder} user=filmroom dbname=postgres"
            both = Cluster(old.settings("postgres", database=words), bytes(16))
            assert both.chains.positions() == {1: 0}, "the standby is passed over"
            assert [each.is_in_recovery for each in both.database.servers()] == [True, False]  # type: ignore[union-attr]
            sticking = Cluster(old.settings("postgres"), bytes(16))
            assert sticking.chains.positions() == {1: 0}

            new.execute("select pg_promote(true, 60)")
            # The old primary lives and answers; who has not looked yet would go on with it.
            both.nodes.heartbeat(1, 1, TERM_S, {})
            append(both, 1, group(1))
            assert both.chains.positions() == {1: 1}
            assert new.execute("select number from filmroom.chains") == [(1,)]
            assert old.execute("select number from filmroom.chains") == [(0,)]
            assert sticking.chains.positions() == {1: 0}, "the control: one host only, so nobody tells it"
            new.stop()
            with pytest.raises(ClusterUnreachable, match="was replaced as primary"):
                both.chains.positions()
            both.close()
            sticking.close()


def test_another_cluster_of_postgresql_is_not_taken_for_ours(server: Postgres, made: str) -> None:
    opened = Database(server.settings(made))
    opened.ask("select 1")
    opened._system_identifier += 1
    with pytest.raises(ClusterUnreachable, match="another cluster of PostgreSQL"):
        opened.look()
    opened.close()


def test_a_pooler_is_refused(server: Postgres, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has process ids of its own."""
    connect = driver.connect

    class Pooled:
        def __init__(self, connection: driver.Connection) -> None:
            self._connection = connection
            self.info = type("Information", (), {"backend_pid": 1})()

        def __getattr__(self, name: str) -> object:
            return getattr(self._connection, name)

    monkeypatch.setattr(driver, "connect", lambda *words: Pooled(connect(*words)))
    with pytest.raises(ClusterUnreachable, match="pooler"):
        Database(server.settings(made)).ask("select 1")
