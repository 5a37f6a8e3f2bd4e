"""What an attacker tries at the port of DICOM over TLS, and what a user identity there is worth.

openssl and DCMTK are used where they are installed; the rest needs Python alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
)

from engine import certificates
from engine.accounts import users
from engine.accounts.database import FOLDER, Database
from engine.accounts.passwords import hash_of
from engine.accounts.records import User
from engine.audit.search import Condition, search
from tests import peer, samples
from tests.peer import CT, EXPLICIT, VERIFICATION, Peer
from tests.system import foreign
from tests.system.secure import (
    HANDSHAKES_MAX,
    SERVER_AUTH,
    Site,
    configuration,
    counter,
    dial,
    is_served,
    issue_odd,
    made_site,
    tls_port,
)
from tests.system.server import Server, running, wait_for

OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
DCMTK = pytest.mark.skipif(shutil.which("echoscu") is None, reason="DCMTK is not installed (Debian package dcmtk)")

PASSCODE = "a long enough passcode"
ROLES = '[[role]]\nname = "looker"\nmay = ["query"]\n'
LIMITS = "[limits]\nartim_timeout_s = 60\n"
"""On a busy machine a peer may need longer than by default, above all behind a flood."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = made_site(tmp_path_factory.mktemp("site"))
    issue_odd(site, "expired", days=-1)
    issue_odd(site, "server-only", usage=SERVER_AUTH)
    return site


