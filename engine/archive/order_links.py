"""Follows the change feed, and tells the registry of orders which studies have come.

    study_quiet       the study is linked to the orders that it names (`orders.linking`), and shows what the registry
                      knows of its patient
    study_complete    the steps of these orders that no MPPS reports on are completed (`[worklist] arrival`)

Its place in the feed is the cursor "orders". An event may come twice; the second time changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from engine import log
from engine.archive.feed.event import STUDY_COMPLETE, STUDY_QUIET, Event
from engine.dicom import items, tags
from engine.errors import CursorRefused, DataSetError, FeedMissing, for_log
from engine.index.format.types import Level, Query, Root
from engine.orders.linking import Named
from engine.orders.values import Source

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.feed.subscription import Feed
    from engine.orders.registry import Orders

logger = log.get("archive.order_links")

CURSOR = "orders"
ARRIVAL = Source(name="arrival")
REQUESTS_MAX = 100
"""Request attributes of one study that are looked at."""


class OrderLinks:
    """Used by one thread."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._feed: Feed = archive.feed()
        self.studies = 0
        """Studies that were told of, since the start."""

    def follow(self, orders: Orders, *, completes: bool) -> bool:
        """Handles the next events; returns whether there may be more. Raises EngineError."""
        cursor = self._feed.cursors.load(CURSOR)
        try:
            page = self._feed.read(cursor or self._feed.oldest())
        except CursorRefused as refusal:
            logger.warning("orders were not told of some studies", why=for_log(refusal))
            self._feed.cursors.save(CURSOR, self._feed.newest())
            return False
        except FeedMissing:
            return False  # without a feed nothing says when a study has come
        self.handle(orders, (*page.events_of(STUDY_QUIET), *page.events_of(STUDY_COMPLETE)), completes=completes)
        if page.cursor != cursor:
            self._feed.cursors.save(CURSOR, page.cursor)
        return bool(page.lines)

    def handle(self, orders: Orders, events: Iterable[Event], *, completes: bool) -> None:
        """Tells the registry of the studies of these events."""
        for event in events:
            named = self._named(event.study_instance_uid)
            if named is None:
                continue
            is_complete = event.action == STUDY_COMPLETE and completes
            orders.study_arrived(named, ARRIVAL, is_complete=is_complete)
            self.studies += 1

    def _named(self, study_instance_uid: str) -> Named | None:
        """What the study says of its order; None: it is not stored any more."""
        asked = (tags.PatientID, tags.IssuerOfPatientID, tags.AccessionNumber, tags.RequestAttributesSequence)
        keys = {tags.StudyInstanceUID: study_instance_uid.encode(), **dict.fromkeys(asked, b"")}
        series = list(self._archive.find(Query(Level.SERIES, keys, Root.STUDY, relational=True, limit=REQUESTS_MAX)))
        if not series:
            return None
        first = series[0].attributes
        patient_id, issuer, accession = (first.get(tag, b"").decode("utf-8", "replace").strip() for tag in asked[:3])
        requested = dict.fromkeys(
            pair for match in series for pair in _requests(match.attributes.get(tags.RequestAttributesSequence, b""))
        )
        return Named(
            study_instance_uid=study_instance_uid,
            accession=accession,
            patient_id=patient_id,
            patient_issuer=issuer,
            requested=tuple(requested)[:REQUESTS_MAX],
        )


def _requests(blob: bytes) -> list[tuple[str, str]]:
    """Requested Procedure ID and Scheduled Procedure Step ID of each item."""
    try:
        decoded = items.decode_items(blob)
    except DataSetError:
        return []
    pairs = []
    for item in decoded:
        texts = {each.tag: each.value.decode("utf-8", "replace").strip(" \0") for each in item}
        pairs.append((texts.get(tags.RequestedProcedureID, ""), texts.get(tags.ScheduledProcedureStepID, "")))
    return [pair for pair in pairs if pair[0]]
