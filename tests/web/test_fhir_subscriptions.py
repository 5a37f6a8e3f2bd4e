"""Subscriptions of FHIR: in order, numbered, signed, again after failures and restarts, and never beyond a right."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests

from engine.access import FULL
from engine.access.principal import Kind, Principal
from engine.access.scope import NOTHING, Attribute, Matching, scope_of
from engine.archive.admin import corrections
from engine.archive.feed.quiet import QuietTimes
from engine.archive.subscriptions import OWN_MAX
from engine.dicom import tags
from engine.web.fhir import subscription_channel, subscription_matches
from tests import samples
from tests.archive.filled import payload_of, store
from tests.web.fhir_asking import R5, checked, get
from tests.web.hosting import Hosting
from tests.web.subscribing import (
    OTHER,
    events,
    events_of,
    plain,
    r4,
    r5,
    rules_of,
    send,
    serving,
    status_of,
    told,
    until,
)
from tests.web.test_fhir_reports import structured
from tests.web.test_webhooks import Receiver

SECRET = "hush"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture(scope="module")
def of_all() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, of_all: Receiver) -> Iterator[Hosting]:
    folder = tmp_path_factory.mktemp("subscriptions")
    (folder / "secret").write_text(SECRET)
    with serving(folder / "data", of_all, QuietTimes(0.2, 0.2, 86_400.0), secret_file=folder / "secret") as hosting:
        store(hosting.engine.archive, payload_of(90, patient_id="P90"), payload_of(91, patient_id="P91"))
        yield hosting


@pytest.fixture
def hosting(shared: Hosting, of_all: Receiver) -> Iterator[Hosting]:
    of_all.requests.clear()
    rules_of(shared).chosen, rules_of(shared).administrator = FULL, ""
    yield shared
    rules_of(shared).administrator = "127.0.0.1"
    for entry in get(shared, "Subscription?_count=200").get("entry", []):
        requests.delete(f"{shared.url}/fhir/Subscription/{entry['resource']['id']}", timeout=60)


def report(hosting: Hosting, study: int, number: int, **more: Any) -> str:
    """Stores a report; returns its reference."""
    store(hosting.engine.archive, samples.encoded(structured(study, number, **more)))
    return f"DiagnosticReport/{samples.ROOT}.{study}.2.{number}"


def is_active(hosting: Hosting, identifier: str) -> bool:
    return bool(get(hosting, f"Subscription/{identifier}")["status"] == "active")


@pytest.mark.parametrize("is_r5", [False, True], ids=["R4", "R5"])
def test_a_hook_is_asked_first_then_told_in_order_and_may_ask_again(
    hosting: Hosting, of_all: Receiver, is_r5: bool
) -> None:
    study = 20 + is_r5
    body = (r5 if is_r5 else r4)("report-available", url=of_all.url)
    body |= {"parameter": [{"name": "X-Key", "value": "k"}]} if is_r5 else {}
    if not is_r5:
        body["channel"]["header"] = ["X-Key: k"]
    made = send(hosting, body)
    identifier = made["id"]
    until(lambda: told(of_all, "handshake"), "the handshake")
    until(lambda: is_active(hosting, identifier), "an active subscription")
    foci = [report(hosting, study, number) for number in (1, 2, 3)]
    until(lambda: len(events(of_all)) == 3, "three events")
    assert events(of_all) == list(enumerate(foci, 1))
    headers, content = of_all.requests[-1]
    when, _, signature = headers["Filmroom-Signature"].removeprefix("t=").partition(",v1=")
    assert signature == hmac.new(SECRET.encode(), when.encode() + b"." + content, hashlib.sha256).hexdigest()
    assert headers["X-Key"] == "k" and headers["Content-Type"].endswith("5.0" if is_r5 else "4.0")
    assert b"P20" not in content and b"Doe" not in content  # ids only

    status = get(hosting, f"Subscription/{identifier}/$status", is_r5=is_r5)
    shown = plain(status["entry"][0]["resource"])
    assert (shown["status"], shown["type"], shown["eventsSinceSubscriptionStart"]) == ("active", "query-status", 3)
    again = get(hosting, f"Subscription/{identifier}/$events?eventsSinceNumber=2", is_r5=is_r5)
    assert events_of(status_of(again)) == list(enumerate(foci, 1))[1:]
    bounded = get(hosting, f"Subscription/{identifier}/$events?eventsUntilNumber=1&content=empty", is_r5=is_r5)
    assert events_of(status_of(bounded)) == [(1, "")]

    assert requests.delete(f"{hosting.url}/fhir/Subscription/{identifier}", timeout=60).status_code == 204
    get(hosting, f"Subscription/{identifier}", status=404)
    get(hosting, f"Subscription/{identifier}/$events", status=404)
    files = hosting.engine.archive.subscription_files()
    until(lambda: not files.events(identifier).last(), "no events of it")
    until(lambda: hosting.engine.archive.subscription_standings().load(identifier) is None, "no progress of it")


def test_studies_that_arrive_change_and_go_are_told(hosting: Hosting, of_all: Receiver) -> None:
    # Studies that were stored before may become quiet only now: the filter keeps them out.
    query = "ImagingStudy?patient=Patient/P30"
    available = send(hosting, r4("imaging-study-available", url=of_all.url, query=query))["id"]
    changed = send(hosting, r4("imaging-study-changed", url=of_all.url))["id"]
    until(lambda: is_active(hosting, available) and is_active(hosting, changed), "active subscriptions")
    archive, study = hosting.engine.archive, f"ImagingStudy/{samples.ROOT}.30"
    store(archive, payload_of(30, 1, 1, patient_id="P30"), payload_of(30, 1, 2, patient_id="P30"))
    until(lambda: events(of_all, available), "the arrival")
    assert events(of_all, available)[0] == (1, study) and not events(of_all, changed)
    who = Principal(Kind.OPERATOR, "ann")
    corrections.correct(archive, {tags.PatientName: "Roe^Rita"}, patient="P90", actor=who, reason="name")
    until(lambda: (1, f"ImagingStudy/{samples.ROOT}.90") in events(of_all, changed), "the correction")
    requests.delete(f"{hosting.url}/dicom-web/studies/{samples.ROOT}.30", timeout=60)
    until(lambda: (2, study) in events(of_all, changed), "the deletion")


def test_only_what_meets_the_filters_is_told(hosting: Hosting, of_all: Receiver) -> None:
    send(hosting, r4("report-available", url=of_all.url, query="DiagnosticReport?patient=Patient/P41&status=final"))
    filters = [{"filterParameter": "patient", "modifier": "identifier", "value": "P42"}]
    send(hosting, r5("report-available", url=of_all.url, filterBy=filters))
    until(lambda: len(told(of_all, "handshake")) == 2, "the handshakes")
    report(hosting, 40, 1, VerificationFlag="VERIFIED")
    report(hosting, 41, 1)
    first = report(hosting, 41, 2, VerificationFlag="VERIFIED")
    second = report(hosting, 42, 1)
    until(lambda: len(events(of_all)) >= 2, "two events")
    assert sorted(events(of_all)) == sorted([(1, first), (1, second)])


def test_what_may_not_be_seen_any_more_is_not_sent(hosting: Hosting, of_all: Receiver) -> None:
    identifier = send(hosting, r4("report-available", url=of_all.url))["id"]
    until(lambda: is_active(hosting, identifier), "an active subscription")
    rules_of(hosting).chosen = scope_of([frozenset({Matching.of(Attribute.INSTITUTION, ["house 5"])})])
    report(hosting, 50, 1, InstitutionName="House 6")
    seen = report(hosting, 50 + 1, 1, InstitutionName="House 5")
    until(lambda: events(of_all), "an event")
    assert events(of_all) == [(1, seen)]
    assert events_of(status_of(get(hosting, f"Subscription/{identifier}/$events"))) == [(1, seen)]
    # An attempt failed, and meanwhile the right is gone.
    of_all.answers = [500] * 1000
    count = len(of_all.requests)
    report(hosting, 52, 1, InstitutionName="House 5")
    until(lambda: len(of_all.requests) > count, "an attempt")
    assert get(hosting, f"Subscription/{identifier}")["status"] in ("active", "error")
    rules_of(hosting).chosen = NOTHING
    until(lambda: is_active(hosting, identifier), "nothing left to send")
    of_all.answers.clear()
    assert not events_of(status_of(get(hosting, f"Subscription/{identifier}/$events")))


def test_a_failure_is_tried_again_and_shown_then_the_subscription_is_off_until_requested(
    tmp_path: Path, receiver: Receiver
) -> None:
    with serving(tmp_path / "data", receiver, attempts_max=4) as hosting:
        body = r4("report-available", url=receiver.url)
        receiver.answers = [500, 302]
        identifier = send(hosting, body)["id"]
        until(lambda: is_active(hosting, identifier), "an active subscription")
        assert len(told(receiver, "handshake")) == 3
        receiver.answers = [503, 503]
        first = report(hosting, 1, 1)
        until(lambda: len(receiver.requests) == 6, "three attempts")
        until(lambda: is_active(hosting, identifier), "that the third was taken")
        assert set(events(receiver)) == {(1, first)}
        receiver.answers = [500] * 4
        report(hosting, 1, 2)

        def status() -> dict[str, Any]:
            return get(hosting, f"Subscription/{identifier}")

        until(lambda: status()["status"] == "off", "that it is off")
        assert "500" in status()["error"]
        count = len(receiver.requests)
        report(hosting, 1, 3)
        sent = send(hosting, body, "PUT", f"/{identifier}", status=200)
        assert sent["id"] == identifier
        until(lambda: len(events(receiver)) >= 9, "what was not taken, and what followed")
        assert [number for number, _ in events(receiver)][-2:] == [2, 3] and len(receiver.requests) == count + 3
        send(hosting, {**body, "status": "off"}, "PUT", f"/{identifier}", status=200)
        assert status()["status"] == "off"


def test_a_restart_loses_nothing_and_an_event_keeps_its_number(tmp_path: Path, receiver: Receiver) -> None:
    data = tmp_path / "data"
    with serving(data, receiver) as hosting:
        identifier = send(hosting, r4("report-available", url=receiver.url))["id"]
        until(lambda: is_active(hosting, identifier), "an active subscription")
        standings = hosting.engine.archive.subscription_standings()
        before = standings.load(identifier)
        first = report(hosting, 1, 1)
        until(lambda: len(events(receiver)) == 1, "an event")
    assert before is not None
    standings.save(before)  # as after a kill before the position was saved
    with serving(data, receiver) as hosting:
        until(lambda: len(events(receiver)) == 2, "the event again")
        second = report(hosting, 1, 2)
        until(lambda: len(events(receiver)) == 3, "the next event")
        assert events(receiver) == [(1, first), (1, first), (2, second)]
        assert len(told(receiver, "handshake")) == 1


def test_what_may_not_be_seen_any_more_is_not_sent_again_after_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    data = tmp_path / "data"
    with serving(data, receiver) as hosting:
        identifier = send(hosting, r4("report-available", url=receiver.url))["id"]
        until(lambda: is_active(hosting, identifier), "an active subscription")
        standings = hosting.engine.archive.subscription_standings()
        before = standings.load(identifier)
        first = report(hosting, 1, 1)
        until(lambda: len(events(receiver)) == 1, "an event")
    assert before is not None
    standings.save(before)  # as after a kill before the position was saved
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subscription_matches, "may_be_told", lambda *which: False)
        with serving(data, receiver) as hosting:
            until(lambda: standings.load(identifier).cursor != before.cursor, "that it was passed over")  # type: ignore[union-attr]
            patch.undo()
            second = report(hosting, 1, 2)
            until(lambda: len(events(receiver)) == 2, "the next event")
            assert events(receiver) == [(1, first), (2, second)]


def test_heartbeats_are_sent_while_nothing_happens(
    hosting: Hosting, of_all: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.fhir.subscription.HEARTBEAT_S", (1, 86_400))
    send(hosting, r5("imaging-study-changed", url=of_all.url, heartbeatPeriod=1))
    until(lambda: told(of_all, "heartbeat"), "a heartbeat")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/x",
        "http://localhost:{port}/x",
        "http://169.254.169.254/latest/meta-data",
        "http://user:word@127.0.0.1:{port}/x",
        "http://127.0.0.1:{port}@evil.example/x",
        "http://127.0.0.1:{port}#@evil.example/x",
        "http://127.0.0.1:{port}\\@evil.example/x",
        "https://127.0.0.1:{port}/x",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/x",
        "http://[::1]:{port}/x",
        "http://127.0.0.1:99999999/x",
        "//127.0.0.1:{port}/x",
    ],
)
def test_an_address_that_the_administrator_does_not_name_is_refused(
    hosting: Hosting, of_all: Receiver, url: str
) -> None:
    outcome = send(hosting, r4("report-available", url=url.format(port=of_all.port)), status=422)
    assert outcome["issue"][0]["code"] == "business-rule" and not of_all.requests


def test_a_subscription_is_its_owners_and_an_administrators(hosting: Hosting, of_all: Receiver) -> None:
    body = r4("report-available", url=of_all.url, header=["Authorization: Bearer secret"])
    identifier = send(hosting, body)["id"]
    path = f"{hosting.url}/fhir/Subscription"
    for place in ("", "/$status", "/$events", "/$get-ws-binding-token"):
        assert requests.get(f"{path}/{identifier}{place}", headers=OTHER, timeout=60).status_code == 404
    assert requests.delete(f"{path}/{identifier}", headers=OTHER, timeout=60).status_code == 404
    send(hosting, body, "PUT", f"/{identifier}", status=404, **OTHER)
    assert "entry" not in requests.get(path, headers=OTHER, timeout=60).json()
    assert "entry" not in requests.get(f"{path}/$status", headers=OTHER, timeout=60).json()
    rules_of(hosting).administrator = "10.0.0.9"
    seen = requests.get(f"{path}/{identifier}", headers=OTHER, timeout=60).json()
    assert seen["channel"]["header"] == ["Authorization: …"] and seen["contact"][0]["value"] == "http:127.0.0.1"
    assert len(requests.get(path, headers=OTHER, timeout=60).json()["entry"]) == 1
    send(hosting, body, "PUT", f"/{identifier}", status=403, **OTHER)
    assert get(hosting, f"Subscription/{identifier}")["channel"]["header"] == ["Authorization: Bearer secret"]
    found = get(hosting, f"Subscription?_id={identifier}&_total=accurate&criteria={body['criteria']}")
    assert found["total"] == 1
    assert "entry" not in get(hosting, f"Subscription?_id={identifier}&status=off")


def test_there_are_so_many_for_one_client(hosting: Hosting) -> None:
    body = r4("report-available")
    for _ in range(OWN_MAX):
        send(hosting, body)
    assert "delete some" in send(hosting, body, status=503)["issue"][0]["diagnostics"]
    send(hosting, body, **OTHER)


def test_topics_are_named(hosting: Hosting) -> None:
    bundle = get(hosting, "SubscriptionTopic", is_r5=True)
    topics = [each["resource"] for each in bundle["entry"]]
    assert {topic["id"] for topic in topics} == {
        "imaging-study-available", "imaging-study-changed", "report-available"
    }  # fmt: skip
    assert get(hosting, "SubscriptionTopic/report-available", is_r5=True) in topics
    get(hosting, "SubscriptionTopic/other", is_r5=True, status=404)
    get(hosting, "SubscriptionTopic", status=406)
    (resource,) = (
        each for each in get(hosting, "metadata")["rest"][0]["resource"] if each["type"] == "Subscription"
    )  # fmt: skip
    assert {each["valueCanonical"] for each in resource["extension"]} == {topic["url"] for topic in topics}
    assert requests.get(f"{hosting.url}/fhir/SubscriptionTopic", headers=R5, timeout=60).status_code == 200


# -- WebSockets -----------------------------------------------------------------------------------


def token_of(hosting: Hosting, identifier: str) -> tuple[str, str]:
    """A token, and the address to take it to."""
    resource = get(hosting, f"Subscription/{identifier}/$get-ws-binding-token")
    values = {each["name"]: each for each in resource["parameter"]}
    assert values["subscription"]["valueString"] == identifier
    return values["token"]["valueString"], values["websocket-url"]["valueUrl"]


def test_a_websocket_is_told_as_it_happens(hosting: Hosting) -> None:
    identifier = send(hosting, r4("report-available"))["id"]
    until(lambda: is_active(hosting, identifier), "an active subscription")
    token, url = token_of(hosting, identifier)

    async def listen() -> list[dict[str, Any]]:
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            await socket.send_str(f"bind-with-token: {token}")
            found = [checked(await socket.receive_json(timeout=60))]
            await asyncio.to_thread(report, hosting, 60, 1)
            found.append(checked(await socket.receive_json(timeout=60)))
            rules_of(hosting).chosen = NOTHING
            await asyncio.to_thread(report, hosting, 60, 2)
            rules_of(hosting).chosen = FULL
            await asyncio.to_thread(report, hosting, 60, 3)
            while not any(focus.endswith(".3") for _, focus in events_of(status_of(found[-1]))):
                found.append(checked(await socket.receive_json(timeout=60)))
            return found

    first, *others = map(status_of, asyncio.run(listen()))
    assert first["type"] == "handshake"
    assert events_of(others[0]) == [(1, f"DiagnosticReport/{samples.ROOT}.60.2.1")]
    assert all(status["type"] == "event-notification" for status in others)


@pytest.mark.parametrize("kind", ["wrong", "late", "gone", "other words", "none"])
def test_a_websocket_without_a_good_token_is_closed(
    hosting: Hosting, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(subscription_channel, "BIND_S", 0.2)
    monkeypatch.setattr(subscription_channel, "TOKEN_S", -10 if kind == "late" else 300)
    identifier = send(hosting, r4("report-available"))["id"]
    token, url = token_of(hosting, identifier)
    if kind == "gone":
        requests.delete(f"{hosting.url}/fhir/Subscription/{identifier}", timeout=60)
    token = "AAAA" if kind == "wrong" else token

    async def closed() -> int | None:
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            if kind != "none":
                await socket.send_str(("hello: " if kind == "other words" else "bind-with-token: ") + token)
            await socket.receive(timeout=60)
            return socket.close_code

    assert asyncio.run(closed()) in ((1000, 1006) if kind == "other words" else (subscription_channel.REFUSED,))


def test_a_hook_has_no_token_and_the_channel_is_no_page(hosting: Hosting, of_all: Receiver) -> None:
    identifier = send(hosting, r4("report-available", url=of_all.url))["id"]
    get(hosting, f"Subscription/{identifier}/$get-ws-binding-token", status=422)
    assert requests.get(f"{hosting.url}/fhir/websocket", timeout=60).status_code == 400


def test_a_body_must_be_a_subscription(hosting: Hosting) -> None:
    url = f"{hosting.url}/fhir/Subscription"
    for body, content_type, status in (
        (b"{", "application/fhir+json", 400),
        (b"[]", "application/fhir+json", 400),
        (json.dumps(r4("report-available")).encode(), "text/plain", 415),
        (b" " * 40_000, "application/fhir+json", 400),
        (b"\xff\xfe", "application/fhir+json", 400),
        (b"[" * 20_000, "application/fhir+json", 400),
    ):
        answer = requests.post(url, data=body, headers={"Content-Type": content_type}, timeout=60)
        assert answer.status_code == status, (body[:20], answer.text)
        assert checked(answer.json())["resourceType"] == "OperationOutcome"
