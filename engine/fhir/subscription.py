"""Subscription: what a client sends, and what it reads (R5 subscription.html; R4 by the R5 Backport guide 1.1).

    R4   criteria            the topic; its extension backport-filter-criteria: "ImagingStudy?patient=Patient/P1"
         channel             type, endpoint, header; extensions: heartbeat-period, timeout, payload-content of _payload
    R5   topic, filterBy     filterParameter, modifier, value
         channelType, endpoint, parameter, heartbeatPeriod, timeout, content

    requested ── the first notification was taken ──► active ◄──► error ── too many failures ──► off
                                                        └── the client, or its `end` ──────────► off

Every value is hostile. An address is judged by the server, not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlencode

from engine.errors import RequestError
from engine.fhir.datatypes import Json, without_empty
from engine.fhir.release import Release
from engine.fhir.search import parse
from engine.fhir.subscription_topic import TOPICS, Topic

BACKPORT: Final = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
CHANNELS: Final = ("rest-hook", "websocket")
CONTENTS: Final = ("empty", "id-only")
STATUSES: Final = ("requested", "active", "error", "off")
FILTERS_MAX: Final = 10
HEADERS_MAX: Final = 10
TEXT_MAX: Final = 1024
"""Characters of a value, of an address, of a header."""
HEARTBEAT_S: Final = (5, 86_400)
TIMEOUT_S: Final = (1, 60)
_CHANNEL_SYSTEM: Final = "http://terminology.hl7.org/CodeSystem/subscription-channel-type"
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})\s*:\s*([\x20-\x7e]{0,1024})", re.ASCII)
_NOT_SENT: Final = frozenset(
    (
        *("connection", "content-encoding", "content-length", "content-type", "expect", "filmroom-signature", "host"),
        *("keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
    )
)
"""Headers that a client does not set: they are ours, or those of a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a client asks for."""

    topic: Topic
    filters: tuple[tuple[str, str], ...]
    channel: str
    endpoint: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    content: str = "id-only"
    heartbeat_s: int = 0
    timeout_s: int = 0
    end: str = ""
    """An instant; "": it does not end by itself."""
    reason: str = ""
    is_off: bool = False


def read(resource: object, release: Release, root: str) -> Wanted:
    """What a resource asks for. `root`: the address of FHIR on this server. Raises RequestError."""
    if not isinstance(resource, dict) or resource.get("resourceType") != "Subscription":
        raise RequestError("the body is not a Subscription")
    status = _text(resource, "status")
    if status not in STATUSES:
        raise RequestError(f"status: must be one of {', '.join(STATUSES)}")
    of_release = _of_r5 if release is Release.R5 else _of_r4
    wanted = of_release(resource)
    if wanted["channel"] not in CHANNELS:
        raise RequestError(f"the channel must be one of {', '.join(CHANNELS)}")
    if wanted["content"] not in CONTENTS:
        raise RequestError(f"the content must be one of {', '.join(CONTENTS)}: whoever is told reads what it may")
    if (wanted["channel"] == "rest-hook") != bool(wanted["endpoint"]):
        raise RequestError("an endpoint: a rest-hook has one, and a websocket has none")
    found = Wanted(
        **wanted,
        end=_instant(_text(resource, "end")),
        reason=_text(resource, "reason")[:200],
        is_off=status == "off",
    )
    check_filters(found.topic, found.filters, root)
    return found


def check_filters(topic: Topic, filters: Sequence[tuple[str, str]], root: str) -> None:
    """Raises RequestError for a filter that the topic does not have, or a value that cannot be searched for."""
    if len(filters) > FILTERS_MAX:
        raise RequestError(f"there are more than {FILTERS_MAX} filters")
    for name, value in filters:
        if name not in topic.filters:
            raise RequestError(f"filters of this topic are {', '.join(topic.filters)}")
        if len(value) > TEXT_MAX:
            raise RequestError(f"{name}: is too long")
    # As they are asked for later, beside the id of what an event is about.
    parse(topic.parameters, [*filters, ("_id", "1.2.3")], root, is_lenient=False)


def _of_r4(resource: Mapping[str, Any]) -> dict[str, Any]:
    topic = _topic(_text(resource, "criteria"))
    channel = resource.get("channel")
    if not isinstance(channel, dict):
        raise RequestError("channel: is missing")
    filters: list[tuple[str, str]] = []
    for each in _extensions(resource.get("_criteria"), "filter-criteria"):
        kind, _, query = _text(each, "valueString").rpartition("?")
        if kind not in ("", topic.kind):
            raise RequestError(f"filters of this topic are of {topic.kind}")
        filters += _pairs(query)
    payload = _text(channel, "payload")
    if payload and payload.partition(";")[0] not in ("application/fhir+json", "application/json"):
        raise RequestError("channel.payload: must be application/fhir+json")
    contents = _extensions(channel.get("_payload"), "payload-content")
    content = _text(contents[0], "valueCode") if contents else ("id-only" if payload else "empty")
    return {
        "topic": topic,
        "filters": tuple(filters),
        "channel": _text(channel, "type"),
        "endpoint": _text(channel, "endpoint"),
        "headers": _headers(channel.get("header")),
        "content": content,
        "heartbeat_s": _seconds(channel, "heartbeat-period", HEARTBEAT_S),
        "timeout_s": _seconds(channel, "timeout", TIMEOUT_S),
    }


def _of_r5(resource: Mapping[str, Any]) -> dict[str, Any]:
    topic = _topic(_text(resource, "topic"))
    filters = []
    for each in _list(resource, "filterBy"):
        if _text(each, "resourceType") not in ("", topic.kind):
            raise RequestError(f"filterBy: filters of this topic are of {topic.kind}")
        if _text(each, "comparator") not in ("", "eq"):
            raise RequestError("filterBy.comparator: must be eq")
        modifier = _text(each, "modifier")
        name = _text(each, "filterParameter") + (f":{modifier}" if modifier else "")
        filters.append((name, _text(each, "value")))
    kind = resource.get("channelType")
    content_type = _text(resource, "contentType")
    if content_type and content_type.partition(";")[0] not in ("application/fhir+json", "application/json"):
        raise RequestError("contentType: must be application/fhir+json")
    parameters = [f"{_text(each, 'name')}: {_text(each, 'value')}" for each in _list(resource, "parameter")]
    return {
        "topic": topic,
        "filters": tuple(filters),
        "channel": _text(kind, "code") if isinstance(kind, dict) else "",
        "endpoint": _text(resource, "endpoint"),
        "headers": _headers(parameters),
        "content": _text(resource, "content") or "id-only",
        "heartbeat_s": _bounded(resource.get("heartbeatPeriod"), "heartbeatPeriod", HEARTBEAT_S),
        "timeout_s": _bounded(resource.get("timeout"), "timeout", TIMEOUT_S),
    }


def _topic(url: str) -> Topic:
    found = next((topic for topic in TOPICS.values() if topic.url == url.partition("|")[0]), None)
    if found is None:
        raise RequestError(f"the topic must be one of {', '.join(topic.url for topic in TOPICS.values())}")
    return found


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=FILTERS_MAX
        )
    except ValueError:
        raise RequestError("a filter is not as ImagingStudy?patient=Patient/P1") from None


def _headers(values: object) -> tuple[tuple[str, str], ...]:
    if values is None:
        return ()
    if not isinstance(values, list) or len(values) > HEADERS_MAX:
        raise RequestError(f"the headers are a list of at most {HEADERS_MAX}")
    found = []
    for value in values:
        match = _HEADER.fullmatch(value) if isinstance(value, str) else None
        if match is None or match[1].lower() in _NOT_SENT:
            raise RequestError("a header is not as `Name: value`, or is one that this server sets")
        found.append((match[1], match[2].strip()))
    return tuple(found)


def _instant(text: str) -> str:
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError(text)
        moment.timestamp()
    except (ValueError, OverflowError):
        raise RequestError("end: is not an instant as 2026-01-02T10:11:12Z") from None
    return text


def _seconds(element: Mapping[str, Any], name: str, bounds: tuple[int, int]) -> int:
    found = _extensions(element, name)
    return _bounded(found[0].get("valueUnsignedInt"), name, bounds) if found else 0


def _bounded(value: object, name: str, bounds: tuple[int, int]) -> int:
    if value is None or value == 0:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not bounds[0] <= value <= bounds[1]:
        raise RequestError(f"{name}: must be from {bounds[0]} to {bounds[1]} seconds")
    return value


def _extensions(element: object, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(element, dict):
        return []
    return [each for each in _list(element, "extension") if each.get("url") == BACKPORT + name]


def _list(element: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    values = element.get(name)
    if values is None:
        return []
    if not isinstance(values, list) or len(values) > 100 or not all(isinstance(each, dict) for each in values):
        raise RequestError(f"{name}: is not a list of objects")
    return values


def _text(element: Mapping[str, Any], name: str) -> str:
    value = element.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > TEXT_MAX or not value.isprintable():
        raise RequestError(f"{name}: is no text, or a long one")
    return value


# -- what a client reads --------------------------------------------------------------------------


class Standing(NamedTuple):
    """How a subscription is now."""

    status: str
    error: str = ""
    """Why it is not active."""
    owner: str = ""
    """Whose it is."""


def subscription(wanted: Wanted, identifier: str, standing: Standing, release: Release) -> Json:
    """The resource."""
    resource = (_as_r5 if release is Release.R5 else _as_r4)(wanted, standing)
    contact = [{"system": "other", "value": standing.owner}] if standing.owner else []
    return {
        "resourceType": "Subscription",
        **without_empty({"id": identifier, "status": standing.status, "contact": contact, **resource}),
    }


def _as_r4(wanted: Wanted, standing: Standing) -> Json:
    filters = f"{wanted.topic.kind}?{urlencode(wanted.filters)}"
    criteria = [_extension("filter-criteria", "valueString", filters)] if wanted.filters else []
    numbers = [("heartbeat-period", wanted.heartbeat_s), ("timeout", wanted.timeout_s)]
    channel = {
        "extension": [_extension(name, "valueUnsignedInt", value) for name, value in numbers if value],
        "type": wanted.channel,
        "endpoint": wanted.endpoint,
        "payload": "application/fhir+json",
        "_payload": {"extension": [_extension("payload-content", "valueCode", wanted.content)]},
        "header": [f"{name}: {value}" for name, value in wanted.headers],
    }
    return {
        "meta": {"profile": [f"{BACKPORT}subscription"]},
        "end": wanted.end,
        "reason": wanted.reason or wanted.topic.title,
        "criteria": wanted.topic.url,
        "_criteria": {"extension": criteria} if criteria else {},
        "error": standing.error,
        "channel": without_empty(channel),
    }


def _extension(name: str, member: str, value: object) -> Json:
    return {"url": BACKPORT + name, member: value}


def _as_r5(wanted: Wanted, standing: Standing) -> Json:
    del standing  # SubscriptionStatus has the error
    filters = []
    for name, value in wanted.filters:
        parameter, _, modifier = name.partition(":")
        each = {
            "resourceType": wanted.topic.kind, "filterParameter": parameter, "modifier": modifier, "value": value
        }  # fmt: skip
        filters.append(without_empty(each))
    return {
        "topic": wanted.topic.url,
        "end": wanted.end,
        "reason": wanted.reason,
        "filterBy": filters,
        "channelType": {"system": _CHANNEL_SYSTEM, "code": wanted.channel},
        "endpoint": wanted.endpoint,
        "parameter": [{"name": name, "value": value} for name, value in wanted.headers],
        "heartbeatPeriod": wanted.heartbeat_s or None,
        "timeout": wanted.timeout_s or None,
        "contentType": "application/fhir+json",
        "content": wanted.content,
    }
