"""UPS-RS over HTTP: workitems made, found, claimed, ended, canceled, subscribed to. One server for the module."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from itertools import count
from typing import Any

import aiohttp
import orjson
import pytest
import requests

from engine.dicom import tags, xml_model
from engine.orders.workitems.search import Search
from engine.orders.workitems.store import Workitems
from engine.web import workitem_channel
from engine.web import workitems as web_workitems
from tests.web.hosting import Hosting
from tests.web.serving import serving

UIDS = count(1)
JSON = "application/dicom+json"
GLOBAL = "1.2.840.10008.5.1.4.34.5"


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with serving(tmp_path_factory.mktemp("workitems") / "data") as hosting:
        yield hosting


def new_uid() -> str:
    return f"1.2.826.0.1.3680043.9.9997.{next(UIDS)}"


def model(**values: Any) -> dict[str, Any]:
    """A data set of keywords; a list of dictionaries is a sequence."""
    found = {}
    for keyword, value in values.items():
        tag = tags.tag_of(keyword) or 0
        vr = tags.vr_of(tag)
        if vr == "SQ":
            content: list[Any] = [model(**item) for item in value]
        else:
            content = [{"Alphabetic": value}] if vr == "PN" else [value]
        found[f"{tag:08X}"] = {"vr": vr, "Value": content} if value else {"vr": vr}
    return found


def scheduled(**values: Any) -> dict[str, Any]:
    return model(
        **{
            "ProcedureStepState": "SCHEDULED", "ScheduledProcedureStepPriority": "HIGH", "InputReadinessState": "READY",
            "ProcedureStepLabel": "Sägment", "ScheduledProcedureStepStartDateTime": "20261201090000",
            "PatientName": "Döe^Jane", "PatientID": "P1", **values,
        }
    )  # fmt: skip


def code(value: str) -> list[dict[str, str]]:
    return [{"CodeValue": value, "CodingSchemeDesignator": "99X", "CodeMeaning": "m"}]


PERFORMED = {
    "PerformedStationNameCodeSequence": code("AI1"),
    "PerformedWorkitemCodeSequence": code("W1"),
    "PerformedProcedureStepStartDateTime": "20261201091000",
    "PerformedProcedureStepEndDateTime": "20261201092000",
    "OutputInformationSequence": [{"StudyInstanceUID": "1.2.3"}],
}


def ask(hosting: Hosting, method: str, path: str, body: Any = None, status: int = 200) -> requests.Response:
    data = body if body is None or isinstance(body, bytes) else orjson.dumps([body])
    headers = {"Content-Type": JSON} if body is not None else {}
    answer = requests.request(method, f"{hosting.url}/dicom-web{path}", data=data, headers=headers, timeout=60)
    assert answer.status_code == status, (answer.status_code, answer.text)
    return answer


def create(hosting: Hosting, **values: Any) -> str:
    uid = new_uid()
    ask(hosting, "POST", f"/workitems?workitem={uid}", scheduled(**values), 201)
    return uid


def state(value: str, transaction_uid: str) -> dict[str, Any]:
    return model(ProcedureStepState=value, TransactionUID=transaction_uid)


def test_a_workitem_lives_over_http_as_over_dimse(hosting: Hosting) -> None:
    uid = new_uid()
    made = ask(hosting, "POST", f"/workitems?{uid}", scheduled(), 201)
    assert made.headers["Location"] == f"{hosting.url}/dicom-web/workitems/{uid}"
    assert "exists already" in ask(hosting, "POST", f"/workitems?workitem={uid}", scheduled(), 409).json()["detail"]
    path = f"/workitems/{uid}"
    ask(hosting, "PUT", f"{path}/state", state("IN PROGRESS", "1.2.9"))
    refused = ask(hosting, "PUT", f"{path}/state", state("IN PROGRESS", "1.2.9"), 409)
    assert "inconsistent with the state" in refused.headers["Warning"]
    wrong = ask(hosting, "PUT", f"{path}/state", state("COMPLETED", "1.2.8"), 400)
    assert wrong.headers["Warning"].endswith('"The Transaction UID is incorrect."')
    assert "missing" in ask(hosting, "POST", path, model(ProcedureStepLabel="x"), 400).headers["Warning"]
    change = model(UnifiedProcedureStepPerformedProcedureSequence=[PERFORMED])
    ask(hosting, "PUT", f"{path}/state", state("COMPLETED", "1.2.9"), 409)
    ask(hosting, "POST", f"{path}?transaction=1.2.9", change)
    ask(hosting, "PUT", f"{path}/state", state("COMPLETED", "1.2.9"))
    again = ask(hosting, "PUT", f"{path}/state", state("COMPLETED", "1.2.9"))
    assert "already in the requested state of COMPLETED" in again.headers["Warning"]
    ask(hosting, "POST", f"{path}/cancelrequest", None, 409)
    (stored,) = ask(hosting, "GET", path).json()
    assert stored["00741000"]["Value"] == ["COMPLETED"] and "00081195" not in stored
    assert stored["00100010"]["Value"] == [{"Alphabetic": "Döe^Jane"}]
    ask(hosting, "GET", f"/workitems/{new_uid()}", None, 404)


def test_a_scheduled_workitem_is_canceled_on_request(hosting: Hosting) -> None:
    uid = create(hosting)
    path = f"/workitems/{uid}/cancelrequest"
    ask(hosting, "POST", path, model(ReasonForCancellation="by mistake"), 202)
    assert "already in the requested state of CANCELED" in ask(hosting, "POST", path, None, 202).headers["Warning"]
    (stored,) = ask(hosting, "GET", f"/workitems/{uid}").json()
    assert stored["00741002"]["Value"][0]["00741238"]["Value"] == ["by mistake"]


def test_searches_find_by_keys_and_return_what_is_asked_for(hosting: Hosting) -> None:
    uids = [create(hosting, WorklistLabel="RS", ScheduledWorkitemCodeSequence=code(f"W{n}")) for n in range(3)]
    (match,) = ask(hosting, "GET", "/workitems?WorklistLabel=R*&ScheduledWorkitemCodeSequence.CodeValue=W1").json()
    assert match["00080018"]["Value"] == [uids[1]] and "00404010" not in match
    (whole,) = ask(hosting, "GET", f"/workitems?00080018={uids[0]}&includefield=all").json()
    assert "00404010" in whole
    pages = [ask(hosting, "GET", f"/workitems?WorklistLabel=RS&limit=2&offset={offset}") for offset in (0, 2)]
    assert [len(page.json()) for page in pages] == [2, 1]
    assert "Warning" in pages[0].headers and "Warning" not in pages[1].headers
    assert ask(hosting, "GET", "/workitems?WorklistLabel=none").json() == []
    for query in ("Nonsense=1", "ScheduledProcedureStepStartDateTime=soon", "limit=x", "PatientID.CodeValue=1"):
        ask(hosting, "GET", f"/workitems?{query}", None, 400)


def test_bodies_may_be_xml_and_wrong_ones_are_refused_in_words(hosting: Hosting) -> None:
    uid = new_uid()
    answer = requests.post(
        f"{hosting.url}/dicom-web/workitems?workitem={uid}",
        data=xml_model.encode(scheduled()),
        headers={"Content-Type": "application/dicom+xml"},
        timeout=60,
    )
    assert answer.status_code == 201
    ask(hosting, "POST", "/workitems", model(ProcedureStepState="SCHEDULED"), 400)
    ask(hosting, "POST", "/workitems", b"[]", 400)
    ask(hosting, "POST", "/workitems", b"{", 400)
    ask(hosting, "POST", "/workitems?nonsense=1", scheduled(), 400)
    ask(hosting, "PUT", "/workitems/abc/state", state("IN PROGRESS", "1.2"), 400)
    assert requests.post(f"{hosting.url}/dicom-web/workitems", data=b"x", timeout=60).status_code == 415


def test_subscriptions_have_their_events_and_end(hosting: Hosting) -> None:
    uid, workitems = create(hosting), Workitems(hosting.engine.orders())
    path = f"/workitems/{uid}/subscribers/RS1"
    made = ask(hosting, "POST", f"{path}?deletionlock=true", None, 201)
    assert made.headers["Content-Location"] == f"ws://127.0.0.1:{hosting.port}/dicom-web/subscribers/RS1"
    ask(hosting, "PUT", f"/workitems/{uid}/state", state("IN PROGRESS", "1.2.9"))
    ask(hosting, "POST", f"/workitems/{uid}/cancelrequest", None, 202)
    assert [event.type for _, event in workitems.waiting("RS1", 0, 10)] == [1, 1, 2]
    ask(hosting, "DELETE", path)
    ask(hosting, "POST", f"{path}/suspend", None, 400)
    filtered = f"/workitems/{GLOBAL}.1/subscribers/RS2"
    ask(hosting, "POST", f"{filtered}?filter=WorklistLabel=MINE,PatientID=P7", None, 201)
    ask(hosting, "POST", filtered, None, 400)
    mine = create(hosting, WorklistLabel="MINE", PatientID="P7")
    create(hosting, WorklistLabel="MINE")
    assert [event.uid for _, event in workitems.waiting("RS2", 0, 10)] == [mine]
    ask(hosting, "POST", f"/workitems/{GLOBAL}/subscribers/RS2/suspend")
    ask(hosting, "DELETE", f"/workitems/{GLOBAL}/subscribers/RS2")
    assert workitems.waiting("RS2", 0, 10) == []
    ask(hosting, "POST", f"/workitems/{new_uid()}/subscribers/RS1", None, 404)
    ask(hosting, "POST", f"/workitems/{uid}/subscribers/{'X' * 17}", None, 400)


# the channel -----------------------------------------------------------------------------------------


async def receive(socket: aiohttp.ClientWebSocketResponse, number: int) -> list[tuple[str, int, Any]]:
    """Workitem, type and state of the next events."""
    found = []
    while len(found) < number:
        event = await socket.receive_json(timeout=300)
        state = event.get("00741000", {}).get("Value", [None])[0]
        found.append((event["00001000"]["Value"][0], event["00001002"]["Value"][0], state))
    return found


async def opened(
    session: aiohttp.ClientSession, hosting: Hosting, title: str, *, autoping: bool = True, **headers: str
) -> aiohttp.ClientWebSocketResponse:
    url = f"{hosting.url}/dicom-web/subscribers/{title}"
    return await session.ws_connect(url, headers=headers, autoping=autoping)


def break_off(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Ends the connection without a word."""
    connection = socket._response.connection
    assert connection is not None and connection.transport is not None
    connection.transport.abort()


