"""The caretaker's threads for the other nodes: neither an error nor a defect leaves a node blind for good."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.archive.archive import Archive
from engine.cluster.nodes import SignOfLife
from engine.config import Config
from engine.errors import ClusterUnreachable
from engine.server import cluster_job
from engine.server.cluster_job import ClusterJob

PATIENCE_S = 60.0


class Follower:
    """Fails in one way after another, then follows."""

    def __init__(self, failures: list[Exception]) -> None:
        self.failures = failures
        self.errors: dict[int, str] = {}
        self.behind: dict[int, int] = {}
        self.follows = threading.Event()

    def mend(self, feed: object) -> None:
        """Nothing is missing."""

    def step(self, feed: object) -> int:
        """One group, or the next failure."""
        if self.failures:
            raise self.failures.pop(0)
        self.follows.set()
        return 1


class Wake:
    """Tells of news at once."""

    def wait(self, seconds: float) -> None:
        threading.Event().wait(0.01)

    def close(self) -> None:
        pass


def archive_of(beats: list[Exception], has_beaten: threading.Event) -> Archive:
    """A node whose signs of life fail in these ways, then succeed."""

    def beat(applied: dict[int, int]) -> SignOfLife:
        if beats:
            raise beats.pop(0)
        has_beaten.set()
        return SignOfLife("active", 0.0, 0.0)

    membership: Any = SimpleNamespace(
        cluster=SimpleNamespace(wake=Wake, chains=None),
        log=SimpleNamespace(beat=beat, software=""),
        settings=SimpleNamespace(lease_s=0.3, node="a"),
        slot=0,
        close=lambda: None,
    )
    return cast("Archive", SimpleNamespace(membership=membership, applied_of_nodes=dict))


def test_the_threads_go_on_after_errors_and_after_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower([ClusterUnreachable("away"), OSError("a disk"), ValueError("a defect")])
    monkeypatch.setattr(cluster_job, "PAUSE_S", 0.01)
    monkeypatch.setattr(cluster_job, "DEFECT_PAUSE_S", 0.01)
    monkeypatch.setattr(cluster_job.Follower, "of", lambda archive: follower)
    stopping, has_beaten = threading.Event(), threading.Event()
    job = ClusterJob(archive_of([OSError("a socket")], has_beaten), Config(), stopping)
    try:
        assert follower.follows.wait(PATIENCE_S) and has_beaten.wait(PATIENCE_S)
        end = threading.Event()
        for _ in range(6000):
            if not job.stats()["error"]:
                break
            end.wait(0.01)
        assert job.stats()["error"] == "" and job.stats()["state"] == "active"
    finally:
        stopping.set()
        job.close()


def test_an_error_of_one_thread_stays_when_the_other_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower([ClusterUnreachable("the feed is away") for _ in range(100_000)])
    monkeypatch.setattr(cluster_job, "PAUSE_S", 0.01)
    monkeypatch.setattr(cluster_job.Follower, "of", lambda archive: follower)
    stopping, has_beaten = threading.Event(), threading.Event()
    job = ClusterJob(archive_of([], has_beaten), Config(), stopping)
    try:
        assert has_beaten.wait(PATIENCE_S)
        left = len(follower.failures)
        for _ in range(6000):
            if len(follower.failures) < left - 1:
                break
            threading.Event().wait(0.01)
        assert job.stats()["error"] == "the feed is away"
    finally:
        stopping.set()
        job.close()
