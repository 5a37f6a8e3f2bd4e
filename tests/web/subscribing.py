"""A hosted server with a change feed, clients that subscribe there, and what they were told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from engine.access import ARCHIVE, FULL, Action, Decision, Policy, Principal, Scope, Target
from engine.archive.feed.quiet import QuietTimes
from engine.fhir.subscription import BACKPORT
from engine.fhir.subscription_topic import TOPICS
from engine.outbox import follower, tables
from engine.web.fhir import notifying
from engine.web.settings import Fhir, Http
from tests.archive.feed.followed import NEVER, writer_of
from tests.system.server import wait_for
from tests.web.fhir_asking import checked
from tests.web.hosting import Hosting, hosted
from tests.web.test_webhooks import Receiver

OTHER = {"X-Forwarded-For": "10.0.0.9"}
"""Somebody else."""
R5_BODY = "application/fhir+json; fhirVersion=5.0"


class Rules(Policy):
    """Everybody sees everything at first, and nobody is an administrator."""

    chosen: Scope = FULL
    administrator = ""

    def scope(self, principal: Principal, action: Action, target: Target = ARCHIVE) -> Scope:
        return self.chosen

    def allowed(self, principal: Principal, action: Action, target: Target = ARCHIVE) -> Decision:
        if action is Action.ADMINISTER and principal.address != self.administrator:
            return Decision(False, "no administrator")
        return super().allowed(principal, action, target)


@contextmanager
def serving(data: Path, receiver: Receiver, quiet: QuietTimes = NEVER, **more: Any) -> Iterator[Hosting]:
    """A server whose subscriptions may send to the receiver."""
    http = Http(trusted_proxies=("127.0.0.1",), allow=("127.0.0.0/8", "10.0.0.0/8"))
    settings = {"notify": (f"http://127.0.0.1:{receiver.port}",), "retry_s": 0.02, "retry_s_max": 0.05, **more}
    with pytest.MonkeyPatch.context() as patch:
        for module in (tables, follower, notifying):
            patch.setattr(module, "CHECK_S", 0.05)
        with hosted(data, http=http, fhir=Fhir(**settings)) as hosting:
            hosting.engine.access = Rules(lambda: hosting.engine.config, hosting.engine.access.directory)  # type: ignore[attr-defined]
            writer = writer_of(hosting.engine.archive, quiet)
            writer.start()
            try:
                yield hosting
            finally:
                writer.close()


def rules_of(hosting: Hosting) -> Rules:
    assert isinstance(hosting.engine.access, Rules)
    return hosting.engine.access


def r4(topic: str, *, url: str = "", query: str = "", **more: Any) -> dict[str, Any]:
    """A subscription of R4: a rest-hook with an address, else a WebSocket."""
    criteria = [{"url": f"{BACKPORT}filter-criteria", "valueString": query}]
    channel = {
        "type": "rest-hook" if url else "websocket",
        **({"endpoint": url} if url else {}),
        "payload": "application/fhir+json",
        "_payload": {"extension": [{"url": f"{BACKPORT}payload-content", "valueCode": "id-only"}]},
        **more,
    }
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "test",
        "criteria": TOPICS[topic].url,
        **({"_criteria": {"extension": criteria}} if query else {}),
        "channel": channel,
    }


def r5(topic: str, *, url: str = "", **more: Any) -> dict[str, Any]:
    """The same in R5."""
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "topic": TOPICS[topic].url,
        "channelType": {"code": "rest-hook" if url else "websocket"},
        **({"endpoint": url} if url else {}),
        **more,
    }


def send(
    hosting: Hosting, body: object, method: str = "POST", path: str = "", status: int = 201, **headers: str
) -> dict[str, Any]:
    """Creates or changes a subscription."""
    is_r5 = isinstance(body, dict) and "topic" in body
    content_type = R5_BODY if is_r5 else "application/fhir+json"
    answer = requests.request(
        method,
        f"{hosting.url}/fhir/Subscription{path}",
        data=json.dumps(body),
        headers={"Content-Type": content_type, "Accept": content_type, **headers},
        timeout=60,
    )
    assert answer.status_code == status, answer.text
    return checked(answer.json(), is_r5=is_r5)


def told(receiver: Receiver, kind: str = "event-notification") -> list[dict[str, Any]]:
    """The status of each notification of a kind, in the form of R5."""
    found = [status_of(checked(json.loads(body), is_r5=b"SubscriptionStatus" in body)) for _, body in receiver.requests]
    return [status for status in found if status["type"] == kind]


def status_of(bundle: dict[str, Any]) -> dict[str, Any]:
    """The status in a notification, in the form of R5."""
    return plain(bundle["entry"][0]["resource"])


def plain(resource: dict[str, Any]) -> dict[str, Any]:
    """A status, in the form of R5."""
    if resource["resourceType"] == "SubscriptionStatus":
        return resource
    values: dict[str, Any] = {"notificationEvent": []}
    for parameter in resource["parameter"]:
        if parameter["name"] == "notification-event":
            parts = {part["name"]: part for part in parameter["part"]}
            event: dict[str, Any] = {"eventNumber": int(parts["event-number"]["valueString"])}
            if "focus" in parts:
                event["focus"] = parts["focus"]["valueReference"]
            values["notificationEvent"].append(event)
        else:
            (value,) = (value for name, value in parameter.items() if name != "name")
            values[parameter["name"]] = value
    values["eventsSinceSubscriptionStart"] = int(values["events-since-subscription-start"])
    return values


def events(receiver: Receiver, subscription: str = "") -> list[tuple[int, str]]:
    """Number and resource of each event that was sent, in order; with an id, those of one subscription."""
    return [
        pair
        for status in told(receiver)
        if status["subscription"]["reference"].endswith(subscription)
        for pair in events_of(status)
    ]


def events_of(status: dict[str, Any]) -> list[tuple[int, str]]:
    return [
        (event["eventNumber"], "/".join(event.get("focus", {}).get("reference", "").split("/")[-2:]))
        for event in status.get("notificationEvent", [])
    ]


def until(condition: Callable[[], object], what: str) -> None:
    """Waits; for long, since a notification waits for several processes of a machine that may be busy."""
    wait_for(condition, 180.0, what)
