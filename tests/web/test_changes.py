"""web.changes: pages and event streams of the change feed; cursors, filters, resuming, slow clients, the end."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.accounts import sessions
from engine.archive.feed.writer import FeedWriter
from engine.web import change_stream, changes, stream_slots
from tests.actors import actor
from tests.archive.feed.followed import writer_of
from tests.archive.filled import payload_of, store, uid
from tests.system.server import wait_for
from tests.web.hosting import Hosting, host
from tests.web.logged_in import Browser, add_user

EVENTS = {"Accept": "text/event-stream"}


def serve(data: Path, script: Callable[[Hosting, FeedWriter], None]) -> None:
    """Runs `script` while the front and the feed's writer serve."""

    def with_writer(hosting: Hosting) -> None:
        writer = writer_of(hosting.engine.archive)
        writer.start()
        try:
            script(hosting, writer)
        finally:
            writer.close()

    host(data, with_writer)


def fill(hosting: Hosting, *numbers: int) -> None:
    store(hosting.engine.archive, *[payload_of(1, 1, number) for number in numbers])


def get(hosting: Hosting, path: str, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=30)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    return response.status, body


def page_with(hosting: Hosting, count: int, path: str = "/changes") -> Any:
    """The page once it has so many events."""
    while True:
        status, body = get(hosting, path)
        assert status == 200
        if len(body["events"]) >= count:
            return body


class Stream:
    """An event stream as EventSource reads it."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb")
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            self.head += self._file.readline()
        self.status = int(self.head.split()[1])
        self.comments: list[bytes] = []

    def messages(self, count: int) -> list[tuple[str, Any]]:
        """The next events, each with its id."""
        return [next(self._messages()) for _ in range(count)]

    def _messages(self) -> Iterator[tuple[str, Any]]:
        found = ""
        for line in self._file:
            if line.startswith(b"id: "):
                found = line[4:].decode().strip()
            elif line.startswith(b"data: "):
                yield found, json.loads(line[6:])
            elif line.startswith(b": "):
                self.comments.append(line)

    def rest(self) -> list[tuple[str, Any]]:
        """All until the server ends it."""
        return list(self._messages())


@contextmanager
def stream(hosting: Hosting, path: str = "/changes", **headers: str) -> Iterator[Stream]:
    with hosting.connect(30) as sock:
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Accept: text/event-stream"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        yield Stream(sock)


def test_pages_follow_each_other_by_their_cursors(tmp_path: Path) -> None:
    def script(hosting: Hosting, writer: FeedWriter) -> None:
        fill(hosting, 1, 2, 3)
        page_with(hosting, 3)
        _, first = get(hosting, "/changes?limit=2")
        assert [event["sequence"] for event in first["events"]] == [1, 2]
        assert first["more"] is True
        _, second = get(hosting, f"/changes?limit=2&since={first['next']}")
        assert [event["sop_instance_uid"] for event in second["events"]] == [uid(1, 1, 3)]
        assert second["more"] is False
        assert get(hosting, f"/changes?since={second['next']}")[1]["events"] == []
        assert get(hosting, "/changes?since=now")[1] == {"events": [], "next": second["next"], "more": False}

    serve(tmp_path, script)


def test_actions_are_filtered_and_errors_are_reported(tmp_path: Path) -> None:
    def script(hosting: Hosting, writer: FeedWriter) -> None:
        fill(hosting, 1)
        hosting.engine.archive.set_holds([uid(1)], actor=actor(), reason="")
        page_with(hosting, 2)
        _, held = get(hosting, "/changes?action=held,released")
        assert [event["action"] for event in held["events"]] == ["held"]
        for query in ("action=eaten", "limit=0", "limit=-1", "limit=x", "since=yesterday", "since="):
            status, body = get(hosting, f"/changes?{query}")
            assert status == (200 if query == "since=" else 400), body
        assert get(hosting, "/changes?since=00000000-1")[0] == 410
        assert get(hosting, "/changes?since=00000000-1", **EVENTS)[0] == 410

    serve(tmp_path, script)


def test_an_archive_without_a_feed_is_reported(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        status, body = get(hosting, "/changes")
        assert status == 404
        assert "no change feed" in body["detail"]

    host(tmp_path, script)


def test_a_stream_sends_past_and_new_events(tmp_path: Path) -> None:
    def script(hosting: Hosting, writer: FeedWriter) -> None:
        fill(hosting, 1, 2)
        with stream(hosting) as events:
            assert b"text/event-stream" in events.head
            assert [event["sequence"] for _, event in events.messages(2)] == [1, 2]
            for number in range(3, 10):
                fill(hosting, number)
                ((_, event),) = events.messages(1)
                assert (event["sequence"], event["sop_instance_uid"]) == (number, uid(1, 1, number))

    serve(tmp_path, script)


def test_a_stream_continues_after_the_last_event_id(tmp_path: Path) -> None:
    def script(hosting: Hosting, writer: FeedWriter) -> None:
        fill(hosting, 1, 2, 3)
        with stream(hosting) as events:
            (_, (last, _)) = events.messages(2)
        fill(hosting, 4)
        with stream(hosting, Last_Event_ID=last) as events:
            assert [event["sequence"] for _, event in events.messages(2)] == [3, 4]
        with stream(hosting, "/changes?since=now&action=held") as events:
            fill(hosting, 5)
            hosting.engine.archive.set_holds([uid(1)], actor=actor(), reason="")
            assert [event["action"] for _, event in events.messages(1)] == ["held"]

    serve(tmp_path, script)


def test_many_streams_get_the_same_events(tmp_path: Path) -> None:
    def script(hosting: Hosting, writer: FeedWriter) -> None:
        fill(hosting, 1)
        with stream(hosting) as first, stream(hosting) as second, stream(hosting) as third:
            streams = (first, second, third)
            seen = [each.messages(1) for each in streams]
            fill(hosting, *range(2, 40))
            seen = [[*before, *each.messages(38)] for before, each in zip(seen, streams, strict=True)]
            assert seen[0] == seen[1] == seen[2]
            assert [event["sequence"] for _, event in seen[0]] == list(range(1, 40))

    serve(tmp_path, script)


def test_streams_are_limited_also_while_they_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests at once: none of them follows the feed yet when the next one comes."""
    monkeypatch.setattr(changes, "STREAMS_MAX", 3)
    monkeypatch.setattr(stream_slots, "SHARE_OF_ONE", 1)
    question = b"GET /changes HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"

    def script(hosting: Hosting, writer: FeedWriter) -> None:
        with ExitStack() as stack:
            socks = [stack.enter_context(hosting.connect()) for _ in range(8)]
            for sock in socks:
                sock.sendall(question)
            statuses = sorted(sock.recv(12)[9:] for sock in socks)
        assert statuses == [b"200"] * 3 + [b"503"] * 5
        wait_for(lambda: not hosting.front.is_busy, what="they are closed")
        with stream(hosting) as events:
            assert b" 200 " in events.head

    serve(tmp_path, script)


