"""DICOM over TLS (PS3.15 B.12): pynetdicom, DCMTK and openssl against a server, and what an attacker would try.

Every certificate is made here, by the code behind `filmroom cert`.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine import certificates
from tests import peer, samples
from tests.peer import CT, EXPLICIT, VERIFICATION, Peer
from tests.system import foreign
from tests.system.secure import (
    HANDSHAKES_MAX,
    Site,
    configuration,
    counter,
    dial,
    is_served,
    made_site,
    rejection,
    tls_port,
)
from tests.system.server import Server, running, wait_for

STUDY = f"{samples.ROOT}.1"
INSTANCES = [foreign.Stored.of(samples.instance(1, 1, number)) for number in range(1, 6)]
BIG = foreign.Stored.of(samples.instance(1, 2, 1, rows=1200, columns=1100))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return made_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def server(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("tls") / "data"
    with running(data, config=configuration(site), workers=1) as started:
        yield started


# What must work ----------------------------------------------------------------------------------


def test_instances_stored_over_tls_come_back_over_tls_and_without_as_the_same_bytes(server: Server, site: Site) -> None:
    context = site.context("ct2")
    sent = [*INSTANCES, BIG]
    with foreign.association(tls_port(server), [(CT, EXPLICIT)], tls=context) as association:
        statuses = [foreign.send(association, each, number).Status for number, each in enumerate(sent, 1)]
    assert statuses == [0] * len(sent)
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}
    expected = {each.sop_instance_uid: (EXPLICIT, each.data_set) for each in sent}
    assert foreign.get(tls_port(server), keys, [(CT, EXPLICIT)], tls=context).data_sets == expected
    assert foreign.get(server.port, keys, [(CT, EXPLICIT)]).data_sets == expected


def test_c_move_goes_over_tls_to_a_peer_that_requires_it(server: Server, site: Site) -> None:
    foreign.store(server.port, INSTANCES)
    with foreign.Receiver([(CT, EXPLICIT)], tls=site.context("sink", server=True)) as receiver:
        server.reload(configuration(site, receiver.peer(more='tls = "required"')))
        keys = {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": STUDY, "SeriesInstanceUID": f"{STUDY}.1"}
        result = foreign.move(server.port, keys, "SINK")
        assert result.counts[-1][1] == len(INSTANCES)
        assert set(receiver.data_sets()) == {each.sop_instance_uid for each in INSTANCES}


@pytest.mark.parametrize(
    "more",
    [
        pytest.param('certificates = ["san:elsewhere.hosp"]', id="another certificate"),
        pytest.param('tls_name = "elsewhere.hosp"', id="another host name"),
    ],
)
def test_nothing_is_sent_to_a_destination_with_another_certificate(server: Server, site: Site, more: str) -> None:
    foreign.store(server.port, INSTANCES)
    received: list[bytes] = []

    def receive(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):  # the server ends the handshake, or the connection after it
            secured = site.context("sink", server=True).wrap_socket(connection, server_side=True)
            with secured:
                received.append(secured.recv(1000))

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        port = listener.getsockname()[1]
        server.reload(
            configuration(site, f'[[peer]]\naet = "SINK"\nhost = "127.0.0.1"\nport = {port}\ntls = "required"\n{more}')
        )
        receiving = pool.submit(receive, listener)
        result = foreign.move(server.port, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}, "SINK")
        assert result.counts[-1][1] == 0
        receiving.result(60)
    assert b"".join(received) == b""


@pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK is not installed (Debian package dcmtk)")
@pytest.mark.parametrize("name", ["ct2", "rsa-only"])
def test_dcmtk_stores_with_an_elliptic_and_with_an_rsa_key(
    server: Server, site: Site, tmp_path: Path, name: str
) -> None:
    if not (site.folder / f"{name}.pem").exists():
        certificates.issue(site.folder, name, (), "rsa")
    samples.write(tmp_path, samples.instance(3, 1, 1))
    own = (f"{site.folder}/{name}.key", f"{site.folder}/{name}.pem")
    done = subprocess.run(
        [
            *("storescu", "-v", "+tls", *own, "+cf", f"{site.folder}/ca.pem", "+sd"),
            *("127.0.0.1", str(tls_port(server)), str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Received Store Response (Success)" in done.stdout + done.stderr


# What must not -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "foreigner", "stolen"])
def test_a_peer_without_a_valid_certificate_is_refused(server: Server, site: Site, name: str) -> None:
    assert is_served(server, site.context("ct2"))
    before = counter(server, "tls_handshakes_failed")
    assert not is_served(server, site.context(name))
    assert counter(server, "tls_handshakes_failed") == before + 1
    assert is_served(server, site.context("ct2"))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_an_old_version_of_tls_is_refused(server: Server, site: Site, version: ssl.TLSVersion) -> None:
    context = site.context("ct2")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    assert not is_served(server, context)


@pytest.mark.parametrize("suites", ["AES128-SHA256", "ECDHE-ECDSA-AES128-SHA", "NULL-SHA256", "AES256-GCM-SHA384"])
def test_a_suite_that_the_profile_does_not_have_is_refused(server: Server, site: Site, suites: str) -> None:
    context = site.context("ct2")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{suites}:@SECLEVEL=0")
    assert not is_served(server, context)


@pytest.mark.parametrize("suite", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"])
def test_tls_1_2_is_served_with_both_kinds_of_key(server: Server, site: Site, suite: str) -> None:
    context = site.context("ct2")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
    assert is_served(server, context)


def test_the_certificate_of_another_peer_is_rejected_with_a_security_alert(server: Server, site: Site) -> None:
    server.reload(configuration(site))
    assert is_served(server, site.context("ct1"), "CT1")
    before = counter(server, "security_alerts")
    assert rejection(server, site.context("ct2"), "CT1") == (1, 1, 3)
    assert counter(server, "security_alerts") == before + 1
    wait_for(lambda: server.events("security alert: the title of another peer"), what="the line in the log")
    (event,) = server.events("security alert: the title of another peer")[-1:]
    assert event["reason"] == "a certificate that is not the peer's"


def test_a_peer_that_must_use_tls_is_rejected_without(server: Server, site: Site) -> None:
    server.reload(configuration(site))
    assert rejection(server, None, "CT1") == (1, 1, 3)


def test_a_peer_is_rejected_from_a_network_that_is_not_its_own(server: Server, site: Site) -> None:
    server.reload(configuration(site, '[[peer]]\naet = "MR1"\nnetworks = ["10.0.0.0/8"]\n'))
    assert rejection(server, None, "MR1") == (1, 1, 3)
    server.reload(configuration(site, '[[peer]]\naet = "MR1"\nnetworks = ["10.0.0.0/8", "127.0.0.1"]\n'))
    with Peer(server.port) as script:
        script.associate((1, VERIFICATION, [EXPLICIT]), calling="MR1")


def test_a_fingerprint_names_one_certificate(server: Server, site: Site) -> None:
    (description,) = certificates.describe(site.folder / "ct2.pem")
    assert isinstance(description, certificates.Certificate)
    fingerprint = description.fingerprint.upper().replace("SHA256:", "sha256:")
    more = f'[[peer]]\naet = "US1"\ntls = "required"\ncertificates = ["{fingerprint}"]\n'
    server.reload(configuration(site, more))
    assert is_served(server, site.context("ct2"), "US1")
    assert rejection(server, site.context("ct1"), "US1") == (1, 1, 3)


@pytest.mark.parametrize("data", [peer.associate_rq([(1, VERIFICATION, [EXPLICIT])]), b"GET / HTTP/1.1\r\n\r\n" * 2])
def test_who_speaks_no_tls_to_the_tls_port_never_reaches_a_worker(server: Server, site: Site, data: bytes) -> None:
    before = counter(server, "tls_handshakes_failed"), counter(server, "connections_without_association")
    with socket.create_connection(("127.0.0.1", tls_port(server)), 30) as sock:
        sock.sendall(data)
        try:
            assert sock.recv(100) == b""
        except ConnectionResetError:
            pass
    assert is_served(server, site.context("ct2"))
    after = counter(server, "tls_handshakes_failed"), counter(server, "connections_without_association")
    assert after == before


def test_half_open_handshakes_do_not_keep_a_peer_out(server: Server, site: Site) -> None:
    client, memory = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = site.context("ct2").wrap_bio(client, memory, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    first = memory.read()
    open_sockets = []
    try:
        for _ in range(5 * HANDSHAKES_MAX):
            sock = socket.create_connection(("127.0.0.1", tls_port(server)), 10)
            sock.sendall(first)
            open_sockets.append(sock)
        wait_for(lambda: counter(server, "tls_handshakes_evicted") >= 4 * HANDSHAKES_MAX - 1, what="evictions")
        assert is_served(server, site.context("ct2"))
        assert server.stats()["workers"][0]["tls_handshakes"] <= HANDSHAKES_MAX  # type: ignore[index]
    finally:
        for sock in open_sockets:
            sock.close()


def test_a_reload_with_a_broken_key_keeps_the_old_one(server: Server, site: Site, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
    text = configuration(site).replace(f"{site.folder}/pacs.pem", str(broken))
    with dial(server, site.context("ct2")) as script:
        script.associate((1, VERIFICATION, [EXPLICIT]))
        server.reload(text)
        wait_for(lambda: server.events("the TLS settings cannot be used; the old ones remain"), what="the error")
        script.send(peer.message(1, peer.c_echo_rq(1)))
        assert script.expect_message().status() == 0
    assert is_served(server, site.context("ct2"))
    server.reload(configuration(site))


def test_a_certificate_revoked_at_a_reload_is_refused_from_then_on(server: Server, site: Site) -> None:
    certificates.issue(site.folder, "leaver", ())
    context = site.context("leaver")
    assert is_served(server, context)
    certificates.revoke(site.folder, site.folder / "leaver.pem")
    server.reload(configuration(site))
    wait_for(lambda: not is_served(server, context), what="the refusal")
    assert is_served(server, site.context("ct2"))
