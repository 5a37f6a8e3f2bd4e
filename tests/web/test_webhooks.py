"""web.webhooks: in order, signed, again after a failure, parked and resumed; through restarts and hostile receivers."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from engine.archive.feed.destinations import PARKED
from engine.outbox import follower, tables
from engine.web import webhooks
from engine.web.settings import Webhook
from tests.actors import actor
from tests.archive.feed.followed import lookups_in_vain, writer_of
from tests.archive.filled import payload_of, store, uid
from tests.cli.commands import rows
from tests.system.server import wait_for
from tests.web.hosting import Hosting, host


class Receiver:
    """A machine that takes events, and answers as it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        """Statuses of the next answers; then 200."""
        self.body = b""
        """Of each answer."""
        self.missing_bytes = 0
        """Bytes of each body that are announced and never sent."""
        self.headers: dict[str, str] = {}
        self.stall = threading.Event()
        self.stall.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((dict(self.headers), body))
                receiver.stall.wait(60)
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(receiver.body) + receiver.missing_bytes))
                self.end_headers()
                try:
                    self.wfile.write(receiver.body)
                except ConnectionError:
                    pass

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    def events(self) -> list[Any]:
        """All that came, in order."""
        return [event for _, body in list(self.requests) for event in json.loads(body)["events"]]

    def close(self) -> None:
        self.stall.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CHECK_S", 0.05)
    monkeypatch.setattr(follower, "CHECK_S", 0.05)


def hook(url: str, **more: Any) -> Webhook:
    return Webhook(**{"name": "router", "url": url, "retry_s": 0.02, "retry_s_max": 0.05, "timeout_s": 60.0, **more})


def serve(
    data: Path,
    script: Callable[[Hosting], None],
    *hooks: Webhook,
    before_feed: Callable[[], object] = lambda: None,
) -> None:
    """Runs `script` while webhooks are delivered; they begin with what is stored by it.

    `before_feed` runs when the server has started; a new archive has no feed yet.
    """

    def with_writer(hosting: Hosting) -> None:
        before_feed()
        archive = hosting.engine.archive
        writer = writer_of(archive)
        writer.start()
        try:
            for one in hooks:
                wait_for(lambda one=one: archive.feed_destinations().load(one.name), what="the first cursor")  # type: ignore[misc]
            script(hosting)
        finally:
            writer.close()

    host(data, with_writer, webhooks=hooks)


def delivered_count(hosting: Hosting) -> int:
    """The events that the receiver has taken, as saved."""
    standing = hosting.engine.archive.feed_destinations().load("router")
    return standing.delivered if standing is not None else 0


def fill(hosting: Hosting, *numbers: int) -> None:
    store(hosting.engine.archive, *[payload_of(1, 1, number) for number in numbers])


def numbers_of(events: list[Any]) -> list[int]:
    return [int(event["sop_instance_uid"].rpartition(".")[2]) for event in events if event["action"] == "stored"]


def test_events_are_delivered_in_order_and_signed(tmp_path: Path, receiver: Receiver) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush\n")

    def script(hosting: Hosting) -> None:
        for number in range(5):
            fill(hosting, number)
        wait_for(lambda: len(receiver.events()) == 5, what="delivery")
        assert numbers_of(receiver.events()) == list(range(5))
        headers, body = receiver.requests[0]
        when, _, signature = headers["Filmroom-Signature"].removeprefix("t=").partition(",v1=")
        assert signature == hmac.new(b"hush", when.encode() + b"." + body, hashlib.sha256).hexdigest()
        assert abs(time.time() - int(when)) < 60
        assert json.loads(body)["cursor"] == headers["Filmroom-Delivery"]

    serve(tmp_path / "data", script, hook(receiver.url, secret_file=secret))


def test_a_webhook_may_start_before_the_feed(tmp_path: Path, receiver: Receiver) -> None:
    def script(hosting: Hosting) -> None:
        fill(hosting, 1)
        wait_for(receiver.events, what="delivery")
        assert numbers_of(receiver.events()) == [1]

    with lookups_in_vain() as lookups:

        def until_two() -> None:
            wait_for(lambda: len(lookups) >= 2, what="lookups of a missing feed")

        serve(tmp_path / "data", script, hook(receiver.url, retry_s=3600.0), before_feed=until_two)


def test_only_the_configured_actions_are_delivered(tmp_path: Path, receiver: Receiver) -> None:
    def script(hosting: Hosting) -> None:
        fill(hosting, 1)
        hosting.engine.archive.set_holds([uid(1)], actor=actor(), reason="")
        wait_for(receiver.events, what="delivery")
        assert [event["action"] for event in receiver.events()] == ["held"]

    serve(tmp_path / "data", script, hook(receiver.url, actions=("held",)))


