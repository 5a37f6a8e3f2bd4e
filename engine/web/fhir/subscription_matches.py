"""Which resources an event of the change feed is about, and whether a subscription may be told of them.

Rights are those of whoever subscribed, as they are now: what that one may not find by a search is not told. Everything
here blocks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from engine.access import FULL, Action, Principal, Records
from engine.access.principal import Kind
from engine.archive.admin.changed_studies import studies_of
from engine.archive.feed.event import CORRECTED, DELETED, RESTORED, STORED, STUDY_QUIET, VERSION_DELETED, decode
from engine.archive.questions import Level
from engine.dicom import tags
from engine.errors import RequestError
from engine.fhir.diagnostic_report import FORMS, REPORT_ATTRIBUTES
from engine.fhir.report_search import is_wanted
from engine.fhir.search import parse
from engine.fhir.subscription_topic import TOPICS
from engine.web.fhir import asking, reports
from engine.web.route import FHIR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.archive.subscriptions import Subscription
    from engine.archive.view import View
    from engine.fhir.subscription_topic import Topic
    from engine.runtime.engine import Engine

ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "imaging-study-available": (STUDY_QUIET,),
    "imaging-study-changed": (CORRECTED, DELETED, RESTORED, VERSION_DELETED),
    "report-available": (STORED,),
}
"""What the feed says, by topic."""
STUDIES_MAX: Final = 1000
"""Studies of one event: of a patient that was corrected."""
_CLASSES: Final = tuple(f'"{uid}"'.encode() for uid in FORMS)


def may_matter(topic: str, line: bytes) -> bool:
    """Whether an event, as the feed has it, may be about such a topic: most are images that were stored."""
    return topic != "report-available" or any(uid in line for uid in _CLASSES)


def principal_of(subscription: Subscription) -> Principal:
    """Whoever subscribed."""
    return Principal(
        Kind.HTTP,
        subscription.name,
        subscription.address,
        roles=frozenset(subscription.roles),
        session=subscription.session or ("job" if subscription.name else ""),
        attributes=subscription.attributes,
    )


def view_of(engine: Engine, subscription: Subscription) -> View:
    """The archive as whoever subscribed may search it now."""
    target = Records(TOPICS[subscription.topic].kind, "s")
    return engine.archive.view(engine.access.scope(principal_of(subscription), Action.QUERY, target))


def resources_of(engine: Engine, topic: Topic, line: bytes) -> list[str]:
    """The ids of the resources that an event is about."""
    event = decode(line)
    if topic.kind == "DiagnosticReport":
        return [event.sop_instance_uid]
    if event.action == STUDY_QUIET:
        return [event.study_instance_uid]
    return sorted(studies_of(engine.archive, event))[:STUDIES_MAX]


def may_be_told(view: View, subscription: Subscription, identifier: str) -> bool:
    """Whether whoever sees this view finds a resource, and it meets the filters."""
    topic = TOPICS[subscription.topic]
    pairs: Sequence[tuple[str, str]] = [*subscription.filters, ("_id", identifier)]
    try:
        search = parse(topic.parameters, pairs, subscription.root + FHIR, is_lenient=False)
        if search.is_empty:
            return False
        if topic.kind == "DiagnosticReport":
            keys = {tags.SOPClassUID: reports.CLASSES, **search.keys}
            question = asking.below(view, Level.IMAGE, keys, REPORT_ATTRIBUTES, 1)
            return any(is_wanted(search, match.attributes) for match in view.find(question))
        question = asking.query(view, Level.STUDY, search, (tags.StudyInstanceUID,))
        is_found = any(True for _ in view.find(replace(question, limit=1)))
    except RequestError:
        return False  # a UID with a wild card, or a filter that an older version took
    # Whose a study was that is gone, nobody can tell: only who sees everything is told of it.
    is_gone = subscription.topic == "imaging-study-changed" and view.scope is FULL and not subscription.filters
    return is_found or is_gone
