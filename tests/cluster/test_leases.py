"""One holder at a time, by PostgreSQL's clock; each grant has a higher epoch."""

from __future__ import annotations

import pytest

from engine.cluster.cluster import Cluster
from engine.errors import LeaseLost
from tests.cluster.clusters import OVER_S, TERM_S, archive_id, cluster, joined, made
from tests.cluster.postgres import Postgres, server

__all__ = ["archive_id", "cluster", "made", "server"]


def test_a_lease_has_one_holder_and_a_released_one_is_free(server: Postgres, made: str) -> None:
    with joined(server, made, 2) as (one, two):
        grant = one.leases.acquire("caretaker", TERM_S)
        assert grant is not None
        assert two.leases.acquire("caretaker", TERM_S) is None
        assert one.leases.acquire("caretaker", TERM_S) is None, "not twice to one holder either"
        assert two.leases.acquire("tierer", TERM_S) is not None
        one.leases.check(grant)
        one.leases.renew(grant, TERM_S)
        one.leases.release(grant)
        with pytest.raises(LeaseLost):
            one.leases.check(grant)
        later = two.leases.acquire("caretaker", TERM_S)
        assert later is not None and later.epoch > grant.epoch
        one.leases.release(grant)  # nothing: it is another's now
        two.leases.check(later)


def test_a_lease_whose_term_is_over_goes_to_the_next(server: Postgres, made: str) -> None:
    with joined(server, made, 2) as (one, two):
        grant = one.leases.acquire("scheduler", OVER_S)
        assert grant is not None
        with pytest.raises(LeaseLost):
            one.leases.check(grant)
        one.leases.renew(grant, TERM_S)  # nobody has taken it
        one.leases.check(grant)
        one.leases.renew(grant, OVER_S)
        later = two.leases.acquire("scheduler", TERM_S)
        assert later is not None and later.epoch > grant.epoch
        for call in (lambda: one.leases.check(grant), lambda: one.leases.renew(grant, TERM_S)):
            with pytest.raises(LeaseLost):
                call()


def test_a_lease_outlives_the_connection_of_its_holder(server: Postgres, made: str) -> None:
    """A holder that PostgreSQL cannot hear may still be at work."""
    with joined(server, made, 2) as (one, two):
        grant = one.leases.acquire("ledger", TERM_S)
        one.close()
        assert grant is not None
        assert two.leases.acquire("ledger", TERM_S) is None


def test_leases_of_two_archives_do_not_mix(server: Postgres, made: str, cluster: Cluster) -> None:
    with joined(server, made) as (other,):
        assert cluster.nodes.join("x", "", TERM_S)
        assert cluster.leases.acquire("caretaker", TERM_S) and other.leases.acquire("caretaker", TERM_S)
