"""The background jobs of the caretaker: compaction, retention, the trash, scrubbing, re-indexing, the keys of
scopes, the comparison of versions kept aside with current ones, and the removal of stale metadata.

A job works in steps. Each step returns after how many seconds the next one may follow, and raises what goes wrong;
`caretaker` handles the errors. To add a job, write a class like these and add it to `JOBS`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from engine import log
from engine.access import Kind, Principal
from engine.archive.archive import Archive
from engine.archive.lifecycle import retention, trash
from engine.archive.lifecycle.access_keys import AccessKeysFill
from engine.archive.lifecycle.compaction import Compactor, Encrypts
from engine.archive.lifecycle.reindex import Reindexer
from engine.archive.lifecycle.resent import VersionComparer
from engine.archive.lifecycle.scrub import Scrubber
from engine.config import Config, Retention
from engine.errors import RetentionRefused, for_log
from engine.server.cluster_job import ClusterJob
from engine.server.object_store_job import ObjectStoreJob
from engine.server.orders_job import OrdersJob

logger = log.get("server.background_jobs")

RETENTION = Principal(Kind.JOB, "retention")
"""The actor of deletions by rule."""

TRASH = Principal(Kind.JOB, "trash")
"""The actor of what the trash does by itself."""

BETWEEN_STEPS_S = 0.05
"""The pause between two steps of one job, in which other jobs may run."""

NOTHING_TO_DO_S = 3600.0

SCRUB_TICK_S = 0.5
"""The pause between two pieces of a scrub."""

SCRUB_REST_S = 10.0
"""The pause of the scrub while no pass is due."""

FEED_REST_S = 5.0
"""The pause of compaction while the change feed has not yet reported the records that it is to remove."""

RESENT_REST_S = 2.0
"""The pause until the next check whether a version was kept aside: one read of a counter."""

REINDEX_REST_S = 10.0
"""The pause until the next check whether a segment has been sealed."""

TRASH_REST_S = 600.0
"""The pause between two looks at the trash: its times are days."""

METADATA_FILES = 50
"""Metadata files to check in one step."""

METADATA_REST_S = 1800.0
"""The pause between two checks of all metadata files."""


class Job(Protocol):
    """One kind of background work on one archive; used by one thread."""

    name: str

    def configure(self, config: Config) -> None:
        """Applies a new configuration; called from another thread."""
        ...

    def step(self) -> float:
        """Does a part of the work, and returns the seconds until the next step. Raises EngineError."""
        ...

    def stats(self) -> dict[str, object]:
        """Its counters; called from another thread."""
        ...


@runtime_checkable
class ClosingJob(Protocol):
    """A job that uses the archive outside of its steps, and has to stop before the archive is closed."""

    def close(self) -> None:
        """Returns when it uses the archive no more."""
        ...


class CompactionJob:
    """Frees the space of dead records."""

    name = "compaction"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._options = config.compaction
        self._compactor = Compactor(
            archive,
            config.compaction,
            segment_bytes=config.storage.segment_bytes,
            stopping=stopping,
            encrypts=Encrypts(config.encryption.background),
        )

    def configure(self, config: Config) -> None:
        """Applies from the next step on."""
        self._options = config.compaction
        self._compactor.configure(config.compaction, Encrypts(config.encryption.background))

    def step(self) -> float:
        """Compacts one group of segments."""
        if not self._options.enabled:
            return NOTHING_TO_DO_S
        if self._compactor.step():
            return BETWEEN_STEPS_S
        return min(self._options.interval_s, FEED_REST_S if self._compactor.is_ahead_of_feed else math.inf)

    def stats(self) -> dict[str, object]:
        """Segments, records and bytes since the start."""
        return {"enabled": self._options.enabled, **self._compactor.totals.as_dict()}


class RetentionJob:
    """Applies the enabled rules, each at its own interval."""

    name = "retention"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._archive = archive
        self._stopping = stopping
        self._rules: list[Retention] = []
        self._applied_s: dict[Retention, float] = {}
        self._deleted = {"studies_deleted": 0, "instances_deleted": 0, "bytes_deleted": 0}
        self._studies_held: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self.configure(config)

    def configure(self, config: Config) -> None:
        """A rule that is new or has changed is due at once."""
        self._rules = [rule for rule in config.retention if rule.enabled]
        names = {rule.name for rule in self._rules}
        self._refused = {name: reason for name, reason in self._refused.items() if name in names}

    def step(self) -> float:
        """Applies the rule that is due next."""
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
            result = retention.apply(
                self._archive, rule, time.time_ns(), actor=RETENTION, is_stopping=self._stopping.is_set
            )
        except RetentionRefused as error:
            # Only a person can confirm the rule: log the refusal again each time that the rule is due.
            self._refused[rule.name] = str(error)
            logger.error(
                "a retention rule was not applied",
                rule=rule.name,
                reason=for_log(error),
                advice="look at `filmroom retention dry-run`; then `filmroom retention apply --anyway`",
            )
            return
        self._refused.pop(rule.name, None)
        self._studies_held[rule.name] = result.held
        self._deleted["studies_deleted"] += result.studies
        self._deleted["instances_deleted"] += result.instances
        self._deleted["bytes_deleted"] += result.bytes

    def stats(self) -> dict[str, object]:
        """Deletions since the start, and the number of studies on hold when each rule was last applied."""
        stats: dict[str, object] = {"rules": len(self._rules), **self._deleted}
        stats["studies_held"] = sum(self._studies_held.values())
        return {**stats, "refused": dict(self._refused)} if self._refused else stats


class TrashJob:
    """Empties the trash of what has been in it for long enough."""

    name = "trash"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._archive = archive
        self._stopping = stopping
        self._days = config.deletion.trash_days
        self._emptied = trash.Settled()
        self._refused = ""
        self._is_swept = False

    def configure(self, config: Config) -> None:
        """Applies from the next step on."""
        self._days = config.deletion.trash_days

    def step(self) -> float:
        """Empties what is due, and destroys keys that an interrupted deletion has left."""
        self._archive.shred_left(actor=TRASH, everything=not self._is_swept, is_stopping=self._stopping.is_set)
        self._is_swept = True
        if not self._days:
            return NOTHING_TO_DO_S
        try:
            emptied = self._archive.expire_trash(
                self._days, time.time_ns(), actor=TRASH, is_stopping=self._stopping.is_set
            )
        except RetentionRefused as error:
            self._refused = str(error)
            logger.error("the trash does not empty itself", reason=for_log(error))
            return NOTHING_TO_DO_S
        self._refused = ""
        self._emptied.add(emptied)
        self._emptied.held = emptied.held
        return TRASH_REST_S

    def stats(self) -> dict[str, object]:
        """What was emptied since the start, and the entries that stay because of a legal hold."""
        emptied = self._emptied
        stats: dict[str, object] = {
            "days": self._days,
            "entries_emptied": emptied.entries,
            "instances_emptied": emptied.instances,
            "bytes_emptied": emptied.bytes,
            "entries_held": emptied.held,
        }
        return {**stats, "refused": self._refused} if self._refused else stats


class ScrubJob:
    """Reads and verifies all stored bytes, as fast as the cycle requires."""

    name = "scrub"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._archive = archive
        self._options = config.scrub
        self._scrubber = Scrubber.of(archive, config.scrub)

    def configure(self, config: Config) -> None:
        """Applies from the next step on; the current pass continues, since its progress is on the disk."""
        if config.scrub != self._options:
            self._options = config.scrub
            self._scrubber = Scrubber.of(self._archive, config.scrub)

    def step(self) -> float:
        """Scrubs the bytes that are due since the last step."""
        if not self._options.cycle_days:
            return NOTHING_TO_DO_S
        self._scrubber.tick(time.monotonic())
        return SCRUB_TICK_S if self._scrubber.is_due else SCRUB_REST_S

    def stats(self) -> dict[str, object]:
        """The current pass, the one before it, and counters since the start."""
        status = self._scrubber.status()
        last_pass = status.pop("last_pass")
        del status["began_ns"], status["next_pass_ns"]
        stats = {"enabled": self._options.cycle_days > 0, **status}
        if isinstance(last_pass, dict):
            end = datetime.fromtimestamp(last_pass["ended_ns"] / 1e9, UTC)
            stats |= {
                "last_pass_ended": end.isoformat(timespec="seconds"),
                "last_pass_damaged": last_pass["damaged"],
            }
        return stats | {f"{name}_since_start": count for name, count in self._scrubber.counters.items()}


class ReindexJob:
    """Reads stored instances again when the extra attributes have changed."""

    name = "reindex"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._reindexer = Reindexer(archive, bytes_per_s=config.reindex.bytes_per_s, stopping=stopping)

    def configure(self, config: Config) -> None:
        """Applies the speed; a change of the attributes needs a restart."""
        self._reindexer.configure(config.reindex.bytes_per_s)

    def step(self) -> float:
        """Processes one batch."""
        return BETWEEN_STEPS_S if self._reindexer.step() else REINDEX_REST_S

    def stats(self) -> dict[str, object]:
        """Its progress, and counters since the start."""
        counters = {f"{name}_since_start": count for name, count in self._reindexer.counters.items()}
        return {**self._reindexer.status(), **counters}


class AccessKeysJob:
    """Gives the studies of an older index the keys by which scopes find them."""

    name = "access_keys"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        del config, stopping
        self._fill = AccessKeysFill(archive)

    def configure(self, config: Config) -> None:
        """Does nothing: the job has no settings."""

    def step(self) -> float:
        """Does some studies."""
        return BETWEEN_STEPS_S if self._fill.step() else NOTHING_TO_DO_S

    def stats(self) -> dict[str, object]:
        """Whether all are done."""
        return {"complete": self._fill.is_complete}


class ResentJob:
    """Retires versions kept aside that have the same content as another version of their UID."""

    name = "resent"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._comparer = VersionComparer(
            archive, reserve_bytes=config.limits.disk_reserve_bytes, is_stopping=stopping.is_set
        )

    def configure(self, config: Config) -> None:
        """Does nothing: the job has no settings."""

    def step(self) -> float:
        """Processes one batch."""
        return BETWEEN_STEPS_S if self._comparer.step() else RESENT_REST_S

    def stats(self) -> dict[str, object]:
        """Versions since the start: compared, retired for the same content, with different content."""
        return {f"{name}_since_start": count for name, count in self._comparer.counters.as_dict().items()}


class MetadataJob:
    """Removes cached metadata of changed and deleted series, so that no data of a deleted patient stays in it."""

    name = "metadata"

    def __init__(self, archive: Archive, config: Config, stopping: threading.Event) -> None:
        self._archive = archive
        self._files: Iterator[bool] = iter(())
        self._removed = 0

    def configure(self, config: Config) -> None:
        """Does nothing: the job has no settings."""

    def step(self) -> float:
        """Checks some files."""
        for _ in range(METADATA_FILES):
            is_stale = next(self._files, None)
            if is_stale is None:
                self._files = self._archive.metadata.purge()
                return METADATA_REST_S
            self._removed += is_stale
        return BETWEEN_STEPS_S

    def stats(self) -> dict[str, object]:
        """Files removed since the start."""
        return {"removed_since_start": self._removed}


JOBS: tuple[Callable[[Archive, Config, threading.Event], Job], ...] = (
    CompactionJob,
    RetentionJob,
    TrashJob,
    ScrubJob,
    ReindexJob,
    AccessKeysJob,
    ResentJob,
    MetadataJob,
    OrdersJob,
    ClusterJob,
    ObjectStoreJob,
)
"""The jobs of every caretaker but that of a replica."""

READ_ONLY_JOBS: tuple[Callable[[Archive, Config, threading.Event], Job], ...] = (ScrubJob, ReindexJob, AccessKeysJob)
"""The jobs of a replica's caretaker: its index is its own, but its log is a copy that only replication may change."""