def test_a_channel_tells_events_as_they_happen_and_goes_on_after_a_break(hosting: Hosting) -> None:
    uid, workitems = create(hosting), Workitems(hosting.engine.orders())
    ask(hosting, "POST", f"/workitems/{uid}/subscribers/WS1", None, 201)

    async def change(*arguments: Any) -> None:
        await asyncio.to_thread(ask, hosting, *arguments)

    async def listen() -> None:
        async with aiohttp.ClientSession() as session:
            socket = await opened(session, hosting, "WS1")
            assert await receive(socket, 1) == [(uid, 1, "SCHEDULED")]
            await change("PUT", f"/workitems/{uid}/state", state("IN PROGRESS", "1.2.9"))
            assert await receive(socket, 1) == [(uid, 1, "IN PROGRESS")]
            while workitems.waiting("WS1", 0, 10):  # until the pong of the client says that it has both
                with contextlib.suppress(TimeoutError):
                    await socket.receive(timeout=0.1)
            break_off(socket)
        await change("POST", f"/workitems/{uid}/cancelrequest", None, 202)
        async with aiohttp.ClientSession() as session:
            socket = await opened(session, hosting, "WS1")
            await change("PUT", f"/workitems/{uid}/state", state("CANCELED", "1.2.9"))
            assert await receive(socket, 2) == [(uid, 2, None), (uid, 1, "CANCELED")]
            await socket.close()

    asyncio.run(listen())