def test_failed_deliveries_are_repeated_in_order(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers = [500, 302, 404, 503]
    receiver.headers = {"Location": f"{receiver.url}/elsewhere"}

    def script(hosting: Hosting) -> None:
        fill(hosting, 1)
        wait_for(lambda: len(receiver.requests) >= 2, what="another attempt")
        fill(hosting, 2)
        wait_for(lambda: numbers_of(receiver.events())[-1:] == [2], what="delivery")
        wait_for(lambda: len(receiver.requests) > 4 and not receiver.answers, what="an attempt that is taken")
        attempts = [numbers_of(json.loads(body)["events"]) for _, body in receiver.requests]
        # A later attempt may carry what has come meanwhile, behind what was not taken.
        assert all(told in ([1], [1, 2]) for told in attempts[:5])
        assert attempts[4] == [1, 2] or attempts[5] == [2]

    serve(tmp_path / "data", script, hook(receiver.url))


def test_after_too_many_attempts_it_is_parked_until_it_is_resumed(
    tmp_path: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.answers = [500] * 3

    def script(hosting: Hosting) -> None:
        destinations = hosting.engine.archive.feed_destinations()
        fill(hosting, 1)

        def is_parked() -> bool:
            standing = destinations.load("router")
            return standing is not None and standing.state == PARKED

        wait_for(is_parked, what="parked")
        standing = destinations.load("router")
        assert standing is not None
        assert (standing.attempts, standing.error) == (3, "it answered 500")
        fill(hosting, 2)
        assert len(receiver.requests) == 3
        listed = rows(capsys, "webhooks", "list", "--data", str(tmp_path / "data"))
        assert [(one["name"], one["state"], one["attempts"]) for one in listed] == [("router", "parked", 3)]
        assert rows(capsys, "webhooks", "resume", "router", "--data", str(tmp_path / "data")) == [{"resumed": "router"}]
        wait_for(lambda: numbers_of(receiver.events())[-1:] == [2], what="delivery")
        assert numbers_of(receiver.events())[3:] == [1, 2]

    serve(tmp_path / "data", script, hook(receiver.url, attempts_max=3))


def test_a_restart_continues_after_the_delivered_events(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "SAVE_S", 0.0)
    one = hook(receiver.url)

    def first(hosting: Hosting) -> None:
        fill(hosting, 1)
        wait_for(lambda: delivered_count(hosting) == 1, what="delivery")

    def second(hosting: Hosting) -> None:
        fill(hosting, 2)
        wait_for(lambda: numbers_of(receiver.events())[-1:] == [2], what="delivery")
        assert numbers_of(receiver.events()) == [1, 2]

    serve(tmp_path / "data", first, one)
    serve(tmp_path / "data", second, one)


def test_a_hanging_receiver_costs_a_timeout_and_does_not_block_others(tmp_path: Path, receiver: Receiver) -> None:
    healthy = Receiver()
    receiver.stall.clear()

    def script(hosting: Hosting) -> None:
        fill(hosting, 1)
        wait_for(lambda: numbers_of(healthy.events()) == [1], what="delivery to the healthy one")
        wait_for(lambda: len(receiver.requests) >= 2, what="another attempt")
        receiver.stall.set()
        fill(hosting, 2)
        wait_for(lambda: numbers_of(receiver.events())[-1:] == [2], what="delivery")

    try:
        serve(tmp_path / "data", script, hook(receiver.url, timeout_s=0.2), hook(healthy.url, name="healthy"))
    finally:
        healthy.close()


def test_a_huge_answer_is_not_read(tmp_path: Path, receiver: Receiver) -> None:
    receiver.body = bytes(32 << 20)

    def script(hosting: Hosting) -> None:
        for number in range(3):
            fill(hosting, number)
        wait_for(lambda: numbers_of(receiver.events()) == [0, 1, 2], what="delivery")

    serve(tmp_path / "data", script, hook(receiver.url))


def test_an_answer_of_success_whose_body_does_not_end_is_one(tmp_path: Path, receiver: Receiver) -> None:
    receiver.missing_bytes = 10

    def script(hosting: Hosting) -> None:
        for number in range(2):
            fill(hosting, number)
        wait_for(lambda: delivered_count(hosting) == 2, what="delivery")
        # On a busy machine the head of an answer, too, may come after the timeout.
        if not hosting.counters["webhook_attempts_failed"]:
            assert numbers_of(receiver.events()) == [0, 1], "each event once"

    serve(tmp_path / "data", script, hook(receiver.url, timeout_s=0.3))


def test_a_refused_connection_and_an_invalid_response_are_readable_failures(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def babble() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    sock.recv(1 << 16)
                    sock.sendall(b"\x00\x01 this is no HTTP\r\n\r\n")

        threading.Thread(target=babble, daemon=True).start()
        with closed_port() as refusing:

            def script(hosting: Hosting) -> None:
                destinations = hosting.engine.archive.feed_destinations()
                fill(hosting, 1)
                for name in ("refusing", "babbling"):
                    wait_for(lambda name=name: getattr(destinations.load(name), "error", ""), what=name)  # type: ignore[misc]
                standings = [destinations.load(name) for name in ("refusing", "babbling")]
                refusal, babbling = [each.error for each in standings if each is not None]
                assert "onnect" in refusal and babbling and "HTTP" not in babbling, "its words may name a patient"

            refused = hook(f"http://127.0.0.1:{refusing}/", name="refusing")
            serve(tmp_path / "data", script, refused, hook(f"http://127.0.0.1:{port}/", name="babbling"))


@contextmanager
def closed_port() -> Iterator[int]:
    """A port at which nobody listens, kept from others."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def test_a_destination_with_an_old_cursor_gets_a_reset_and_new_events(tmp_path: Path, receiver: Receiver) -> None:
    one = hook(receiver.url)

    def first(hosting: Hosting) -> None:
        fill(hosting, 1)
        wait_for(receiver.events, what="delivery")

    def second(hosting: Hosting) -> None:
        wait_for(lambda: len(receiver.requests) > 1, what="the reset")
        fill(hosting, 2)
        wait_for(lambda: numbers_of(receiver.events())[-1:] == [2], what="delivery")
        assert json.loads(receiver.requests[1][1])["reset"]

    serve(tmp_path / "data", first, one)
    (tmp_path / "data" / "feed" / "state").unlink()
    serve(tmp_path / "data", second, one)
