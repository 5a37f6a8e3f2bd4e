"""A hospital's certificates, made by the code behind `filmroom cert`, and peers that use them against a server."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from engine import certificates
from tests import peer
from tests.peer import EXPLICIT, VERIFICATION, Peer
from tests.system.server import Server

HANDSHAKES_MAX = 8
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True)
class Site:
    """The authority of a hospital, and an attacker's."""

    folder: Path

    def server_settings(self, more: str = "") -> str:
        """[tls] of the server."""
        return (
            "[tls]\nenabled = true\nhost = '127.0.0.1'\nport = 0\n"
            f"certificates = ['{self.folder}/pacs.pem', '{self.folder}/pacs-rsa.pem']\n"
            f"keys = ['{self.folder}/pacs.key', '{self.folder}/pacs-rsa.key']\n"
            f"trust = ['{self.folder}/ca.pem']\ncrls = ['{self.folder}/ca.crl']\nhandshakes_max = {HANDSHAKES_MAX}\n"
            f"{more}\n"
        )

    def context(self, name: str = "", *, server: bool = False) -> ssl.SSLContext:
        """A peer's context with the certificate of that name; "": without one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        if name:
            context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        return context


def made_site(folder: Path) -> Site:
    """A new one; `stolen` is revoked, `foreigner` is of another authority."""
    certificates.make_authority(folder, "A hospital")
    certificates.issue(folder, "pacs", ("127.0.0.1", "localhost"))
    certificates.issue(folder, "pacs-rsa", ("127.0.0.1", "localhost"), "rsa")
    for name in ("ct1", "ct2", "stolen"):
        certificates.issue(folder, name, (f"{name}.hosp",))
    certificates.issue(folder, "sink", ("127.0.0.1",))
    certificates.revoke(folder, folder / "stolen.pem")
    other = folder / "other"
    certificates.make_authority(other, "Another authority")
    certificates.issue(other, "foreigner", ("127.0.0.1",))
    for suffix in ("pem", "key"):
        shutil.copy(other / f"foreigner.{suffix}", folder)
    return Site(folder)


def issue_odd(site: Site, name: str, *, days: int = 30, usage: ObjectIdentifier = CLIENT_AUTH) -> None:
    """A certificate of the site's authority that ends in so many days, for one use."""
    authority = x509.load_pem_x509_certificate((site.folder / "ca.pem").read_bytes())
    authority_key = serialization.load_pem_private_key((site.folder / "ca.key").read_bytes(), None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=90))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    certificate = builder.sign(authority_key, hashes.SHA256())
    (site.folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (site.folder / f"{name}.key").write_bytes(key.private_bytes(*form))


def configuration(site: Site, more: str = "", tls: str = "") -> str:
    """CT1 is bound to its certificate; everybody else may come with any certificate of the authority."""
    return (
        f'{site.server_settings(tls)}\n[[peer]]\naet = "CT1"\ntls = "required"\ncertificates = ["san:ct1.hosp"]\n{more}'
    )


def tls_port(server: Server) -> int:
    found = re.search(r"dicom-tls://[^:]+:(\d+)/", server.ready_line)
    assert found, server.ready_line
    return int(found[1])


def dial(server: Server, context: ssl.SSLContext) -> Peer:
    """A scripted peer after its handshake."""
    sock = socket.create_connection(("127.0.0.1", tls_port(server)), 20)
    return Peer(0, timeout_s=20, sock=context.wrap_socket(sock, server_hostname="127.0.0.1"))


def is_served(server: Server, context: ssl.SSLContext, calling: str = "ANYBODY") -> bool:
    """Whether a peer with this context and title is answered C-ECHO; with TLS 1.3 a refusal comes after its hello."""
    try:
        with dial(server, context) as script:
            script.associate((1, VERIFICATION, [EXPLICIT]), calling=calling)
            script.send(peer.message(1, peer.c_echo_rq(1)))
            return script.expect_message().status() == 0
    except (OSError, peer.Closed, AssertionError):
        return False


def counter(server: Server, name: str) -> int:
    """A counter of the worker."""
    (worker,) = server.stats()["workers"]  # type: ignore[misc]
    return int(worker["counters"].get(name, 0))


def rejection(server: Server, context: ssl.SSLContext | None, calling: str) -> tuple[int, int, int]:
    """Result, source and reason of the A-ASSOCIATE-RJ for that title."""
    with Peer(server.port) if context is None else dial(server, context) as script:
        script.send(peer.associate_rq([(1, VERIFICATION, [EXPLICIT])], calling=calling))
        body = script.expect(peer.ASSOCIATE_RJ)
        return body[1], body[2], body[3]