def test_what_a_client_has_not_confirmed_comes_again(hosting: Hosting) -> None:
    uid = create(hosting)
    ask(hosting, "POST", f"/workitems/{uid}/subscribers/WS4", None, 201)
    ask(hosting, "POST", f"/workitems/{uid}/cancelrequest", None, 202)
    told = [(uid, 1, "SCHEDULED"), (uid, 2, None), (uid, 1, "IN PROGRESS"), (uid, 1, "CANCELED")]

    async def listen() -> None:
        async with aiohttp.ClientSession() as session:
            silent = await opened(session, hosting, "WS4", autoping=False)
            texts = 0
            while texts < len(told):
                texts += (await silent.receive(timeout=300)).type is aiohttp.WSMsgType.TEXT
            break_off(silent)
        async with aiohttp.ClientSession() as session:
            socket = await opened(session, hosting, "WS4")
            assert await receive(socket, len(told)) == told
            await socket.close()

    asyncio.run(listen())


def test_many_events_arrive_in_order_and_a_newer_channel_takes_the_place_of_an_older_one(
    hosting: Hosting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workitem_channel, "WINDOW", 3)
    monkeypatch.setattr(workitem_channel, "CHANNEL_S", 0.0)
    ask(hosting, "POST", f"/workitems/{GLOBAL}.1/subscribers/WS2?filter=WorklistLabel=MANY", None, 201)
    uids = [create(hosting, WorklistLabel="MANY") for _ in range(10)]

    async def listen() -> None:
        async with aiohttp.ClientSession() as session:
            older = await opened(session, hosting, "WS2")
            assert await receive(older, 10) == [(uid, 1, "SCHEDULED") for uid in uids]
            newer = await opened(session, hosting, "WS2")
            message = await older.receive(timeout=300)
            assert message.type is aiohttp.WSMsgType.CLOSE and message.data == workitem_channel.REPLACED
            await newer.close()

    asyncio.run(listen())


