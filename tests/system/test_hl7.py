"""HL7 messages on a server as a user starts it: sent with `filmroom hl7`, and through the deaths of its processes."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.archive import hospital, messages
from engine.archive.archive import Archive
from engine.hl7 import FrameReader, framed, parse
from engine.orders.registry import NoRules
from tests import effort
from tests.cli.commands import rows, run
from tests.hl7.samples import ALL, lines
from tests.system.server import Server, wait_for

ROUNDS = effort.amount("HL7_ROUNDS", usual=1, everything=4)
MESSAGES = 20
"""Messages of a round."""

CONFIG = '[[hl7_listener]]\nhost = "127.0.0.1"\nport = 0\n'


def port_of(server: Server) -> int:
    found = re.search(r"mllp://127\.0\.0\.1:(\d+)/", server.ready_line)
    assert found is not None, server.ready_line
    return int(found[1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "data", config=CONFIG, workers=1)
    try:
        yield server
    finally:
        server.kill_all()


class Sender:
    """Sends until it has an answer, as interface engines do."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def send(self, message: bytes) -> str:
        """The code of the answer; sends again, on a new connection, until there is one."""
        for _ in range(1000):
            try:
                return self._once(message)
            except OSError:
                self.close()
                wait_for(self._can_connect)
        raise AssertionError("no answer")

    def _can_connect(self) -> bool:
        try:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        except OSError:
            return False
        return True

    def _once(self, message: bytes) -> str:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        self._socket.sendall(framed(message))
        reader = FrameReader()
        while True:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError
            for frame in reader.feed(data):
                return parse(frame.payload).text("MSA", 1)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def adt(number: int) -> bytes:
    head = f"MSH|^~\\&|KIS|ST|FILMROOM|RAD|20261130101500||ADT^A28|C{number}|P|2.5.1"
    return lines(head, f"PID|1||{number}^^^HOSP||Patient^{number}")


def test_messages_outlive_the_deaths_of_processes_and_are_applied_once(server: Server) -> None:
    """Kill -9 of the process of messages in each round, then of all processes: what was answered is there, once."""
    sender = Sender(port_of(server))
    sent = 0
    for _ in range(ROUNDS):
        wait_for(lambda: bool((server.stats()["messages"] or {}).get("pid")))  # type: ignore[attr-defined]
        for number in range(MESSAGES):
            sent += 1
            assert sender.send(adt(sent)) == "AA"
            if number == MESSAGES // 2:
                os.kill(server.stats()["messages"]["pid"], signal.SIGKILL)  # type: ignore[index]
    assert server.stats()["messages"]["restarts"] >= 1  # type: ignore[index]
    sender.close()
    server.kill_all()

    again = Server(server.data, config=CONFIG, workers=1)
    try:
        wait_for(lambda: (again.stats()["messages"] or {}).get("applied_to", 0) >= sent)  # type: ignore[attr-defined]
        wait_for(lambda: again.stats()["messages"]["waiting"] == 0)  # type: ignore[index]
        assert again.stop() == 0
    finally:
        again.kill_all()
    with Archive.open(server.data) as archive:
        history = messages.history_of(archive)
        found = list(history.rows())
        history.close()
        ids = [row.received.control_id for row in found]
        assert sorted(set(ids)) == sorted(f"C{number}" for number in range(1, sent + 1))
        assert all(row.outcome is not None for row in found)
        orders = hospital.open_orders(archive, NoRules())
        assert orders.counts()["patients"] == sent
        orders.close()


def test_the_commands_send_list_show_and_replay(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, message in enumerate(ALL):
        (tmp_path / f"{number}.hl7").write_bytes(message.replace(b"\r", b"\n"))
    files = [str(tmp_path / f"{number}.hl7") for number in range(len(ALL))]
    settings = ("--config", str(server.config_file), "--data", str(server.data))
    sent = rows(capsys, "hl7", "send", *files, "--to", f"127.0.0.1:{port_of(server)}", *settings)
    assert [row["code"] for row in sent] == ["CA", "AA", "AA"]
    wait_for(lambda: server.stats()["messages"]["applied_to"] == 3)  # type: ignore[index]
    listed = rows(capsys, "hl7", "journal", *settings)
    assert [(row["number"], row["kind"], row["result"]) for row in listed] == [
        (3, "ORM^O01", "applied"),
        (2, "OMI^O23", "applied"),
        (1, "ADT^A08", "applied"),
    ]
    assert [row["number"] for row in rows(capsys, "hl7", "journal", "--kind", "OMI", *settings)] == [2]
    (shown,) = rows(capsys, "hl7", "show", "2", *settings)
    assert "IPC|ACC1" in shown["message"] and shown["changes"]
    (replayed,) = rows(capsys, "hl7", "replay", "2", *settings)
    assert (replayed["result"], replayed["changes"]) == ("unchanged", [])
    code, _, err = run(capsys, "hl7", "replay", "99", *settings)
    assert code == 1 and "no message 99" in err
    profile = tmp_path / "site.toml"
    profile.write_text('extends = "ihe-2.5.1"\n[patient]\nPatientName = ""\n')
    different = rows(capsys, "hl7", "diff", str(profile), *settings)
    assert [row["number"] for row in different] == [3, 2, 1]
    assert server.stop() == 0
