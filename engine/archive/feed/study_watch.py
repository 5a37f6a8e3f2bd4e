"""Decides which events there are about the states of series and studies; the writer of the feed asks it.

due               quiet series and studies, complete studies: by time, or since all that was announced is here
with_reopenings   another instance of a study that was quiet or complete
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from engine import log
from engine.archive.feed import event as actions
from engine.archive.feed.event import Event, time_text
from engine.archive.feed.quiet import GROWING
from engine.dicom import tags
from engine.errors import EngineError, for_log
from engine.index.format.types import Level, Query

if TYPE_CHECKING:
    from engine.archive.feed.quiet import Growth, QuietTracker
    from engine.index.catalog import Catalog

logger = log.get("archive.feed")

Announced = Callable[[str], bool]
"""Study Instance UID → whether what it shall have is known, and is here. Raises EngineError."""


class StudyWatch:
    """Knows the tracker and the index; writes nothing."""

    def __init__(self, index: Catalog, tracker: QuietTracker, announced: Announced | None) -> None:
        self._index = index
        self._tracker = tracker
        self._announced = announced

    def due(self, now_s: float) -> Iterator[list[Event]]:
        """The events that are due; pass each to the tracker before the next."""
        for growth in self._tracker.due(now_s):
            events = self._quiet_events(growth, now_s)
            if events:
                yield events
            else:
                self._tracker.drop(growth)

    def with_reopenings(self, events: Sequence[Event]) -> Sequence[Event]:
        """The events, and before the first instance of a study that was quiet or complete that it is reopened."""
        result: list[Event] = []
        studies: set[str] = set()
        for event in events:
            if event.action in GROWING and event.study_instance_uid not in studies:
                studies.add(event.study_instance_uid)
                reason = self._why_reopened(event)
                if reason:
                    uid = event.study_instance_uid
                    reopened = Event(sequence=0, action=actions.STUDY_REOPENED, time=event.time, reason=reason)
                    reopened.study_instance_uid = uid
                    result.append(reopened)
            result.append(event)
        return result

    def _why_reopened(self, event: Event) -> str:
        """Why the study of an instance is reopened; "" if it is not."""
        known = self._tracker.state_of(event.study_instance_uid)
        if known is not None:
            return {"quiet": actions.AFTER_QUIET, "complete": actions.AFTER_COMPLETE}.get(known[0], "")
        query = Query(Level.STUDY, {tags.StudyInstanceUID: event.study_instance_uid.encode()})
        is_older = any(instance.stamp < int(event.version) for instance in self._index.select(query))
        return actions.AFTER_COMPLETE if event.study_instance_uid and is_older else ""

    def _quiet_events(self, growth: Growth, now_s: float) -> list[Event]:
        """What is to be said; nothing of a series or study that does not exist any more."""
        study, series = growth.study_instance_uid, growth.series_instance_uid
        count = self._count(study, series)
        if not count:
            return []
        if series:
            told = [(actions.SERIES_QUIET, "")]
        elif growth.is_quiet:
            told = [(actions.STUDY_COMPLETE, actions.IDLE)]
        else:
            told = [(actions.STUDY_QUIET, actions.IDLE)]
            if self._is_all_there(study):
                told.append((actions.STUDY_COMPLETE, actions.ANNOUNCED))
        return [
            Event(
                sequence=0,
                action=action,
                time=time_text(int(now_s * 1e9)),
                study_instance_uid=study,
                series_instance_uid=series,
                instances=count,
                reason=reason,
            )
            for action, reason in told
        ]

    def _is_all_there(self, study: str) -> bool:
        if self._announced is None:
            return False
        try:
            return self._announced(study)
        except EngineError as error:
            logger.warning("what is announced of a study cannot be read", reason=for_log(error))
            return False

    def _count(self, study: str, series: str) -> int:
        """Number of instances of a study, or of one of its series."""
        if not study:
            return 0
        if series:
            query = Query(
                Level.SERIES,
                {
                    tags.StudyInstanceUID: study.encode(),
                    tags.SeriesInstanceUID: series.encode(),
                    tags.NumberOfSeriesRelatedInstances: b"",
                },
            )
            counted = tags.NumberOfSeriesRelatedInstances
        else:
            query = Query(Level.STUDY, {tags.StudyInstanceUID: study.encode(), tags.NumberOfStudyRelatedInstances: b""})
            counted = tags.NumberOfStudyRelatedInstances
        return sum(int(match.attributes[counted]) for match in self._index.search(query))
