"""Instance Availability Notification, SCU (PS3.4 R): tells a peer which instances of a study it can retrieve here.

    study_quiet, study_complete    all instances of the study that the peer may see, ONLINE or NEARLINE
    deleted                        those that went to the trash, UNAVAILABLE. What is deleted at once is not announced:
                                   its SOP classes, which a notification must have, are gone with it

One N-CREATE a study. Its SOP Instance UID follows from the event: a peer that gets it again sees that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from engine.access import FULL
from engine.archive.feed.event import DELETED, decode
from engine.dicom import tags
from engine.dicom.identifier import Value
from engine.dimse.messages import NCreateRQ
from engine.exchange.identity import uid_of
from engine.exchange.matching import matching
from engine.exchange.normalized import INSTANCE_AVAILABILITY, request
from engine.index.format.types import Level
from engine.index.query.keywords import query_of
from engine.outbox.follower import Sink

if TYPE_CHECKING:
    from engine.archive.feed.event import Event
    from engine.exchange.settings import Rule
    from engine.index.format.types import Instance
    from engine.outbox.source import Unit
    from engine.runtime.engine import Engine

UNAVAILABLE: Final = b"UNAVAILABLE"


class Notifications(Sink[list[bytes]]):
    """The notifications of one rule to one peer."""

    def __init__(self, engine: Engine, rule: Rule, aet: str) -> None:
        self._engine = engine
        self._rule = rule
        self._aet = aet

    async def deliver(self, unit: Unit[list[bytes]], reset: str) -> None:
        """Sends the notification of an event. Raises DeliveryFailed, AssociationFailed, QueryError."""
        event = decode(unit.content[0])
        items = await self._engine.pools.slow.run(partial(self._items, event))
        if items is None:
            return
        uid = uid_of(self._engine, f"{self._rule.name}:{self._aet}", unit.before)
        await request(
            self._engine.config,
            self._aet,
            INSTANCE_AVAILABILITY,
            items,
            lambda message_id: NCreateRQ(message_id, INSTANCE_AVAILABILITY, uid, True),
        )
        self._engine.metrics.counters["availability_notifications_sent"] += 1

    def _items(self, event: Event) -> dict[int, Value] | None:
        """The attributes; None if there is nothing to tell."""
        engine, aet = self._engine, self._aet
        peer = engine.config.peer(aet)
        scope = FULL if peer is None else engine.access.scope_of_destination(aet)
        if event.action == DELETED:
            gone = set(event.sop_instance_uids)
            instances: Iterable[Instance] = (
                one for one in engine.archive.in_trash(event.trash) if one.sop_instance_uid in gone
            )
            # Whether the peer might see the study cannot be asked any more once all of it is gone.
            if scope is not FULL and not engine.archive.view(scope).sees(event.study_instance_uid):
                return None
            return notification(event.study_instance_uid, instances, lambda one: UNAVAILABLE, engine.config.aet)
        study = event.study_instance_uid
        if not matching(engine, self._rule, [study], aet, also_own=True):
            return None
        view = engine.archive.view(scope)
        instances = view.matching(query_of(Level.STUDY, {tags.StudyInstanceUID: study}, view.schema))
        return notification(study, instances, view.availability_of_instances(), engine.config.aet)


def notification(
    study: str, instances: Iterable[Instance], availability_of: Callable[[Instance], bytes], aet: str
) -> dict[int, Value] | None:
    """The attributes of a notification (PS3.4 Table R.3-1); None without instances."""
    series: dict[str, list[dict[int, Value]]] = {}
    for instance in instances:
        series.setdefault(instance.series_instance_uid, []).append(
            {
                tags.RetrieveAETitle: aet.encode(),
                tags.InstanceAvailability: availability_of(instance),
                tags.ReferencedSOPClassUID: instance.sop_class_uid.encode(),
                tags.ReferencedSOPInstanceUID: instance.sop_instance_uid.encode(),
            }
        )
    if not series:
        return None
    return {
        tags.ReferencedPerformedProcedureStepSequence: [],
        tags.ReferencedSeriesSequence: [
            {tags.ReferencedSOPSequence: references, tags.SeriesInstanceUID: uid.encode()}
            for uid, references in series.items()
        ],
        tags.StudyInstanceUID: study.encode(),
    }
