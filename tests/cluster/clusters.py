"""Clusters on the shared PostgreSQL, and groups to put into their chains."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from engine.cluster.cluster import Cluster
from engine.storage.chain import Group
from engine.storage.segment_ids import segment_id_of
from tests.cluster.postgres import Postgres

TERM_S = 600.0
"""The term of a lease that a test does not wait for."""
OVER_S = -1.0
"""The term of a lease that is over at once."""


@pytest.fixture(scope="module")
def made(server: Postgres) -> str:
    """A database with tables for the tests of a module: each has an archive of its own in it."""
    name = f"made_{uuid.uuid4().hex[:12]}"
    server.execute(f"create database {name} template template0 strategy wal_log")
    cluster = Cluster(server.settings(name), bytes(16))
    assert cluster.init()
    cluster.close()
    return name


@pytest.fixture
def archive_id() -> bytes:
    """Of this test alone."""
    return uuid.uuid4().bytes


@pytest.fixture
def cluster(server: Postgres, made: str, archive_id: bytes) -> Iterator[Cluster]:
    with Cluster(server.settings(made), archive_id) as cluster:
        yield cluster


@contextmanager
def joined(server: Postgres, database: str, count: int = 1, **settings: Any) -> Iterator[list[Cluster]]:
    """`count` nodes, each with connections of its own; slots 1, 2, …"""
    archive_id = uuid.uuid4().bytes
    clusters = [Cluster(server.settings(database, **settings), archive_id) for _ in range(count)]
    try:
        clusters[0].init()
        for number, cluster in enumerate(clusters, 1):
            assert cluster.nodes.join(f"node-{number}", f"host-{number}:104", TERM_S) == (number, 1)
        yield clusters
    finally:
        for cluster in clusters:
            cluster.close()


def group(number: int, slot: int = 1, *, counter: int = 0, seals: bool = False) -> Group:
    """The group of a number, a hundred bytes long."""
    return Group(
        number, segment_id_of(slot, counter), 0xFFFF_0000_0000_0000 + slot, number * 100, number * 100 + 100, seals
    )


def append(cluster: Cluster, epoch: int, *groups: Group) -> None:
    for each in groups:
        cluster.chains.append(epoch, each, 1, heads(each.number))


def heads(number: int) -> bytes:
    """What a test puts beside a group: no text, and with every byte that a text could not have."""
    return b"\x00\xff%d" % number


def numbers() -> Iterator[int]:
    return itertools.count(1)
