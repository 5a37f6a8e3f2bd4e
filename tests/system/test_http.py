"""HTTP of a whole server, as curl, aiohttp and strangers see it: two workers, one server for the module."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.certificates import self_signed
from tests.peer import IMPLICIT, VERIFICATION, Peer
from tests.system.server import Server, wait_for

ECHO = (1, VERIFICATION, [IMPLICIT])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("http") / "data", http=True)
    yield server
    server.process.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def curl(*arguments: str) -> str:
    return subprocess.run(["curl", "-s", *arguments], capture_output=True, text=True, timeout=60).stdout


def test_the_ready_line_names_the_url_and_curl_gets_an_answer_there(server: Server) -> None:
    assert server.url.startswith("http://127.0.0.1:") and server.url in server.ready_line
    assert '"status":"ready"' in curl(f"{server.url}/health/ready")
    assert "405" in curl("-o", "/dev/null", "-w", "%{http_code}", "-X", "DELETE", f"{server.url}/health/live")


def test_whichever_worker_is_asked_the_metrics_are_of_all_and_of_both_fronts(server: Server) -> None:
    def ask() -> dict[tuple[str, str], float]:
        return {
            (sample.name, sample.labels.get("operation", "")): sample.value
            for family in text_string_to_metric_families(curl(f"{server.url}/metrics"))
            for sample in family.samples
        }

    with Peer(server.port) as peer:
        peer.associate(ECHO)
        answers = [ask() for _ in range(4)]
    for samples in answers:
        assert samples["filmroom_workers", ""] == 2
        assert samples["filmroom_associations", ""] == 1
        assert samples["filmroom_up", ""] == 1
        assert samples["filmroom_pool_waiting", ""] == 0
    wait_for(lambda: ask().get(("filmroom_operation_seconds_count", "GET /metrics"), 0) >= 4, what="all are counted")


def test_settings_say_where_their_values_come_from(server: Server) -> None:
    def origins(*keys: str) -> list[str]:
        rows = {row["key"]: row for row in json.loads(curl(f"{server.url}/api/settings"))["settings"]}
        return [rows[key]["origin"] for key in keys]

    keys = ("data", "http.port", "aet", "limits.disk_reserve_bytes", "duplicates_answer")
    assert origins(*keys) == ["flag", "environment", "default", "default", "default"]
    server.reload('duplicates_answer = "success"\n[limits]\ndisk_reserve_bytes = 1\n')
    assert origins(*keys) == ["flag", "environment", "default", "file", "default"], "one of them needs a restart"
    server.reload("")
    assert origins(*keys)[3] == "default"


def test_aiohttp_keeps_its_connections_and_gets_all_its_answers(server: Server) -> None:
    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=6)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def ask() -> str:
                async with session.get(f"{server.url}//health/live/") as answer:
                    assert answer.status == 200
                    return await answer.text()

            assert set(await asyncio.gather(*(ask() for _ in range(300)))) == {'{"status":"live"}'}

    asyncio.run(run())
    # The six are spread over both workers, beside whatever associations there are.
    rows = server.stats()["workers"]
    assert all(row["operations"]["http GET /health/live"]["latency_s"]["count"] for row in rows)  # type: ignore[attr-defined]


def first_answer(port: int, first: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(first)
        try:
            return sock.recv(1000)
        except ConnectionError:
            return b""


def test_what_is_no_http_does_not_reach_a_worker(server: Server) -> None:
    port = port_of(server)
    assert first_answer(port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") == b""
    assert first_answer(port, b"\x01\x00\x00\x00\x00\xd0" + bytes(208)) == b""
    assert first_answer(port, b"\xff\xfe hello").startswith(b"HTTP/1.1 400 ")
    assert first_answer(server.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b"", "the DICOM port knows no HTTP"
    with Peer(port) as peer, pytest.raises((ConnectionError, AssertionError, EOFError)):
        peer.associate(ECHO)
    counters = server.stats()["counters"]
    assert isinstance(counters, dict)
    assert counters["not_http_tls_hello"] == 1 and counters["not_http_a_dicom_association_request"] >= 2
    assert counters["not_http_unknown_bytes"] == 1 and counters["not_dicom_http_request"] == 1


def test_a_connection_that_says_little_stays_with_the_supervisor(server: Server) -> None:
    before = [row["connections"] for row in server.stats()["workers"]]  # type: ignore[attr-defined]
    sockets = [socket.create_connection(("127.0.0.1", port_of(server)), 10) for _ in range(50)]
    for sock in sockets:
        sock.sendall(b"GET /he")
    wait_for(lambda: server.stats()["waiting"] == 50, what="fifty that wait")
    assert [row["connections"] for row in server.stats()["workers"]] == before  # type: ignore[attr-defined]
    sockets[0].sendall(b"alth/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"live" in sockets[0].recv(1000)
    for sock in sockets:
        sock.close()
    wait_for(lambda: server.stats()["waiting"] == 0, what="all gone")


def test_https_takes_a_new_certificate_over_and_drops_no_connection(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "first.example")
    config = f'[http]\ncertificate = "{certificate}"\nkey = "{key}"\n'
    server = Server(tmp_path / "data", http=True, workers=1, config=config)
    try:
        assert server.url.startswith("https://")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

        def connect() -> http.client.HTTPSConnection:
            connection = http.client.HTTPSConnection("127.0.0.1", port_of(server), timeout=60, context=context)
            connection.connect()
            return connection

        def name_of(connection: http.client.HTTPSConnection) -> bytes:
            return connection.sock.getpeercert(binary_form=True)

        def ask(connection: http.client.HTTPSConnection) -> bytes:
            connection.request("GET", "/health/live")
            return connection.getresponse().read()

        old = connect()
        assert b"live" in ask(old) and b"first.example" in name_of(old)
        self_signed(tmp_path, "second.example")
        server.reload(config)
        new = connect()
        assert b"live" in ask(new) and b"second.example" in name_of(new)
        assert b"live" in ask(old), "an open connection goes on"
        key.write_text("no key")
        server.reload(config)
        assert b"second.example" in name_of(connect()), "a certificate that cannot be used is not taken over"
        assert first_answer(port_of(server), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    finally:
        os.killpg(server.process.pid, signal.SIGTERM)
        server.wait(60)
