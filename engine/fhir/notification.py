"""What a subscription is told: bundles with the status first (R5 subscriptionstatus.html; R4 by the R5 Backport guide).

handshake             the first one: the endpoint agrees by taking it
heartbeat             nothing has happened for the time that the client has named
event-notification    what has happened, each with its number
query-status, query-event    the answers of $status and $events

R4   Bundle history, Parameters          R5   Bundle subscription-notification, SubscriptionStatus
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from engine.fhir.datatypes import Json, without_empty
from engine.fhir.release import Release

_PROFILE: Final = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-subscription-status-r4"
_NOTIFICATION: Final = (
    "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-subscription-notification-r4"
)


class Told(NamedTuple):
    """An event with its number."""

    number: int
    kind: str
    id: str
    """Of the resource; "": it is not named."""
    time: str


class Status(NamedTuple):
    """The state of a subscription."""

    id: str
    topic: str
    """Its canonical address."""
    status: str
    last: int
    """The number of the last event."""
    error: str = ""


def status_resource(status: Status, kind: str, events: Sequence[Told], root: str, release: Release) -> Json:
    """The status as a resource. `kind`: of notification; `root`: the address of FHIR on this server."""
    reference = f"{root}/Subscription/{status.id}"
    if release is Release.R5:
        return {
            "resourceType": "SubscriptionStatus",
            **without_empty(
                {
                    "status": status.status,
                    "type": kind,
                    "eventsSinceSubscriptionStart": status.last,
                    "notificationEvent": [
                        without_empty(
                            {
                                "eventNumber": event.number,
                                "timestamp": event.time,
                                "focus": _focus(event, root),
                            }
                        )
                        for event in events
                    ],
                    "subscription": {"reference": reference},
                    "topic": status.topic,
                    "error": [{"text": status.error}] if status.error else [],
                }
            ),
        }
    parameters: list[Json] = [
        {"name": "subscription", "valueReference": {"reference": reference}},
        {"name": "topic", "valueCanonical": status.topic},
        {"name": "status", "valueCode": status.status},
        {"name": "type", "valueCode": kind},
        {"name": "events-since-subscription-start", "valueString": str(status.last)},
    ]
    for event in events:
        parts: list[Json] = [
            {"name": "event-number", "valueString": str(event.number)},
            {"name": "timestamp", "valueInstant": event.time},
        ]
        if event.id:
            parts.append({"name": "focus", "valueReference": _focus(event, root)})
        parameters.append({"name": "notification-event", "part": parts})
    if status.error:
        parameters.append({"name": "error", "valueCodeableConcept": {"text": status.error}})
    return {"resourceType": "Parameters", "meta": {"profile": [_PROFILE]}, "parameter": parameters}


def _focus(event: Told, root: str) -> Json:
    return {"reference": f"{root}/{event.kind}/{event.id}"} if event.id else {}


def notification(
    status: Status, kind: str, events: Sequence[Told], root: str, release: Release, identity: str, time: str
) -> Json:
    """A notification. `identity`: a UUID of its own; `time`: when it is made."""
    entries: list[dict[str, Any]] = [
        {
            "fullUrl": f"urn:uuid:{identity}",
            "resource": status_resource(status, kind, events, root, release),
            "request": {"method": "GET", "url": f"Subscription/{status.id}/$status"},
            "response": {"status": "200"},
        }
    ]
    entries += [
        {
            "fullUrl": f"{root}/{kind_of}/{identifier}",
            "request": {"method": "GET", "url": f"{kind_of}/{identifier}"},
            "response": {"status": "200"},
        }
        for kind_of, identifier in dict.fromkeys((event.kind, event.id) for event in events if event.id)
    ]
    is_r5 = release is Release.R5
    return {
        "resourceType": "Bundle",
        **({} if is_r5 else {"meta": {"profile": [_NOTIFICATION]}}),
        "type": "subscription-notification" if is_r5 else "history",
        "timestamp": time,
        "entry": entries,
    }
