"""Subscriptions of FHIR on a server: whatever is killed, each event is told, in order and under its number."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import requests

from tests import samples
from tests.system.server import Server
from tests.web.subscribing import events, r4, until
from tests.web.test_fhir_reports import structured
from tests.web.test_webhooks import Receiver


def store(server: Server, number: int) -> None:
    """Stores a report by STOW-RS, as soon as a worker takes it."""
    part = samples.part10(structured(1, number))
    body = b"--B\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n--B--\r\n"
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=B'}

    def is_stored() -> bool:
        try:
            answer = requests.post(f"{server.url}/dicom-web/studies", data=body, headers=headers, timeout=60)
        except requests.ConnectionError:
            return False
        return answer.status_code == 200

    until(is_stored, f"report {number}")


def children(pid: int) -> list[int]:
    """The processes of a supervisor."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.rotating(3)
def test_a_kill_loses_no_event_and_changes_no_number(tmp_path: Path) -> None:
    receiver = Receiver()
    config = f'[fhir]\nnotify = ["http://127.0.0.1:{receiver.port}"]\nretry_s = 0.2\n'
    body = json.dumps(r4("report-available", url=receiver.url))

    def is_made(server: Server) -> bool:
        headers = {"Content-Type": "application/fhir+json"}
        answer = requests.post(f"{server.url}/fhir/Subscription", data=body, headers=headers, timeout=60)
        return answer.status_code == 201  # 503 until there is a change feed

    def is_told(number: int) -> bool:
        return number in [each for each, _ in events(receiver)]

    server = Server(tmp_path / "data", config=config, http=True)
    try:
        until(lambda: is_made(server), "the subscription")
        store(server, 1)
        until(lambda: is_told(1), "the first event")
        for pid in children(server.process.pid):
            os.kill(pid, signal.SIGKILL)
        store(server, 2)
        until(lambda: is_told(2), "the event after the kill")
        server.kill_all()
        server = Server(tmp_path / "data", config=config, http=True)
        store(server, 3)
        until(lambda: is_told(3), "the event after the restart")
    finally:
        server.kill_all()
        receiver.close()
    told = events(receiver)
    assert [number for number, _ in told] == sorted(number for number, _ in told)
    assert set(told) == {
        (number, f"DiagnosticReport/{samples.ROOT}.1.2.{number}") for number in (1, 2, 3)
    }  # fmt: skip
