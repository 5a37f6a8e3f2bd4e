"""Shipping: keeps the bucket up to date while the archive is served; two threads of the caretaker.

    tail        every tail_interval_s: keys and accounts, then new records (`tail`); at once when an answer waits for
                them (`archive.receipts`)
    segments    sealed segments, the oldest first (`publisher`); then the manifest, and what a compaction has removed

    state       starting ─► up to date ⇄ behind;  either ⇄ away (the store does not answer: tried again, ever slower)
                refused (a person has to help; tried again);  fenced, final: another machine continues this archive

Nothing waits for it, but answers with `durable = "object"`: it reads the log, and a store that is away costs a growing
backlog. The state is in memory for the statistics, and in DATA/object-store-status.json, once in STATUS_EVERY_S, for
`doctor` and for whoever asks without a server.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from engine import guards, log
from engine.archive import receipts
from engine.archive.archive import Archive
from engine.archive.lifecycle import losses
from engine.archive.nodes.announcer import Announcer
from engine.archive.receipts import Desk, Kind
from engine.archive.stats_history import COLUMNS, HOUR_S, MINUTE_S, StatsHistory
from engine.archive.tiering import connection
from engine.archive.tiering.publisher import Publisher, Sealed
from engine.archive.tiering.remote_segments import RemoteSegments
from engine.archive.tiering.status_file import STATUS_FILE, read_status
from engine.archive.tiering.tail import Tail
from engine.errors import (
    ClusterError,
    EngineError,
    Fenced,
    StorageError,
    StoreRefused,
    StoreUnreachable,
    for_log,
)
from engine.objects.bucket import Bucket, Group, SegmentName
from engine.objects.schedule import Schedule
from engine.objects.settings import ObjectStore
from engine.rate_limiter import RateLimiter
from engine.storage.files import replace_file

logger = log.get("archive.shipping")

STATUS_EVERY_S = 5.0
PAUSE_S = (1.0, 60.0)
"""The pause after a failure: at first, and at most."""
AWAITED_PAUSE_S = 2.0
"""The pause after a failure, while there are workers whose answers wait for the bucket."""
STOP_LOOK_S = 0.2
ORDER_EVERY_S = 60.0
"""The pause between two looks for what has to go from the bucket, which read the index."""
LOOK_S = 2.0
"""The pause between two looks for sealed segments."""
GROUPS_KEPT_S = 900.0
"""For how long groups stay after their segment was published, where other nodes read them: a retrieval that has begun
ends with them."""
GROWTH_HOURS_MIN = 24
ALERT_S = 900.0
"""An outage of a quarter of an hour is an alarm: a short one is nobody's work."""

UP_TO_DATE, BEHIND, AWAY, REFUSED, FENCED = "up to date", "behind", "away", "refused", "fenced"


class _Stopped(EngineError):
    """The process ends in the middle of an upload."""


@dataclass(slots=True)
class _Facts:
    """What both threads know; each writes its own fields."""

    state: str = "starting"
    error: str = ""
    away_since_s: float = 0.0
    """Unix time; 0: the store answers."""
    failing_since_s: float = 0.0
    """Unix time of the first error in a row, of whatever kind; 0: all is well."""
    tail_lag_bytes: int | None = None
    """None: not known, since nobody has read yet how far the chain in the bucket goes."""
    tail_shipped_s: float = 0.0
    """Unix time up to which all records are in the bucket; 0: not known."""
    backlog_segments: int = 0
    backlog_bytes: int = 0
    oldest_s: float = 0.0
    """Unix time of the oldest sealed segment that is not in the bucket; 0: none."""
    published: int = 0
    published_bytes: int = 0
    uploaded_bytes: int = 0
    removed: int = 0


