"""fhir.subscription: what clients send is read strictly, in both releases, and shown as it was sent."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import RequestError
from engine.fhir.release import Release
from engine.fhir.subscription import BACKPORT, Standing, read, subscription
from engine.fhir.subscription_topic import TOPICS

ROOT = "https://pacs.example/fhir"
URL = "https://ehr.example/hook"


def r4(**channel: Any) -> dict[str, Any]:
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "criteria": TOPICS["report-available"].url,
        "channel": {"type": "rest-hook", "endpoint": URL, "payload": "application/fhir+json", **channel},
    }


def r5(**more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "topic": TOPICS["report-available"].url,
        "channelType": {"code": "rest-hook"},
        "endpoint": URL,
        **more,
    }


def filtered(query: object) -> dict[str, Any]:
    extension = [{"url": f"{BACKPORT}filter-criteria", "valueString": query}]
    return {**r4(), "_criteria": {"extension": extension}}


def test_what_is_sent_is_shown_again() -> None:
    numbers = [
        {"url": f"{BACKPORT}heartbeat-period", "valueUnsignedInt": 60},
        {"url": f"{BACKPORT}timeout", "valueUnsignedInt": 20},
    ]
    sent = filtered("DiagnosticReport?patient=Patient%2FP1&status=final,partial")
    sent["channel"] |= {"extension": numbers, "header": ["Authorization: Bearer a b"]}
    sent |= {"end": "2027-01-02T10:11:12Z", "reason": "test"}
    wanted = read(sent, Release.R4, ROOT)
    assert wanted.filters == (("patient", "Patient/P1"), ("status", "final,partial"))
    assert (wanted.heartbeat_s, wanted.timeout_s, wanted.content) == (60, 20, "id-only")
    assert wanted.headers == (("Authorization", "Bearer a b"),)
    for release in Release:
        shown = subscription(wanted, "1", Standing("active"), release)
        assert read(shown, release, ROOT) == wanted


def wrong() -> list[tuple[Any, Release]]:
    name = {"url": f"{BACKPORT}heartbeat-period"}
    contents = {"extension": [{"url": f"{BACKPORT}payload-content", "valueCode": "full-resource"}]}
    of_r4: list[Any] = [
        None, [], "x", {}, {"resourceType": "Patient"}, {**r4(), "status": "maybe"}, {**r4(), "status": 1},
        {**r4(), "criteria": "ImagingStudy?patient=P1"}, {**r4(), "criteria": None}, {**r4(), "channel": []},
        {**r4(), "end": "soon"}, {**r4(), "end": "2026-01-01T00:00:00"}, {**r4(), "reason": "x" * 2000},
        {**r4(), "_criteria": {"extension": "x"}}, {**r4(), "_criteria": {"extension": [1]}},
        r4(type="email"), r4(type="websocket"), r4(endpoint=""), r4(endpoint=5), r4(endpoint="x" * 2000),
        r4(payload="application/xml"), r4(_payload=contents), r4(header="Authorization: x"), r4(header=["A: b"] * 11),
        r4(header=["no colon"]), r4(header=["Host: other"]), r4(header=["Content-Length: 1"]),
        r4(header=["A: b\r\nC: d"]),
        r4(header=["A: b\nC: d"]), r4(header=["Transfer-Encoding: chunked"]), r4(header=["\u00e4: x"]), r4(header=[{}]),
        *(r4(extension=[{**name, "valueUnsignedInt": value}]) for value in (1, -5, 10**9, "60", True, 5.5, [])),
        filtered("Patient?name=x"), filtered("DiagnosticReport?modality=CT"), filtered("DiagnosticReport?patient=*"),
        filtered("DiagnosticReport?_count=5"), filtered("DiagnosticReport?" + "&".join(["status=final"] * 11)),
        filtered("DiagnosticReport?patient=P1&patient=P2"), filtered("DiagnosticReport?x"), filtered(7),
        filtered("DiagnosticReport?patient=" + "1" * 2000), filtered("DiagnosticReport?status=%ff"),
    ]  # fmt: skip
    of_r5: list[Any] = [
        r5(topic=7), r5(topic="urn:other"), r5(channelType="rest-hook"), r5(content="full-resource"),
        r5(contentType="text/plain"), r5(filterBy={}), r5(filterBy=[{"filterParameter": "x", "value": "1"}]),
        r5(filterBy=[{"filterParameter": "patient", "value": "P1", "comparator": "gt"}]),
        r5(filterBy=[{"filterParameter": "patient", "value": "P1", "modifier": "not"}]),
        r5(filterBy=[{"resourceType": "Patient", "filterParameter": "patient", "value": "P1"}]),
        r5(filterBy=[{"filterParameter": "patient"}]), r5(heartbeatPeriod=1), r5(timeout=3600),
        r5(parameter=[{"name": "Connection", "value": "close"}]), r5(parameter=[{"name": "A B", "value": "x"}]),
    ]  # fmt: skip
    return [*((each, Release.R4) for each in of_r4), *((each, Release.R5) for each in of_r5)]


@pytest.mark.parametrize("number", range(len(wrong())))
def test_what_is_no_subscription_is_refused(number: int) -> None:
    body, release = wrong()[number]
    with pytest.raises(RequestError):
        read(body, release, ROOT)
