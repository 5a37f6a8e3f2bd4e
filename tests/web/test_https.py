"""Whether HTTP speaks TLS, which versions and certificates it takes, and what attackers of TLS get."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from engine import certificates
from engine.accounts import users
from engine.accounts.records import User
from engine.app.ports import FilmroomComposition
from engine.config import Config, Http, Tls
from engine.errors import ConfigError
from engine.web import first_bytes, https
from tests.system.server import wait_for
from tests.web.hosting import Hosting, read_all
from tests.web.serving import serving
from tests.web.test_direct_body import HEALTH, statuses

HANDSHAKES_MAX = 4
CLOSING = HEALTH + b"Connection: close\r\n\r\n"
PEM = Path("server.pem")


# whether it speaks TLS ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("http", "tls", "certificates_used"),
    [
        (Http(), Tls(), None),
        (Http(host="::1"), Tls(certificates=(PEM,)), None),
        (Http(certificate=PEM), Tls(), (PEM,)),
        (Http(host="0.0.0.0", certificate=PEM), Tls(certificates=(Path("dicom.pem"),)), (PEM,)),
        (Http(host="0.0.0.0", certificate=PEM, plain=True), Tls(), (PEM,)),
        (Http(host="10.0.0.5"), Tls(certificates=(PEM,)), (PEM,)),
        (Http(host="0.0.0.0", plain=True), Tls(), None),
        (Http(host="0.0.0.0", plain=True), Tls(certificates=(PEM,)), None),
    ],
)
def test_http_speaks_tls_beyond_this_machine(http: Http, tls: Tls, certificates_used: tuple[Path, ...] | None) -> None:
    settings = https.settings_of(Config(http=http, tls=tls))
    assert (settings and settings.certificates) == certificates_used


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "pacs.hospital.example", ""])
def test_plain_http_for_others_must_be_asked_for(host: str) -> None:
    config = Config(http=Http(host=host))
    with pytest.raises(ConfigError, match="http.plain = true"):
        https.settings_of(config)
    with pytest.raises(ConfigError, match="http.plain = true"):
        FilmroomComposition().ports(lambda: config)
    disabled = msgspec.structs.replace(config, http=Http(host=host, enabled=False))
    assert [port.front for port in FilmroomComposition().ports(lambda: disabled)] == ["dicom"]


def test_the_profile_of_https_is_strict_whatever_dicom_needs() -> None:
    config = Config(http=Http(certificate=PEM, client_certificates="wanted"), tls=Tls(profile="legacy"))
    settings = https.settings_of(config)
    assert settings is not None and (settings.profile, settings.client_certificates) == ("b12", "wanted")


def test_a_hello_is_handed_over_when_it_is_whole() -> None:
    hello = b"\x16\x03\x01\x02\x00" + bytes(512)
    assert first_bytes.judge(hello[:1], is_tls=True).needed_bytes == 5
    whole = first_bytes.judge(hello[:16], is_tls=True)
    assert whole.is_complete and whole.needed_bytes == len(hello)
    assert first_bytes.judge(b"\x16\x03\x01\xff\xff", is_tls=True).problem
    assert first_bytes.judge(hello[:16], is_tls=False).problem == "TLS hello"
    assert b"HTTPS" in first_bytes.judge(b"GET / HTTP/1.1\r\n", is_tls=True).farewell


# a server with certificates of clients ------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Site:
    """An authority, and what it and others have signed."""

    folder: Path
    hosting: Hosting

    def context(self, name: str = "") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if name:
            context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        return context

    def connect(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        return context.wrap_socket(self.hosting.connect(), server_hostname="127.0.0.1")

    def ask(self, context: ssl.SSLContext) -> bytes:
        """The answer, or nothing: with TLS 1.3 a refusal comes after the client's side of the handshake."""
        try:
            with self.connect(context) as sock:
                sock.sendall(CLOSING)
                return read_all(sock)
        except (ssl.SSLError, ConnectionError):
            return b""

    def configure(self, http: Http) -> None:
        engine, front = self.hosting.engine, self.hosting.front
        config = msgspec.structs.replace(engine.config, http=http)

        def work() -> None:
            engine.configure(config)
            front.configure(config)

        self.hosting.on_loop(work)