class Shipping:
    """The threads; `start`, then `stop`."""

    def __init__(
        self,
        archive: Archive,
        settings: ObjectStore,
        stopping: threading.Event,
        announcer: Announcer | None = None,
    ) -> None:
        """`announcer`: of a node, tells the other nodes. Makes no request. Raises ConfigError, StorageError."""
        self._parts = parts = archive.parts
        self._settings = settings
        self._stopping = stopping
        self._announcer = announcer
        self._url = settings.url
        self._bucket: Bucket = connection.bucket_of(parts.layout.archive_id, settings)
        connection.remember(parts.layout.data, settings, parts.files)
        self._publisher = Publisher(parts.layout, parts.files, self._bucket, settings)
        self._publishing = threading.Lock()
        """Around the publisher's notes and the bucket's manifests."""
        self._using_index = threading.Lock()
        self._is_released = False
        self._tail: Tail | None = None
        self._desk: Desk | None = None
        """The tail's."""
        self._renew_s = 0.0
        """When to look again at what somebody waits for and is not in the bucket."""
        self._accounts_s = 0.0
        """When the accounts are due."""
        self._facts = _Facts(tail_shipped_s=_shipped_s(read_status(parts.layout.data), settings.url))
        self._errors: dict[str, bool] = {}
        """The work that fails, and whether PostgreSQL is at fault, not the store."""
        self._is_fenced = False
        self._limiter = RateLimiter(0)
        self._rate = 0
        self._status_s = 0.0
        self._order_due_s = 0.0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begins to ship."""
        if self._settings.tail:
            self._threads.append(guards.start("object-tail", self._run_tail))
        self._threads.append(guards.start("object-segments", lambda: self._run("segments", self._ship_segments)))

    def join(self) -> None:
        """Waits for the threads, after `stopping` has been set."""
        for thread in self._threads:
            thread.join()
        self._publisher.close()
        if self._announcer is not None:
            self._announcer.close()

    def release(self) -> None:
        """Returns when the threads use the index no more. They end by themselves when their request is answered."""
        with self._using_index:
            self._is_released = True

    def configure(self, settings: ObjectStore) -> None:
        """Applies rates and times from the next step on; the address needs a restart."""
        self._settings = settings

    # -- the threads ----------------------------------------------------------------------------

    def _run_tail(self) -> None:
        try:
            self._desk = desk = Desk(self._parts.layout.data, receipts.OBJECT_STORE)
        except StorageError as error:
            logger.error("no receipts can be given to workers", error=for_log(error))
            self._run("tail", self._ship_tail)
            return
        try:
            self._run("tail", self._ship_tail, self._rest)
            while self._is_fenced and not self._stopping.is_set():
                self._rest(1.0)  # workers that begin later are told too
        finally:
            desk.close()

    def _rest(self, seconds: float) -> None:
        """Waits for the next step of the tail, which comes at once when somebody waits for receipts."""
        desk = self._desk
        assert desk is not None
        fails = self._is_fenced or "tail" in self._errors
        desk.tell(Kind.FENCED if self._is_fenced else Kind.AWAY if fails else Kind.READY)
        until_s = time.monotonic() + (min(seconds, AWAITED_PAUSE_S) if fails and desk.has_clients else seconds)
        while not self._stopping.is_set() and (left_s := until_s - time.monotonic()) > 0:
            if desk.wait(min(left_s, STOP_LOOK_S)):
                if not fails:
                    return
                desk.take_coming()
                desk.put_off(desk.wanted())
            elif not fails and time.monotonic() >= self._renew_s:
                desk.renew()
                self._renew_s = time.monotonic() + self._settings.tail_interval_s

    def _run(self, name: str, step: Callable[[], float], rest: Callable[[float], None] | None = None) -> None:
        pause_s = PAUSE_S[0]
        while not self._stopping.is_set() and not self._is_fenced:
            before = self._facts.state
            try:
                wait_s = step()
                pause_s = PAUSE_S[0]
                self._succeeded(name)
            except _Stopped:
                return
            except Fenced as error:
                self._is_fenced = True
                self._facts.state, self._facts.error = FENCED, str(error)
                logger.error("this archive ships no more to the object store", reason=for_log(error))
                self._tell(at_once=True)
                return
            except (EngineError, OSError) as error:
                self._failed(name, error)
                wait_s = pause_s
                pause_s = min(2 * pause_s, PAUSE_S[1])
            self._tell(at_once=self._facts.state != before)
            if rest is not None:
                rest(wait_s)
            else:
                self._stopping.wait(wait_s)

    def _succeeded(self, name: str) -> None:
        if (is_cluster := self._errors.pop(name, None)) is not None:
            logger.info("the other nodes are told again" if is_cluster else "the object store answers again", work=name)
        if not self._errors and not self._is_fenced:
            facts = self._facts
            facts.away_since_s, facts.failing_since_s, facts.error = 0.0, 0.0, ""
            if self._settings.tail and facts.tail_lag_bytes is None:
                return  # the other thread has not been at the bucket yet
            facts.state = BEHIND if facts.backlog_segments or facts.tail_lag_bytes else UP_TO_DATE

    def _failed(self, name: str, error: Exception) -> None:
        is_cluster = isinstance(error, ClusterError)
        what = "the other nodes cannot be told" if is_cluster else "the object store cannot be brought up to date"
        if self._errors.get(name) != is_cluster:
            logger.warning(what, work=name, error=for_log(error))
        self._errors[name] = is_cluster
        facts = self._facts
        facts.error = f"{what}: {error}" if is_cluster else str(error)
        facts.failing_since_s = facts.failing_since_s or time.time()
        if isinstance(error, StoreUnreachable):
            facts.state = REFUSED if isinstance(error, StoreRefused) else AWAY
            facts.away_since_s = facts.away_since_s or time.time()
        else:
            facts.state = BEHIND
            facts.away_since_s = 0.0

    def _ship_tail(self) -> float:
        began_s = time.time()
        tail = self._tail
        if tail is None:
            tail = Tail(
                self._parts.layout,
                self._parts.files,
                self._bucket,
                self._url,
                group_bytes=self._settings.group_bytes,
                announce=self._announce,
                keep_s=GROUPS_KEPT_S if self._announcer is not None else 0.0,
            )
            self._bucket.found(datetime.now(UTC))
            tail.open()
            self._tail = tail
        if self._desk is not None:
            self._desk.take_coming()  # it is in the log: this step ships it
        if self._announcer is not None:
            self._announcer.segments(list(self._publisher.published))
        try:
            self._facts.uploaded_bytes += tail.step(self._publisher.published.keys(), ship_keys=self._ship_keys_in_time)
            self._facts.tail_shipped_s = began_s
        finally:
            self._facts.tail_lag_bytes = tail.lag_bytes
        self._give_receipts(tail)
        return max(0.0, self._settings.tail_interval_s - (time.time() - began_s))

    def _announce(self, group: Group) -> None:
        if self._announcer is not None:
            self._announcer.group(group, self._parts.segments.open)

    def _announce_removal(self, name: SegmentName) -> None:
        if self._announcer is not None:
            self._announcer.removed(name)

    def _give_receipts(self, tail: Tail) -> None:
        desk = self._desk
        if desk is None:
            return
        desk.wait(0.0)  # what was sent while the disk was at work may be wanted by now
        if not (wanted := desk.wanted()):
            return
        granted = tail.reached(wanted, self._publisher.published.keys())
        desk.grant(granted)
        desk.put_off(wanted.keys() - granted.keys())

    def _ship_keys(self) -> None:
        with self._publishing:
            self._publisher.write_keys()

    def _ship_keys_in_time(self) -> None:
        """The keys, and the accounts once in an interval: reading them costs more than a group of records."""
        is_due = time.monotonic() >= self._accounts_s
        with self._publishing:
            self._publisher.write_keys(with_accounts=is_due)
        if is_due:  # and has succeeded
            self._accounts_s = time.monotonic() + self._settings.tail_interval_s

    def _ship_segments(self) -> float:
        publisher = self._publisher
        backlog = publisher.backlog()
        self._note_backlog(backlog)
        if not backlog:
            if not self._settings.tail and publisher.study_keys.is_waiting and publisher.published:
                self._ship_keys()  # a key may have been destroyed
            if time.monotonic() >= self._order_due_s:
                self._keep_in_order()
                self._order_due_s = time.monotonic() + ORDER_EVERY_S
            return LOOK_S
        self._bucket.found(datetime.now(UTC))
        self._ship_keys()
        published = publisher.publish(backlog[0].name, self._spent)
        self._order_due_s = 0.0
        if published is not None:
            self._facts.published += 1
            self._facts.published_bytes += published.bytes
        self._note_backlog(publisher.backlog())
        return 0.0

    def _keep_in_order(self) -> None:
        parts = self._parts
        with self._using_index:
            if self._is_released:
                raise _Stopped
            missing = {loss.segment_id for loss in losses.outstanding(parts.layout, parts.files, parts.index)}
            marks = parts.index.segment_marks()

        def is_needed(segment_id: int) -> bool:
            mark = marks.get(segment_id)
            return segment_id in missing or (mark is not None and mark.live_count > 0)

        with self._publishing:
            self._publisher.write_manifest([self._tail.next] if self._tail is not None else [])
            self._facts.removed += self._publisher.remove_gone(
                is_needed, self._elsewhere(), self._announce_removal
            )

    def _elsewhere(self) -> set[SegmentName]:
        layout = self._parts.layout
        return set(RemoteSegments(layout.data, layout.archive_id, self._parts.files).names())

    def _spent(self, count: int) -> None:
        """Called before bytes of a segment leave: keeps to the schedule."""
        if self._stopping.is_set():
            raise _Stopped
        settings = self._settings
        rate = Schedule(settings.upload_bytes_per_s, settings.upload_schedule).bytes_per_s(datetime.now())
        if rate != self._rate:
            self._rate, self._limiter = rate, RateLimiter(rate, wait=self._stopping.wait)
        self._limiter.spent(count)
        self._facts.uploaded_bytes += count

    def _note_backlog(self, backlog: list[Sealed]) -> None:
        facts = self._facts
        facts.backlog_segments = len(backlog)
        facts.backlog_bytes = sum(item.bytes for item in backlog)
        facts.oldest_s = min((item.sealed_s for item in backlog), default=0.0)

    # -- what is said of it ---------------------------------------------------------------------

    def stats(self) -> dict[str, object]:
        """The state, the backlog and how long it may grow."""
        facts, now_s = self._facts, time.time()
        return {
            "enabled": True,
            "url": self._url,
            "state": facts.state,
            "error": facts.error,
            "away_s": round(now_s - facts.away_since_s, 1) if facts.away_since_s else 0.0,
            "is_alarming": self._is_alarming(now_s),
            "tail_lag_bytes": facts.tail_lag_bytes,
            "tail_age_s": round(now_s - facts.tail_shipped_s, 1) if facts.tail_shipped_s else None,
            "backlog_segments": facts.backlog_segments,
            "backlog_bytes": facts.backlog_bytes,
            "backlog_age_s": round(now_s - facts.oldest_s, 1) if facts.oldest_s else 0.0,
            "study_keys_waiting": self._publisher.study_keys.is_waiting,
            "disk_days_left": self._disk_days_left(),
            "published_segments": len(self._publisher.published),
            "published_bytes_since_start": facts.published_bytes,
            "uploaded_bytes_since_start": facts.uploaded_bytes,
            "segments_removed_since_start": facts.removed,
        }

    def _disk_days_left(self) -> float | None:
        """Days in which what arrives fills the disk, as in the last days; None: not known, or nothing arrives."""
        parts = self._parts
        history = StatsHistory(parts.layout, parts.files)
        rows = history.rows(HOUR_S)
        rows = rows if len(rows) >= GROWTH_HOURS_MIN else history.rows(MINUTE_S)
        column = COLUMNS.index("archive_bytes")
        points = [(time_s, row[column]) for time_s, row in rows if row[column] > 0]
        if len(points) < 2 or points[-1][1] <= points[0][1]:
            return None
        bytes_per_s = (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])
        free_bytes = parts.files.free_bytes(str(parts.layout.data))
        return round(free_bytes / bytes_per_s / 86_400, 1)

    def _is_alarming(self, now_s: float) -> bool:
        facts = self._facts
        fails_long = facts.failing_since_s > 0 and now_s - facts.failing_since_s > ALERT_S
        return facts.state in (FENCED, REFUSED) or fails_long

    def _tell(self, *, at_once: bool = False) -> None:
        now_s = time.monotonic()
        if not at_once and now_s - self._status_s < STATUS_EVERY_S:
            return
        self._status_s = now_s
        status = {**self.stats(), "updated": datetime.now(UTC).isoformat(timespec="seconds"), "pid": os.getpid()}
        try:
            path = str(self._parts.layout.data / STATUS_FILE)
            replace_file(self._parts.files, path, orjson.dumps(status), is_durable=False)
        except StorageError as error:
            logger.warning("the state of the object store cannot be kept", error=for_log(error))


def _shipped_s(status: dict[str, Any] | None, url: str) -> float:
    """Unix time up to which an earlier server has brought all records into this bucket; 0: not known."""
    age_s = status.get("tail_age_s") if status is not None and status.get("url") == url else None
    if status is None or not isinstance(age_s, int | float):
        return 0.0
    try:
        return max(0.0, datetime.fromisoformat(status["updated"]).timestamp() - age_s)
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0.0