@pytest.fixture(scope="module")
def server(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("attacks") / "data"
    with running(data, config=settings(site), workers=1) as started:
        database = Database(data / FOLDER)
        for name, roles in (("anna", ("full",)), ("otto", ("looker",)), ("eva", ("full",))):
            users.add(database, User(name=name, roles=roles, password=hash_of(PASSCODE)))
        database.close()
        yield started


def settings(site: Site, more: str = "", tls: str = "") -> str:
    return f"{configuration(site, more, tls)}\n{ROLES}{LIMITS}"


# Certificates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["expired", "server-only", "foreigner", "stolen", ""])
def test_a_certificate_that_is_not_valid_for_a_client_is_refused_and_told(
    server: Server, site: Site, name: str
) -> None:
    before, alerts = counter(server, "tls_handshakes_failed"), len(server.events("TLS handshake failed"))
    assert not is_served(server, site.context(name))
    wait_for(lambda: counter(server, "tls_handshakes_failed") == before + 1, what="the count")
    wait_for(lambda: len(server.events("TLS handshake failed")) == alerts + 1, what="the log")
    assert is_served(server, site.context("ct2"))


def test_an_expired_revocation_list_keeps_everybody_out_until_it_is_renewed(
    server: Server, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "CRL_DAYS", -1)
    monkeypatch.setattr(certificates, "_CLOCK_SKEW", certificates.timedelta(days=2))
    certificates.renew_crl(site.folder)
    monkeypatch.undo()
    server.reload(settings(site))
    assert not is_served(server, site.context("ct2"))
    certificates.renew_crl(site.folder)
    server.reload(settings(site))
    assert is_served(server, site.context("ct2"))


@OPENSSL
def test_a_scan_of_all_versions_and_suites_finds_those_of_the_profile_alone(server: Server, site: Site) -> None:
    """The same with the memory contexts of every profile is in tests/test_tls.py."""
    every = subprocess.run(
        ["openssl", "ciphers", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"], capture_output=True, text=True, check=True
    ).stdout.strip()
    weak = ":".join(name for name in every.split(":") if not is_of_profile(name))
    strong = [name for name in every.split(":") if is_of_profile(name)]
    assert len(strong) == 6 and weak.count(":") > 50
    attempts = {
        **{name: ("-tls1_2", "-cipher", f"{name}:@SECLEVEL=0") for name in strong},
        "all others": ("-tls1_2", "-cipher", f"{weak}:@SECLEVEL=0"),
        "TLS 1.0": ("-tls1", "-cipher", "ALL:@SECLEVEL=0"),
        "TLS 1.1": ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
        "TLS 1.3": ("-tls1_3",),
        "TLS 1.3 with CCM": ("-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256:TLS_AES_128_CCM_8_SHA256"),
    }
    with ThreadPoolExecutor(HANDSHAKES_MAX // 2) as pool:
        outcomes = dict(
            zip(attempts, pool.map(lambda each: agrees(server, site, *each), attempts.values()), strict=True)
        )
    assert {name for name, is_agreed in outcomes.items() if is_agreed} == {*strong, "TLS 1.3"}


def is_of_profile(suite: str) -> bool:
    """Whether a suite of TLS 1.2 is one of profile b12."""
    return suite.startswith("ECDHE-") and (
        suite.endswith(("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")) and "PSK" not in suite
    )


def agrees(server: Server, site: Site, *arguments: str) -> bool:
    """Whether openssl and the server agree on TLS with these arguments."""
    own = ("-cert", f"{site.folder}/ct2.pem", "-key", f"{site.folder}/ct2.key", "-CAfile", f"{site.folder}/ca.pem")
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{tls_port(server)}", *own, "-brief", *arguments],
        input="",
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode == 0 and "CONNECTION ESTABLISHED" in done.stderr


# Floods ------------------------------------------------------------------------------------------


def test_five_hundred_half_open_handshakes_do_not_keep_a_peer_out(server: Server, site: Site) -> None:
    client, memory = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = site.context("ct2").wrap_bio(client, memory, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    first = memory.read()
    before = counter(server, "tls_handshakes_evicted")
    with contextlib.ExitStack() as held:
        for _ in range(500):
            sock = held.enter_context(socket.create_connection(("127.0.0.1", tls_port(server)), 60))
            sock.sendall(first)
        wait_for(lambda: counter(server, "tls_handshakes_evicted") > before, 60, what="evictions")
        assert is_served(server, site.context("ct2"))
        assert server.stats()["workers"][0]["tls_handshakes"] <= HANDSHAKES_MAX  # type: ignore[index]


@pytest.mark.parametrize("phase", ["before the request", "in a message"])
def test_a_flood_of_records_of_one_byte_is_ended(server: Server, site: Site, phase: str) -> None:
    """Each costs us as much as one of 16 KiB."""
    with dial(server, site.context("ct2")) as script:
        if phase == "in a message":
            script.associate((1, CT, [EXPLICIT]))
            data = peer.message(1, peer.c_store_rq(1, CT, "1.2.3"), bytes(4 << 20), fragment=(4 << 20) - 6)
        else:
            data = peer.associate_rq([(1, VERIFICATION, [EXPLICIT])], user_items=bytes(60_000))
            data = struct.pack(">BxI", peer.ASSOCIATE_RQ, 1 << 20) + data[6:] + bytes(1 << 20)
        with pytest.raises(OSError):
            for at in range(len(data)):
                script.socket.send(data[at : at + 1])
    if phase == "in a message":  # else ARTIM may be faster
        wait_for(lambda: server.events("a flood of TLS records without data"), 60, what="the log")
    assert is_served(server, site.context("ct2"))


@OPENSSL
def test_key_updates_cost_an_association_nothing_and_nobody_else(server: Server, site: Site) -> None:
    server.reload(settings(site).replace(LIMITS, "[limits]\nartim_timeout_s = 5\n"))  # it waits for that
    own = ("-cert", f"{site.folder}/ct2.pem", "-key", f"{site.folder}/ct2.key", "-CAfile", f"{site.folder}/ca.pem")
    client = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{tls_port(server)}", "-tls1_3", *own],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert client.stdin is not None and client.stdout is not None
    try:
        for _ in range(2000):
            client.stdin.write(b"K\n")  # asks for an update of our keys too
            client.stdin.flush()
            for line in client.stdout:
                if line.startswith(b"KEYUPDATE"):
                    break
            else:
                break  # closed by ARTIM: it has sent no request
        server.reload(settings(site))
        assert is_served(server, site.context("ct2"))
    finally:
        client.kill()
        client.communicate()
    wait_for(lambda: server.stats()["workers"][0]["connections"] == 0, 60, what="the end")  # type: ignore[index]


def test_a_peer_that_never_answers_close_notify_is_gone(server: Server, site: Site) -> None:
    """Without a timer of ours the event loop would wait 30 s for it, or as long as ARTIM."""
    with socket.create_connection(("127.0.0.1", tls_port(server)), 60) as plain:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secured = site.context("ct2").wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")

        def run(step: object) -> bytes:
            while True:
                try:
                    result = step()  # type: ignore[operator]
                    plain.sendall(outgoing.read())
                    return result or b""
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(1 << 16))

        run(secured.do_handshake)
        run(lambda: secured.write(peer.associate_rq([(1, VERIFICATION, [EXPLICIT])])))
        assert run(lambda: secured.read(1 << 16))[:1] == bytes([peer.ASSOCIATE_AC])
        run(lambda: secured.write(peer.pdu(peer.ABORT, bytes(4))))
        # From now on it reads nothing, and leaves the connection open.
        wait_for(lambda: server.stats()["workers"][0]["connections"] == 0, 25, what="the end")  # type: ignore[index]


# Reload, and somebody in between -----------------------------------------------------------------


def test_associations_go_on_through_reloads_under_load(server: Server, site: Site) -> None:
    context = site.context("ct2")
    sent = [foreign.Stored.of(samples.instance(50, number, 1)) for number in range(1, 41)]

    def store(part: list[foreign.Stored]) -> list[int]:
        with foreign.association(tls_port(server), [(CT, EXPLICIT)], tls=context) as association:
            return [foreign.send(association, each, number).Status for number, each in enumerate(part, 1)]

    with ThreadPoolExecutor(4) as pool:
        running_stores = [pool.submit(store, sent[at::4]) for at in range(4)]
        while not all(each.done() for each in running_stores):
            server.reload(settings(site))
            assert is_served(server, context)
        assert [each.result() for each in running_stores] == [[0] * 10] * 4


def test_a_commitment_report_goes_to_no_peer_with_another_certificate(server: Server, site: Site) -> None:
    received: list[bytes] = []

    def listen(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            with site.context("sink", server=True).wrap_socket(connection, server_side=True) as secured:
                received.append(secured.recv(1000))

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        asker = (
            f'[[peer]]\naet = "US9"\nhost = "127.0.0.1"\nport = {listener.getsockname()[1]}\ntls = "required"\n'
            'certificates = ["san:elsewhere.hosp", "san:ct2.hosp"]\n'
        )
        server.reload(settings(site, asker))
        receiving = pool.submit(listen, listener)
        push, instance = str(StorageCommitmentPushModel), str(StorageCommitmentPushModelInstance)
        context = site.context("ct2")
        with foreign.association(tls_port(server), [(push, EXPLICIT)], calling="US9", tls=context) as association:
            status, _ = association.send_n_action(commitment_request(), 1, push, instance)
            assert status.Status == 0
            association.abort()
        receiving.result(60)
    server.reload(settings(site))
    assert b"".join(received) == b""


def commitment_request() -> Dataset:
    """For an instance that nobody has."""
    request, item = Dataset(), Dataset()
    request.TransactionUID = f"{samples.ROOT}.99"
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, f"{samples.ROOT}.98"
    request.ReferencedSOPSequence = [item]
    return request


# User identities ---------------------------------------------------------------------------------


def identity_item(kind: int, primary: bytes, secondary: bytes = b"", *, asks: bool = True) -> bytes:
    """The sub-item 58H."""
    content = bytes([kind, asks]) + struct.pack(">H", len(primary)) + primary
    return peer.item(0x58, content + struct.pack(">H", len(secondary)) + secondary)


def answer(
    server: Server, context: ssl.SSLContext | None, item: bytes, calling: str = "VIEWER"
) -> tuple[int, int, int] | bytes | None:
    """What follows an A-ASSOCIATE-RQ with this item: A-ASSOCIATE-RJ, or the server's response (59H) if there is one."""
    rq = peer.associate_rq([(1, VERIFICATION, [EXPLICIT])], calling=calling, user_items=item)
    with Peer(server.port) if context is None else dial(server, context) as script:
        script.send(rq)
        received = script.receive()
        assert received is not None
        kind, body = received
        if kind == peer.ASSOCIATE_RJ:
            return body[1], body[2], body[3]
        assert kind == peer.ASSOCIATE_AC
        script.echo()
        at = body.find(b"\x59\x00")
        return None if at < 0 else body[at + 4 : at + 4 + int.from_bytes(body[at + 2 : at + 4], "big")]


RIGHT = identity_item(2, b"anna", PASSCODE.encode())
EMPTY = struct.pack(">H", 0)
FAILED = (1, 2, 1)


def test_a_right_passcode_gets_a_positive_response_if_it_asks(server: Server, site: Site) -> None:
    context = site.context("ct2")
    assert answer(server, context, RIGHT) == EMPTY
    assert answer(server, context, RIGHT) == EMPTY  # remembered
    assert answer(server, context, identity_item(2, b"anna", PASSCODE.encode(), asks=False)) is None

    def users() -> list[object]:
        return [event["user"] for event in server.events("association accepted") if "user" in event]

    wait_for(lambda: users()[-2:] == ["anna"] * 2, what="her name in the log")
    wait_for(lambda: logins(server, "anna"), what="the log-in in the audit")
    assert set(logins(server, "anna")) == {("VIEWER", 0)}


def logins(server: Server, user: str) -> list[tuple[str, int]]:
    """Title and outcome of the log-ins of a user in the audit."""
    events = search(server.data, Condition(kind="login", user=user), 1000).events
    return [(event["who"]["name"], event.get("outcome", 0)) for event in events]


@pytest.mark.parametrize(
    "item",
    [
        identity_item(2, b"eva", b"another passcode"),
        identity_item(2, b"nobody", PASSCODE.encode()),
        identity_item(2, b"", b""),
        identity_item(2, b"\xff" * 60_000, b"\0"),
    ],
)
def test_a_wrong_passcode_is_rejected_and_never_logged(server: Server, site: Site, item: bytes) -> None:
    before = counter(server, "user_identities_refused")
    assert answer(server, site.context("ct2"), item) == FAILED
    assert counter(server, "user_identities_refused") == before + 1
    assert "another passcode" not in "".join(server.log) and PASSCODE not in "".join(server.log)


def test_a_passcode_in_the_clear_is_rejected_though_it_is_right(server: Server, site: Site) -> None:
    assert answer(server, site.context("ct2"), RIGHT) == EMPTY
    assert answer(server, None, RIGHT) == FAILED
    assert answer(server, None, identity_item(5, b"a.b.c")) == FAILED
    assert answer(server, None, identity_item(1, b"anna")) is None


def test_a_proof_can_be_required_of_a_peer_and_of_all_who_come_over_tls(server: Server, site: Site) -> None:
    context = site.context("ct2")
    more = '[[peer]]\naet = "WS1"\ntls = "required"\nidentity = "required"\n'
    old = '[[peer]]\naet = "OLD"\nidentity = "ignored"\n'
    server.reload(settings(site, more + old))
    assert answer(server, context, b"", "WS1") == FAILED
    assert answer(server, context, identity_item(1, b"anna"), "WS1") == FAILED
    assert answer(server, context, identity_item(3, b"ticket"), "WS1") == FAILED
    assert answer(server, context, RIGHT, "WS1") == EMPTY
    assert answer(server, context, b"", "WS2") is None
    server.reload(settings(site, old, tls='identity = "required"'))
    assert answer(server, context, b"", "WS2") == FAILED
    assert answer(server, context, RIGHT, "WS2") == EMPTY
    assert answer(server, context, identity_item(2, b"no", b"body"), "OLD") is None
    server.reload(settings(site))


def test_the_roles_of_a_user_narrow_an_association_at_once(server: Server, site: Site) -> None:
    """Otto may only query; when that is taken from him, the open association is refused too."""
    item = UserIdentityNegotiation()
    item.user_identity_type, item.primary_field, item.secondary_field = 2, b"otto", PASSCODE.encode()
    find = str(StudyRootQueryRetrieveInformationModelFind)
    ae = AE("VIEWER")
    for abstract_syntax in (CT, find, VERIFICATION):
        ae.add_requested_context(abstract_syntax, EXPLICIT)
    context, keys = site.context("ct2"), foreign.identifier({"QueryRetrieveLevel": "STUDY", "PatientID": "NOBODY"})
    association = ae.associate("127.0.0.1", tls_port(server), ext_neg=[item], tls_args=(context, "127.0.0.1"))
    assert {str(each.abstract_syntax) for each in association.accepted_contexts} == {find, VERIFICATION}
    database = Database(server.data / FOLDER)
    statuses = []
    for is_disabled in (False, True, False):
        users.change(database, "otto", is_disabled=is_disabled)
        statuses.append([status.Status for status, _ in association.send_c_find(keys, find)][-1])
    database.close()
    association.release()
    assert statuses[::2] == [0, 0] and statuses[1] != 0


def test_slow_verifications_keep_nobody_waiting(server: Server, site: Site) -> None:
    """Eva's wrong passcodes cost a hash each. Meanwhile others are served, and every sender gets its answer."""
    wrong = [identity_item(2, b"eva", b"wrong %d" % number) for number in range(6)]
    with ThreadPoolExecutor(len(wrong)) as pool:
        answers = [pool.submit(answer, server, site.context("ct2"), item) for item in wrong]
        assert is_served(server, site.context("ct2"))
        assert {each.result() for each in answers} <= {FAILED, (2, 3, 1)}


def test_pynetdicom_proves_a_user(server: Server, site: Site) -> None:
    ae = AE("VIEWER")
    ae.add_requested_context(VERIFICATION)
    for user, passcode, is_accepted in ((b"anna", PASSCODE, True), (b"eva", "another passcode", False)):
        item = UserIdentityNegotiation()
        item.user_identity_type = 2
        item.positive_response_requested = True
        item.primary_field, item.secondary_field = user, passcode.encode()
        association = ae.associate(
            "127.0.0.1", tls_port(server), ext_neg=[item], tls_args=(site.context("ct2"), "127.0.0.1")
        )
        assert association.is_established is is_accepted
        if is_accepted:
            assert association.send_c_echo().Status == 0
            assert association.acceptor.user_identity is not None
            association.release()


@DCMTK
@pytest.mark.parametrize(
    ("arguments", "is_accepted"),
    [
        (("-usr", "anna", "-pwd", PASSCODE, "-rsp"), True),
        (("-usr", "eva", "-pwd", "another passcode", "-rsp"), False),
        (("-usr", "anna"), True),
    ],
)
def test_dcmtk_proves_a_user(
    server: Server, site: Site, tmp_path: Path, arguments: tuple[str, ...], is_accepted: bool
) -> None:
    samples.write(tmp_path, samples.instance(60, 1, 1))
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    own = ("+tls", f"{site.folder}/ct2.key", f"{site.folder}/ct2.pem", "+cf", f"{site.folder}/ca.pem")
    done = subprocess.run(
        ["storescu", "-v", *own, *arguments, "127.0.0.1", str(tls_port(server)), str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TCP_NODELAY": "1"},
    )
    assert (done.returncode == 0) is is_accepted, done.stdout + done.stderr