def settings(folder: Path, **more: object) -> Http:
    own = {"certificate": folder / "pacs.pem", "key": folder / "pacs.key", "handshakes_max": HANDSHAKES_MAX}
    return Http(**{**own, "trust": (folder / "ca.pem",), "crls": (folder / "ca.crl",), **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("https")
    certificates.make_authority(folder, "A hospital")
    for name in ("pacs", "pacs-new"):
        certificates.issue(folder, name, ("127.0.0.1",))
    for name in ("alice", "stolen"):
        certificates.issue(folder, name, (f"{name}.hosp",))
    certificates.revoke(folder, folder / "stolen.pem")
    other = folder / "other"
    certificates.make_authority(other, "Another authority")
    certificates.issue(other, "foreigner", ("127.0.0.1",))
    for suffix in ("pem", "key"):
        shutil.copy(other / f"foreigner.{suffix}", folder)
    altered(folder, "expired", days=-1)
    altered(folder, "server-only", usages=[ExtendedKeyUsageOID.SERVER_AUTH])
    with serving(folder / "data", http=settings(folder, client_certificates="wanted")) as hosting:
        yield Site(folder, hosting)


def altered(folder: Path, name: str, days: int = 10, usages: list[x509.ObjectIdentifier] | None = None) -> None:
    """Alice's certificate with another end or use, signed by the authority."""
    key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    alice = x509.load_pem_x509_certificate((folder / "alice.pem").read_bytes())
    builder = x509.CertificateBuilder(alice.issuer, alice.subject, alice.public_key(), x509.random_serial_number())
    end = alice.not_valid_before_utc + timedelta(days=days)
    builder = builder.not_valid_before(end - timedelta(days=20)).not_valid_after(end)
    for extension in alice.extensions:
        value = (
            x509.ExtendedKeyUsage(usages) if usages and extension.oid.dotted_string == "2.5.29.37" else extension.value
        )
        builder = builder.add_extension(value, extension.critical)
    certificate = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    shutil.copy(folder / "alice.key", folder / f"{name}.key")


@pytest.fixture(autouse=True)
def _as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "site" in request.fixturenames:
        site: Site = request.getfixturevalue("site")
        site.configure(settings(site.folder, client_certificates="wanted"))


@pytest.mark.parametrize("name", ["stolen", "foreigner", "expired", "server-only"])
def test_a_certificate_that_is_not_good_is_refused_even_where_none_is_needed(site: Site, name: str) -> None:
    before = site.hosting.counters["http_connections_lost_early"]
    assert site.ask(site.context(name)) == b""
    wait_for(lambda: site.hosting.counters["http_connections_lost_early"] > before, what="it is counted")


def test_who_shows_a_good_certificate_is_known_by_its_names(site: Site) -> None:
    with site.connect(site.context("alice")) as sock:
        sock.sendall(HEALTH + b"\r\n")
        assert statuses(sock.recv(65536)) == ["200"]
        names = [connection.certificate_names for connection in site.hosting.front._connections]
    assert any("san:alice.hosp" in (each or ()) for each in names)
    assert any(name.startswith("sha256:") for each in names for name in each or ())


def asked(site: Site, name: str, method: str = "GET", path: str = "/api/studies", **headers: str) -> int:
    """The status of an answer on a connection with that certificate."""
    lines = "".join(f"{key.replace('_', '-')}: {value}\r\n" for key, value in headers.items())
    request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n{lines}\r\n"
    with site.connect(site.context(name)) as sock:
        sock.sendall(request.encode())
        return int(statuses(read_all(sock))[0])


def test_a_certificate_stands_for_the_user_whose_account_names_it(site: Site) -> None:
    database = site.hosting.engine.accounts.database
    users.add(database, User(name="alice", roles=("full",), certificates=("san:alice.hosp",)))
    try:
        assert asked(site, "alice") == 200
        assert (asked(site, ""), asked(site, "pacs")) == (401, 401), "nobody, and a certificate that stands for nobody"
        # Browsers show a certificate whichever page asked for it; programs have no page.
        purge = ("alice", "POST", "/api/trash/empty")
        assert asked(site, *purge) not in (401, 403)
        for foreign in ({"Sec_Fetch_Site": "cross-site"}, {"Origin": "https://evil.example"}):
            assert asked(site, *purge, **foreign) == 403
        # What changes acts at once, on connections that are open too.
        with site.connect(site.context("alice")) as sock:
            question = b"GET /api/studies HTTP/1.1\r\nHost: localhost\r\n\r\n"
            sock.sendall(question)
            assert statuses(sock.recv(65536)) == ["200"]
            users.change(database, "alice", certificates=())
            sock.sendall(question)
            assert statuses(sock.recv(65536)) == ["401"]
            users.change(database, "alice", certificates=("san:alice.hosp",), is_disabled=True)
            sock.sendall(question)
            assert statuses(sock.recv(65536)) == ["401"]
    finally:
        users.remove(database, "alice")


def test_a_required_certificate_is_required(site: Site) -> None:
    assert statuses(site.ask(site.context())) == ["200"]
    site.configure(settings(site.folder, client_certificates="required"))
    assert site.ask(site.context()) == b""
    assert statuses(site.ask(site.context("alice"))) == ["200"]


def test_a_reload_serves_the_new_certificate_and_a_broken_key_keeps_the_old_one(site: Site) -> None:
    def served() -> dict[str, object]:
        with site.connect(site.context()) as sock:
            return sock.getpeercert() or {}

    before = served()
    with site.connect(site.context()) as open_one:
        broken = site.folder / "broken.key"
        for content in (b"", b"no key", (site.folder / "pacs-new.key").read_bytes()):  # the last fits another
            broken.write_bytes(content)
            site.configure(settings(site.folder, key=broken))
            assert served() == before
        site.configure(settings(site.folder, key=site.folder / "missing.key"))
        assert served() == before
        site.configure(msgspec.structs.replace(settings(site.folder), certificate=None, key=None))
        assert served() == before, "TLS is never switched off while the server runs"
        site.configure(
            settings(site.folder, certificate=site.folder / "pacs-new.pem", key=site.folder / "pacs-new.key")
        )
        assert served() != before
        open_one.sendall(CLOSING)
        assert statuses(read_all(open_one)) == ["200"], "open connections continue"


@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (
            ssl.TLSVersion.TLSv1_2,
            "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0",
        ),
        (ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256:AES256-GCM-SHA384:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "eNULL:aNULL:@SECLEVEL=0"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_and_weak_suites_are_refused(site: Site, version: ssl.TLSVersion, ciphers: str) -> None:
    context = site.context()
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    context.set_ciphers(ciphers)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        site.connect(context).close()


def test_http_1_1_is_the_only_protocol_that_is_negotiated(site: Site) -> None:
    for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None)):
        context = site.context()
        context.set_alpn_protocols(offered)
        with site.connect(context) as sock:
            assert sock.selected_alpn_protocol() == chosen


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_resumed_past_a_newer_revocation_list(site: Site, version: ssl.TLSVersion) -> None:
    name = f"dismissed-{version.name}"
    certificates.issue(site.folder, name, ())
    context = site.context(name)
    context.minimum_version = context.maximum_version = version
    with site.connect(context) as sock:
        sock.sendall(CLOSING)
        assert statuses(read_all(sock)) == ["200"]
        session = sock.session
    certificates.revoke(site.folder, site.folder / f"{name}.pem")
    site.configure(settings(site.folder, client_certificates="wanted"))
    try:
        with context.wrap_socket(site.hosting.connect(), server_hostname="127.0.0.1", session=session) as sock:
            sock.sendall(CLOSING)
            answer = read_all(sock)
    except (ssl.SSLError, ConnectionError):
        answer = b""
    assert answer == b""


def test_half_open_handshakes_keep_nobody_out(site: Site) -> None:
    with site.connect(site.context()) as used:  # an idle connection is not closed for them
        used.sendall(HEALTH + b"\r\n")
        assert statuses(used.recv(65536)) == ["200"]
        before = site.hosting.counters["tls_handshakes_evicted"]
        half = [site.hosting.connect() for _ in range(10 * HANDSHAKES_MAX)]
        try:
            for sock in half:
                try:
                    sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
                except ConnectionError:
                    continue  # evicted already
            assert statuses(site.ask(site.context())) == ["200"]
            wait_for(
                lambda: site.hosting.counters["tls_handshakes_evicted"] >= before + 9 * HANDSHAKES_MAX, what="evictions"
            )
            assert len(site.hosting.front._handshakes) <= HANDSHAKES_MAX
        finally:
            for sock in half:
                sock.close()
        used.sendall(CLOSING)
        assert statuses(read_all(used)) == ["200"]


def test_requests_in_records_of_one_byte_are_answered_like_any_other(site: Site) -> None:
    with site.connect(site.context()) as sock:
        for letter in (HEALTH + b"\r\n") * 2 + CLOSING:
            sock.send(bytes([letter]))
        assert statuses(read_all(sock)) == ["200"] * 3


def test_a_client_that_never_confirms_the_end_is_gone_all_the_same(site: Site) -> None:
    raw = site.hosting.connect()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = site.context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with raw:
        shake(client, raw, incoming, outgoing)
        client.write(CLOSING)
        raw.sendall(outgoing.read())
        assert read_all(raw), "the answer, the server's close_notify, and in the end the end of the connection"
        wait_for(lambda: site.hosting.front.connections_count == 0, what="it is gone")


def shake(client: ssl.SSLObject, raw: socket.socket, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
    while True:
        try:
            client.do_handshake()
            raw.sendall(outgoing.read())
            return
        except ssl.SSLWantReadError:
            raw.sendall(outgoing.read())
            incoming.write(raw.recv(65536))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command")
def test_a_client_cannot_renegotiate(site: Site) -> None:
    """Each renegotiation would cost the server a handshake, and the client a few bytes."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{site.hosting.port}", "-tls1_2", "-CAfile"]
    done = subprocess.run(
        [*command, str(site.folder / "ca.pem"), "-legacy_renegotiation"],
        input=b"R\nR\n",
        capture_output=True,
        timeout=60,
    )
    said = done.stdout + done.stderr
    assert b"RENEGOTIATING" in said and b"no renegotiation" in said.lower(), said[-2000:]
    assert statuses(site.ask(site.context())) == ["200"]
