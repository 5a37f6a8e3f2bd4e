"""What a caretaker does in the background, a step at a time: compaction, retention, scrubbing, re-indexing, and looking
whether versions kept aside say the same as what is current.

A job says after each step how long it can wait for the next one, and tells what it has done in numbers. It raises what
goes wrong; `caretaker` decides what follows from that. A new job is a class like these and a line in `JOBS`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Protocol

from engine import log
from engine.access import Kind, Principal
from engine.archive.archive import Archive
from engine.archive.lifecycle import retention
from engine.archive.lifecycle.compaction import Compactor
from engine.archive.lifecycle.reindex import Reindexer
from engine.archive.lifecycle.resent import Settler
from engine.archive.lifecycle.scrub import Scrubber
from engine.config import Config, Retention
from engine.errors import RetentionRefused

logger = log.get("server.background_jobs")

RETENTION = Principal(Kind.JOB, "retention")
"""Who deletes by rule."""

BETWEEN_STEPS_S = 0.05
"""Between two steps of one job others get their turn."""

NOTHING_TO_DO_S = 3600.0

SCRUB_TICK_S = 0.5
"""Between two pieces of a scrub."""

SCRUB_REST_S = 10.0
"""How long it waits while no pass is due."""


FEED_REST_S = 5.0
"""How long compaction waits until it asks again whether the change feed has told what is to be removed."""

RESENT_REST_S = 2.0
"""How long it waits until it asks again whether a version was kept aside: one read of a counter."""

REINDEX_REST_S = 10.0
"""How long it waits until it asks again whether a segment has been sealed."""

METADATA_FILES = 50
"""Looked at in one step."""

METADATA_REST_S = 1800.0
"""Between two looks at all files."""


class Job(Protocol):
    """One kind of background work on one archive; used by one thread."""

    name: str

    def configure(self, config: Config) -> None:
        """Takes a new configuration over; called from another thread."""
        ...

    def step(self) -> float:
        """Does some of what is due, and returns in how many seconds there may be more. Raises EngineError."""
        ...

    def stats(self) -> dict[str, object]:
        """What it has done; called from another thread."""
        ...


class CompactionJob:
    """Gives the space of dead records back."""

    name = "compaction"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._options = config.compaction
        self._compactor = Compactor(
            archive, config.compaction, segment_bytes=config.storage.segment_bytes, stopping=stopping
        )

    def configure(self, config: Config) -> None:
        """From the next step on."""
        self._options = config.compaction
        self._compactor.configure(config.compaction)

    def step(self) -> float:
        """One group of segments."""
        if not self._options.enabled:
            return NOTHING_TO_DO_S
        if self._compactor.step():
            return BETWEEN_STEPS_S
        return min(self._options.interval_s, FEED_REST_S if self._compactor.is_ahead_of_feed else math.inf)

    def stats(self) -> dict[str, object]:
        """Segments, records and bytes since the start."""
        return {"enabled": self._options.enabled, **self._compactor.totals.as_dict()}


class RetentionJob:
    """Applies the rules that are enabled, each as often as it says."""

    name = "retention"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._archive = archive
        self._stopping = stopping
        self._rules: list[Retention] = []
        self._applied_s: dict[Retention, float] = {}
        self._deleted = {"studies_deleted": 0, "instances_deleted": 0, "bytes_deleted": 0}
        self._held: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self.configure(config)

    def configure(self, config: Config) -> None:
        """A rule that is new or has changed is due at once."""
        self._rules = [rule for rule in config.retention if rule.enabled]
        names = {rule.name for rule in self._rules}
        self._refused = {name: reason for name, reason in self._refused.items() if name in names}

    def step(self) -> float:
        """The rule that is due next, wholly."""
        rules = self._rules
        if not rules:
            return NOTHING_TO_DO_S
        now_s = time.monotonic()
        rule = min(rules, key=lambda rule: self._due_s(rule, now_s))
        if self._due_s(rule, now_s) <= now_s:
            self._apply(rule)
            self._applied_s[rule] = now_s
        now_s = time.monotonic()
        return max(min(self._due_s(rule, now_s) for rule in rules) - now_s, BETWEEN_STEPS_S)

    def _due_s(self, rule: Retention, now_s: float) -> float:
        applied_s = self._applied_s.get(rule)
        return now_s if applied_s is None else applied_s + rule.every_hours * 3600

    def _apply(self, rule: Retention) -> None:
        try:
            applied = retention.apply(
                self._archive, rule, time.time_ns(), actor=RETENTION, stopped=self._stopping.is_set
            )
        except RetentionRefused as error:
            # Nothing else can be done about it: it is said again each time that the rule is due.
            self._refused[rule.name] = str(error)
            logger.error(
                "a retention rule was not applied",
                rule=rule.name,
                reason=str(error),
                advice="look at `filmroom retention dry-run`; then `filmroom retention apply --anyway`",
            )
            return
        self._refused.pop(rule.name, None)
        self._held[rule.name] = applied.held
        self._deleted["studies_deleted"] += applied.studies
        self._deleted["instances_deleted"] += applied.instances
        self._deleted["bytes_deleted"] += applied.bytes

    def stats(self) -> dict[str, object]:
        """What was deleted since the start, and how many studies were on hold at the last look."""
        facts: dict[str, object] = {"rules": len(self._rules), **self._deleted}
        facts["studies_held"] = sum(self._held.values())
        return {**facts, "refused": dict(self._refused)} if self._refused else facts


class ScrubJob:
    """Reads and verifies what is stored, as fast as the cycle needs it."""

    name = "scrub"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._archive = archive
        self._options = config.scrub
        self._scrubber = Scrubber.of(archive, config.scrub)

    def configure(self, config: Config) -> None:
        """From the next step on; the pass under way goes on, since it is remembered on the disk."""
        if config.scrub != self._options:
            self._options = config.scrub
            self._scrubber = Scrubber.of(self._archive, config.scrub)

    def step(self) -> float:
        """What is due since the last step."""
        if not self._options.cycle_days:
            return NOTHING_TO_DO_S
        self._scrubber.tick(time.monotonic())
        return SCRUB_TICK_S if self._scrubber.is_due else SCRUB_REST_S

    def stats(self) -> dict[str, object]:
        """The pass under way, the one before it, and counters since the start."""
        status = self._scrubber.status()
        last = status.pop("last_pass")
        del status["began_ns"], status["next_pass_ns"]
        facts = {"enabled": self._options.cycle_days > 0, **status}
        if isinstance(last, dict):
            ended = datetime.fromtimestamp(last["ended_ns"] / 1e9, UTC)
            facts |= {"last_pass_ended": ended.isoformat(timespec="seconds"), "last_pass_damaged": last["damaged"]}
        return facts | {f"{name}_since_start": count for name, count in self._scrubber.counters.items()}


class ReindexJob:
    """Looks through what is stored again when the extra attributes have changed."""

    name = "reindex"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._reindexer = Reindexer(archive, bytes_per_s=config.reindex.bytes_per_s, stopping=stopping)

    def configure(self, config: Config) -> None:
        """The speed; the attributes are taken over at a start."""
        self._reindexer.configure(config.reindex.bytes_per_s)

    def step(self) -> float:
        """One batch."""
        return BETWEEN_STEPS_S if self._reindexer.step() else REINDEX_REST_S

    def stats(self) -> dict[str, object]:
        """How far it is, and counters since the start."""
        counters = {f"{name}_since_start": count for name, count in self._reindexer.counters.items()}
        return {**self._reindexer.status(), **counters}


class ResentJob:
    """Retires versions that were kept aside and have the same content as another one of their UID."""

    name = "resent"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._settler = Settler(archive, reserve_bytes=config.limits.disk_reserve_bytes, stopped=stopping.is_set)

    def configure(self, config: Config) -> None:
        """Nothing that could be set."""

    def step(self) -> float:
        """One batch."""
        return BETWEEN_STEPS_S if self._settler.step() else RESENT_REST_S

    def stats(self) -> dict[str, object]:
        """Versions since the start: compared, of the same content and so retired, of another one."""
        return {f"{name}_since_start": count for name, count in self._settler.counters.as_dict().items()}


class MetadataJob:
    """Removes kept metadata of series that have changed or are gone: nothing of a deleted patient stays in it."""

    name = "metadata"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._archive = archive
        self._looked_at: Iterator[bool] = iter(())
        self._removed = 0

    def configure(self, config: Config) -> None:
        """Nothing that could be set."""

    def step(self) -> float:
        """Some files."""
        for _ in range(METADATA_FILES):
            is_stale = next(self._looked_at, None)
            if is_stale is None:
                self._looked_at = self._archive.metadata.purge()
                return METADATA_REST_S
            self._removed += is_stale
        return BETWEEN_STEPS_S

    def stats(self) -> dict[str, object]:
        """Files removed since the start."""
        return {"removed_since_start": self._removed}


JOBS: tuple[Callable[[Archive, Config, threading.Event], Job], ...] = (
    CompactionJob,
    RetentionJob,
    ScrubJob,
    ReindexJob,
    ResentJob,
    MetadataJob,
)
"""What every caretaker does."""

READ_ONLY_JOBS: tuple[Callable[[Archive, Config, threading.Event], Job], ...] = (ScrubJob, ReindexJob)
"""What the caretaker of a replica does: its log is somebody else's, its index is its own."""
