"""Topics that clients can subscribe to (R5 subscriptiontopic.html; R4 by the Subscriptions R5 Backport guide).

imaging-study-available    a study is here, and nothing of it has come for a while
imaging-study-changed      a study was corrected, or something of it deleted or restored
report-available           a report was stored
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from engine.fhir.datatypes import Json
from engine.fhir.report_search import DIAGNOSTIC_REPORT
from engine.fhir.search import IMAGING_STUDY, Parameter

ROOT: Final = "urn:filmroom:subscription-topic:"


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic."""

    name: str
    title: str
    kind: str
    """Of the resources that its events are about."""
    interactions: tuple[str, ...]
    """create, update, delete: what has happened to them."""
    parameters: Mapping[str, Parameter]
    filters: tuple[str, ...]
    """The parameters that a subscription may filter by."""

    @property
    def url(self) -> str:
        """Its canonical address."""
        return ROOT + self.name


_OF_STUDIES: Final = ("patient", "patient.identifier", "patient:identifier", "subject", "identifier", "modality")
_OF_REPORTS: Final = (
    *("patient", "patient.identifier", "patient:identifier", "subject"),
    *("based-on:identifier", "based-on.identifier", "status", "code"),
)
TOPICS: Final[Mapping[str, Topic]] = {
    topic.name: topic
    for topic in (
        Topic(
            "imaging-study-available", "A study is here, and nothing of it has come for a while", "ImagingStudy",
            ("create", "update"), IMAGING_STUDY, _OF_STUDIES,
        ),
        Topic(
            "imaging-study-changed", "A study was corrected, or something of it deleted or restored", "ImagingStudy",
            ("update", "delete"), IMAGING_STUDY, _OF_STUDIES,
        ),
        Topic(
            "report-available", "A report was stored", "DiagnosticReport", ("create",), DIAGNOSTIC_REPORT,
            _OF_REPORTS,
        ),
    )
}  # fmt: skip


def subscription_topic(topic: Topic) -> Json:
    """The resource, in R5."""
    return {
        "resourceType": "SubscriptionTopic",
        "id": topic.name,
        "url": topic.url,
        "title": topic.title,
        "status": "active",
        "resourceTrigger": [
            {"description": topic.title, "resource": topic.kind, "supportedInteraction": list(topic.interactions)}
        ],
        "canFilterBy": [
            {"description": topic.parameters[name].text, "resource": topic.kind, "filterParameter": name}
            for name in topic.filters
            if ":" not in name and "." not in name
        ],
        "notificationShape": [{"resource": topic.kind}],
    }