def test_a_channel_is_for_subscribers_who_come_by_a_websocket_from_our_own_pages(hosting: Hosting) -> None:
    ask(hosting, "GET", "/subscribers/WS1", None, 400)

    async def refused(title: str, **headers: str) -> int:
        async with aiohttp.ClientSession() as session:
            try:
                await opened(session, hosting, title, **headers)
            except aiohttp.WSServerHandshakeError as error:
                return error.status
        return 101

    ask(hosting, "POST", f"/workitems/{create(hosting)}/subscribers/WS3", None, 201)
    assert asyncio.run(refused("NOBODY")) == 404
    assert asyncio.run(refused("WS3", Origin="https://evil.example")) == 403
    assert asyncio.run(refused("WS3", Origin=hosting.url)) == 101


def test_an_answer_ends_where_it_is_large_enough(hosting: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    uids = [create(hosting, WorklistLabel="LARGE") for _ in range(3)]
    monkeypatch.setattr(web_workitems, "ANSWER_BYTES_MAX", 1)
    found = []
    for offset in range(3):
        answer = ask(hosting, "GET", f"/workitems?WorklistLabel=LARGE&offset={offset}")
        (item,) = answer.json()
        found.append(item["00080018"]["Value"][0])
        assert ("There are more" in answer.headers.get("Warning", "")) == (offset < 2)
    assert sorted(found) == sorted(uids)


def test_a_value_may_have_the_marks_of_a_query(hosting: Hosting) -> None:
    uid = create(hosting, PatientID="7%26&x=1+")
    answer = ask(hosting, "GET", "/workitems?PatientID=7%2526%26x%3D1%2B&limit=5")
    assert [item["00080018"]["Value"] for item in answer.json()] == [[uid]]
    assert ask(hosting, "GET", "/workitems?PatientID=7%26limit%3D5").json() == []


def test_workitems_are_decoded_outside_the_loop(hosting: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    uid, loops = create(hosting, WorklistLabel="THREAD"), []

    def noted(search: Search, reading: Any) -> Any:
        loops.append(asyncio._get_running_loop())
        return following(search, reading)

    following = Search.next
    monkeypatch.setattr(Search, "next", noted)
    (item,) = ask(hosting, "GET", "/workitems?WorklistLabel=THREAD").json()
    assert item["00080018"]["Value"] == [uid] and loops and not any(loops)


def test_a_removed_workitem_is_gone_and_a_wrong_value_is_named(hosting: Hosting) -> None:
    uid = create(hosting)
    ask(hosting, "POST", f"/workitems/{uid}/cancelrequest", status=202)
    Workitems(hosting.engine.orders()).forget(-60)
    for method, path in (("GET", ""), ("PUT", "/state")):
        body = state("IN PROGRESS", "1.2.9") if method == "PUT" else None
        assert "has been removed" in ask(hosting, method, f"/workitems/{uid}{path}", body, 410).json()["detail"]
    refused = ask(hosting, "POST", "/workitems", scheduled(WorklistLabel="x" * 257), 400)
    assert "WorklistLabel" in refused.json()["detail"]


def send(hosting: Hosting, method: str, path: str, body: Any, kind: str = JSON) -> requests.Response:
    headers = {"Content-Type": kind, "Accept": "application/dicom+json, */*;q=0.5"}
    url = f"{hosting.url}/dicom-web{path}"
    return requests.request(method, url, data=orjson.dumps(body), headers=headers, timeout=60)


def test_requests_as_other_clients_make_them_are_understood(hosting: Hosting) -> None:
    """One object instead of a list, a charset, numbers as numbers or texts, UIDs as the whole query."""
    uid, lock = new_uid(), "1.2.99"
    new = scheduled(ProcedureStepProgressInformationSequence=[], TransactionUID="")
    assert send(hosting, "POST", f"/workitems?{uid}", new, f"{JSON}; charset=utf-8").status_code == 201
    assert send(hosting, "PUT", f"/workitems/{uid}/state", state("IN PROGRESS", lock)).status_code == 200
    for share in (50, 62.5, "75"):
        progress = {"00741002": {"vr": "SQ", "Value": [{"00741004": {"vr": "DS", "Value": [share]}}]}}
        answer = send(hosting, "POST", f"/workitems/{uid}?{lock}", [progress])
        assert answer.status_code == 200, answer.text
    (found,) = ask(hosting, "GET", f"/workitems/{uid}").json()
    assert float(found["00741002"]["Value"][0]["00741004"]["Value"][0]) == 75
    for key in (f"SOPInstanceUID={uid}", f"00080018={uid}", f"00080018={uid}&includefield=all&limit=1&offset=0"):
        assert len(ask(hosting, "GET", f"/workitems?{key}").json()) == 1
    assert send(hosting, "POST", f"/workitems/{uid}?transaction-uid={lock}", [{}]).status_code == 200
