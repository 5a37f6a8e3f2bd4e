"""HTTPS: bodies of any size past the parser, requests behind them, and clients that shake hands slowly or never."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from engine.web.settings import Http
from tests import certificates, samples
from tests.samples import part10
from tests.system.server import wait_for
from tests.web.hosting import Hosting, read_all
from tests.web.serving import serving
from tests.web.test_direct_body import HEALTH, request, statuses

SEED = 20261129


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hosting, ssl.SSLContext]]:
    folder = tmp_path_factory.mktemp("tls")
    authority, certificate, key = certificates.signed(folder, "127.0.0.1")
    http = Http(certificate=certificate, key=key, header_timeout_s=60.0)
    with serving(folder / "data", http=http) as hosting:
        yield hosting, ssl.create_default_context(cafile=str(authority))
    assert hosting.engine.ingest_budget.taken_bytes == 0


def connect(hosting: Hosting, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(hosting.connect(), server_hostname="127.0.0.1")


def body_of(studies: list[int], pixels: bytes) -> bytes:
    files = [part10(samples.instance(number, pixels=pixels)) for number in studies]
    parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files]
    return b"".join(parts) + b"--b--\r\n"


@pytest.mark.parametrize(("first", "pixels_length", "count"), [(1, 60, 1), (100, 500_000, 40), (200, 20_000_000, 1)])
def test_stores_of_any_size_are_whole_and_the_requests_behind_them_answered(
    secure: tuple[Hosting, ssl.SSLContext], first: int, pixels_length: int, count: int
) -> None:
    """TLS delivers what it has decrypted also after reading was paused."""
    hosting, context = secure
    pixels = random.Random(SEED + first).randbytes(pixels_length)
    numbers = list(range(first, first + count))
    with connect(hosting, context) as sock:
        sock.sendall(request(body_of(numbers, pixels)) + HEALTH + b"\r\n" + HEALTH + b"Connection: close\r\n\r\n")
        assert statuses(read_all(sock)) == ["200"] * 3
    archive = hosting.engine.archive
    for number in numbers:
        ds = samples.instance(number, pixels=pixels)
        instance = archive.instance(ds.SOPInstanceUID)
        assert instance is not None
        stored = archive.retrieval.open(instance)
        assert bytes(stored.read(0, stored.length)) == samples.encoded(ds)


def test_frames_over_tls_are_those_that_were_stored(secure: tuple[Hosting, ssl.SSLContext]) -> None:
    hosting, context = secure
    pixels = random.Random(SEED).randbytes(3_000_000)
    ds = samples.instance(300, pixels=pixels)
    path = f"/dicom-web/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    question = f"GET {path}/bulkdata/7FE00010 HTTP/1.1\r\nHost: localhost\r\nAccept: application/octet-stream\r\n"
    with connect(hosting, context) as sock:
        sock.sendall(request(body_of([300], pixels)) + question.encode() + b"Connection: close\r\n\r\n")
        answer = read_all(sock)
    assert statuses(answer[:10_000]) == ["200", "200"] and answer.endswith(pixels)


def test_a_client_that_is_cut_off_in_a_body_leaves_nothing(secure: tuple[Hosting, ssl.SSLContext]) -> None:
    hosting, context = secure
    whole = request(body_of([400], bytes(4_000_000)))
    for cut in (len(whole) - 10, len(whole) // 2, 400):
        with connect(hosting, context) as sock:
            sock.sendall(whole[:cut])
            wait_for(lambda: hosting.front.is_busy, what="its handler runs")
    wait_for(lambda: not hosting.front.is_busy, what="the handlers have ended")
    wait_for(lambda: hosting.engine.ingest_budget.taken_bytes == 0, what="their memory came back")
    assert hosting.engine.archive.instance(samples.instance(400).SOPInstanceUID) is None


@pytest.mark.parametrize(
    "beginning", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50)]
)
def test_a_handshake_that_does_not_end_is_ended(secure: tuple[Hosting, ssl.SSLContext], beginning: bytes) -> None:
    hosting, context = secure
    before = hosting.counters["http_connections_lost_early"]
    config = hosting.engine.config
    hosting.engine.config = replace(config, http=replace(config.http, header_timeout_s=0.5))
    try:
        sock = hosting.connect()
        wait_for(lambda: len(hosting.front._handshakes), what="its handshake")
    finally:
        hosting.engine.config = config
    with sock:
        sock.sendall(beginning)
        with connect(hosting, context) as other:
            other.sendall(HEALTH + b"Connection: close\r\n\r\n")
            assert statuses(read_all(other)) == ["200"], "others are served meanwhile"
        assert read_all(sock) == b""
    wait_for(lambda: hosting.counters["http_connections_lost_early"] == before + 1, what="it is counted")


def test_plain_http_and_a_refused_renegotiation_end_their_connection_only(
    secure: tuple[Hosting, ssl.SSLContext],
) -> None:
    hosting, context = secure
    with hosting.connect() as sock:
        sock.sendall(HEALTH + b"\r\n")
        assert b"200" not in read_all(sock)
    with connect(hosting, context) as sock:
        sock.sendall(HEALTH + b"\r\n")
        assert statuses(sock.recv(4096)) == ["200"]
        plain = socket.socket(fileno=sock.detach())
    with plain:
        plain.sendall(b"\x16\x03\x03\x00\x04\x01\x00\x00\x00" * 100)  # a handshake where records must be
        plain.settimeout(60)
        assert b"HTTP/1.1 " not in read_all(plain)
    with connect(hosting, context) as sock:
        sock.sendall(HEALTH + b"Connection: close\r\n\r\n")
        assert statuses(read_all(sock)) == ["200"]
