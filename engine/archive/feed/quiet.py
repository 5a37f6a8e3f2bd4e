"""Quiet series and studies: tracks those that have grown lately, until they have no new instance for long enough.

    instance ──► study: arriving ── study_quiet_s ──► quiet ── study_complete_s, or all announced ──► complete
                        reopened ◄────── instance ──────┴──────────────────── instance ──────────────────┘
                 series: growing ── series_quiet_s ──► quiet, forgotten

The times count from the receipt of the last instance. A further instance starts them again, and the events are then
repeated. A series or study that has been deleted meanwhile gets no event. What is known of a complete study, its reason
and its time, is kept of the latest COMPLETE_MAX.

The state depends only on the events of the feed, so it is the same after a restart: pass all events to `observe_all`,
also those made here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from engine.archive.feed import event as actions
from engine.archive.feed.event import Event, unix_s

GROWING = frozenset((actions.STORED, actions.KEPT_ASIDE))
COMPLETE_MAX = 1000


@dataclass(frozen=True, slots=True)
class QuietTimes:
    """Seconds without an instance after which each event is made."""

    series_s: float = 30.0
    study_s: float = 60.0
    complete_s: float = 900.0


@dataclass(slots=True)
class Growth:
    """A series or study that has grown lately."""

    study_instance_uid: str
    series_instance_uid: str
    """Empty for the study itself."""
    last_s: float
    """Unix time of its last instance."""
    is_quiet: bool = False
    """Whether it is a study with a quiet event."""
    reason: str = ""
    """Of a study that was reopened: AFTER_QUIET or AFTER_COMPLETE."""
    since_s: float = 0.0
    """Unix time at which the study took this state."""


_Key = tuple[str, str]


class QuietTracker:
    """The series and studies that have grown lately; for one thread at a time."""

    def __init__(self, times: QuietTimes, growths: Mapping[str, object] | None = None) -> None:
        """`growths`: the result of `describe`."""
        self._times = times
        self._growths: dict[_Key, Growth] = {}
        self._due: list[tuple[float, _Key]] = []
        for row in (growths or {}).get("rows", ()):  # type: ignore[attr-defined]
            study, series, last_s, is_quiet = row
            self._add(Growth(str(study), str(series), float(last_s), bool(is_quiet)))
        for study, reason, since_s in (growths or {}).get("studies", ()):  # type: ignore[attr-defined]
            growth = self._growths.get((str(study), ""))
            if growth is not None:
                growth.reason, growth.since_s = str(reason), float(since_s)
        self._complete: dict[str, tuple[str, float]] = {
            str(study): (str(reason), float(since_s))
            for study, reason, since_s in (growths or {}).get("complete", ())  # type: ignore[attr-defined]
        }
        """Study → reason and Unix time."""

    def __len__(self) -> int:
        return len(self._growths)

    def describe(self) -> dict[str, object]:
        """The form that is saved."""
        return {
            "rows": [
                [growth.study_instance_uid, growth.series_instance_uid, growth.last_s, growth.is_quiet]
                for growth in self._growths.values()
            ],
            "studies": [
                [growth.study_instance_uid, growth.reason, growth.since_s]
                for growth in self._growths.values()
                if not growth.series_instance_uid
            ],
            "complete": [[study, *facts] for study, facts in self._complete.items()],
        }

    def state_of(self, study: str) -> tuple[str, str, float] | None:
        """State, reason and since when (Unix time) of a study; None: nothing is known of it (any more)."""
        growth = self._growths.get((study, ""))
        if growth is None:
            known = self._complete.get(study)
            return None if known is None else ("complete", *known)
        if growth.is_quiet:
            return "quiet", actions.IDLE, growth.since_s
        return ("reopened", growth.reason, growth.since_s) if growth.reason else ("arriving", "new", growth.since_s)

    def observe_all(self, events: Sequence[Event]) -> None:
        """Observes events of the feed. Of consecutive ones of a series of a known study only the last counts."""
        last = len(events) - 1
        for number, event in enumerate(events):
            if number < last and event.action in GROWING:
                following = events[number + 1]
                if (
                    following.action in GROWING
                    and following.series_instance_uid == event.series_instance_uid
                    and following.study_instance_uid == event.study_instance_uid
                    and (event.study_instance_uid, "") in self._growths
                ):
                    continue
            self.observe(event)

    def observe(self, event: Event) -> None:
        """Observes an event of the feed."""
        study, series = event.study_instance_uid, event.series_instance_uid
        if event.action in GROWING:
            time_s = unix_s(event.time)
            self._grow(study, series, time_s)
            self._grow(study, "", time_s)
        elif event.action == actions.SERIES_QUIET:
            self._growths.pop((study, series), None)
        elif event.action == actions.STUDY_COMPLETE:
            self._growths.pop((study, ""), None)
            self._note_complete(study, event.reason or actions.IDLE, unix_s(event.time))
        elif event.action == actions.STUDY_QUIET:
            growth = self._growths.get((study, ""))
            if growth is not None:
                growth.is_quiet, growth.reason, growth.since_s = True, "", unix_s(event.time)
                heappush(self._due, (self._due_s(growth), (study, "")))
        elif event.action == actions.STUDY_REOPENED:
            time_s = unix_s(event.time)
            self._grow(study, "", time_s)
            growth = self._growths[study, ""]
            growth.reason, growth.since_s = event.reason, time_s

    def _note_complete(self, study: str, reason: str, time_s: float) -> None:
        self._complete.pop(study, None)
        self._complete[study] = reason, time_s
        if len(self._complete) > COMPLETE_MAX:
            del self._complete[next(iter(self._complete))]

    def _grow(self, study: str, series: str, time_s: float) -> None:
        growth = self._growths.get((study, series))
        if growth is None:
            self._add(Growth(study, series, time_s, since_s=time_s))
            if not series:
                self._complete.pop(study, None)
        else:
            growth.last_s = max(growth.last_s, time_s)
            if growth.is_quiet:
                growth.is_quiet = False
                heappush(self._due, (self._due_s(growth), (study, series)))

    def _add(self, growth: Growth) -> None:
        key = (growth.study_instance_uid, growth.series_instance_uid)
        self._growths[key] = growth
        heappush(self._due, (self._due_s(growth), key))

    def _due_s(self, growth: Growth) -> float:
        if growth.series_instance_uid:
            return growth.last_s + self._times.series_s
        return growth.last_s + (self._times.complete_s if growth.is_quiet else self._times.study_s)

    def next_due_s(self) -> float | None:
        """Unix time at which something may be due; None if nothing has grown."""
        return self._due[0][0] if self._due else None

    def due(self, now_s: float) -> Iterator[Growth]:
        """The growths that are due. For each, make the event and pass it to `observe`, or call `drop`."""
        while self._due and self._due[0][0] <= now_s:
            _, key = heappop(self._due)
            growth = self._growths.get(key)
            if growth is None:
                continue
            # After the clock was set back, an instance from the future counts from now.
            growth.last_s = min(growth.last_s, now_s)
            due_s = self._due_s(growth)
            if due_s > now_s:
                heappush(self._due, (due_s, key))
            else:
                yield growth

    def drop(self, growth: Growth) -> None:
        """Forgets a series or study that no longer exists."""
        self._growths.pop((growth.study_instance_uid, growth.series_instance_uid), None)