def test_a_stream_ends_when_the_server_stops(tmp_path: Path) -> None:
    def script(hosting: Hosting, writer: FeedWriter) -> None:
        fill(hosting, 1)
        with stream(hosting) as events:
            events.messages(1)
            hosting.on_loop(hosting.front.start_draining)
            assert events.rest() == []
            assert any(b"reconnect" in comment for comment in events.comments)

    serve(tmp_path, script)


def test_a_stream_ends_with_its_session_and_sends_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(hosting: Hosting, writer: FeedWriter) -> None:
        add_user(hosting, "full", "full")
        database = hosting.engine.accounts.database
        browser = Browser(hosting)
        for is_idle in (False, True):
            # The first one ends at the next event, the second one without any.
            monkeypatch.setattr(changes, "ALIVE_S", 0.05 if is_idle else 600.0)
            browser.log_in("full")
            fill(hosting, 1)
            with stream(hosting, Cookie=browser.cookie, Connection="close") as events:
                events.messages(1)
                sessions.revoke_all(database, "full")
                if not is_idle:
                    fill(hosting, 2)  # it is not for this client
                assert not {fields["sequence"] for _, fields in events.rest()} - {2 * is_idle}
            with stream(hosting, Cookie=browser.cookie, Connection="close") as events:
                assert events.status == 401
        browser.close()

    serve(tmp_path, script)


def test_a_client_that_does_not_read_is_disconnected_and_does_not_block_others() -> None:
    follower = change_stream.Follower()
    frames = change_stream.Frames(1, [b"x"], ["stored"], [b"{}"], None)  # type: ignore[arg-type]
    offered = [follower.offer(frames) for _ in range(change_stream.QUEUE_MAX + 2)]
    assert offered == [True] * change_stream.QUEUE_MAX + [False, False]
    assert follower.is_slow
    assert follower.queue.qsize() == change_stream.QUEUE_MAX


def test_head_has_the_headers_and_no_stream(tmp_path: Path) -> None:
    def script(hosting: Hosting, writer: FeedWriter) -> None:
        head = b"HEAD /changes HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nConnection: close\r\n\r\n"
        answer = hosting.ask(head)
        assert b" 200 " in answer.split(b"\r\n")[0]
        assert b"text/event-stream" in answer
        assert answer.endswith(b"\r\n\r\n")

    serve(tmp_path, script)
