"""TLS contexts of DICOM (PS3.15 B.12) and of HTTPS, and the names in the other side's certificate.

    profile     versions     cipher suites of TLS 1.2 (those of TLS 1.3 are OpenSSL's)
    b12         1.2, 1.3     ECDHE with AES-GCM or ChaCha20
    b13-aead    1.2, 1.3     DHE and CCM too; B.13 also demands Camellia-GCM, and CCM in 1.3, which OpenSSL lacks
    legacy      1.2, 1.3     RSA key exchange and CBC too

Our certificate is loaded with its authorities from `trust`, unless its file has some: otherwise OpenSSL would look for
them, and verify their signatures, at each handshake.

A context never changes: a reload makes a new one, and open associations keep theirs. There are no session tickets,
since a resumed session would skip the revocation lists of a newer context.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from engine.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from engine.services.settings import Tls, TlsProfile

_SUITES = {
    "b12": "ECDHE+AESGCM:ECDHE+CHACHA20",
    "b13-aead": "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:DHE+AESGCM:DHE+CHACHA20:DHE+AESCCM:!aDSS",
    "legacy": "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:ECDHE+AES:DHE+AES:RSA+AESGCM:RSA+AES"
    ":!aNULL:!eNULL:!aDSS:!PSK:!SRP:!AESCCM",
}

_FFDHE2048 = b"""
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""The group ffdhe2048 (RFC 7919 A.1) of DHE suites, which OpenSSL does not offer by itself."""

SHUTDOWN_TIMEOUT_S = 2.0
"""Seconds for the peer's close_notify, which some never send."""

NAMES_MAX = 1024
"""Certificates whose names are kept; a site has fewer peers."""

_names: dict[bytes, frozenset[str]] = {}
"""The names in certificates seen lately, by fingerprint: decoding one costs more than all else we do at a handshake.
They are facts of the certificate, and no verdict: a reload changes none."""

_VERIFY_MODES = {"required": ssl.CERT_REQUIRED, "wanted": ssl.CERT_OPTIONAL, "off": ssl.CERT_NONE}

_CERTIFICATE_KEYS = {"tls": "tls.certificates", "http": "http.certificate"}
"""Table → the key that names our certificate."""


def server_context(settings: Tls, table: str = "tls") -> ssl.SSLContext:
    """A context for connections that others open. Raises ConfigError, which names the file and the setting.

    `table`: where the configuration has these settings.
    """
    if settings.client_certificates != "off" and not settings.trust:
        raise ConfigError(f"{table}.client_certificates needs {table}.trust, to verify them")
    context = _context(ssl.PROTOCOL_TLS_SERVER, settings, table)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.verify_mode = _VERIFY_MODES[settings.client_certificates]
    if "DHE+AESGCM" in _SUITES[settings.profile].split(":"):
        with _in_memory(_FFDHE2048) as path:
            context.load_dh_params(path)
    return context


def client_context(settings: Tls, *, checks_name: bool) -> ssl.SSLContext:
    """A context for associations that we request; `checks_name`: the peer's certificate must have its host's name.

    Raises ConfigError.
    """
    if not settings.trust:
        raise ConfigError("tls.trust is empty: a called peer's certificate cannot be verified")
    context = _context(ssl.PROTOCOL_TLS_CLIENT, settings)
    context.check_hostname = checks_name
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(protocol: ssl._SSLMethod, settings: Tls, table: str = "tls") -> ssl.SSLContext:
    own = _CERTIFICATE_KEYS[table]
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES[settings.profile])
    # A trusted certificate may be one that the peer signed itself, or an intermediate one.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    keys: Sequence[Path | None] = settings.keys or [None] * len(settings.certificates)
    for certificate, key in zip(settings.certificates, keys, strict=True):
        try:
            with _with_authorities(certificate, settings.trust) as path:
                # Without the password OpenSSL asks for a passphrase on the terminal.
                context.load_cert_chain(path, key or certificate, password=lambda: "")
        except FileNotFoundError as error:
            missing = certificate if not certificate.exists() else key
            raise ConfigError(f"{own}: there is no file {missing}") from error
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ConfigError(f"{own}: {certificate} with its key cannot be used: {error}") from error
    for path in settings.trust:
        _load(context, path, f"{table}.trust")
    for path in settings.crls:
        _load(context, path, f"{table}.crls")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


@contextmanager
def _with_authorities(certificate: Path, trust: Sequence[Path]) -> Iterator[str | Path]:
    """A file with the certificate and its authorities; `certificate` itself if it has some, or none is in `trust`."""
    # A server without TLS needs no part of cryptography that reads certificates: it takes a fifth of a second.
    from engine import certificates

    chain = certificates.chain(certificate, trust)
    if not chain:
        yield certificate
        return
    with _in_memory(chain) as path:
        yield path


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """The path of a file in memory: the ssl module reads from files only."""
    fd = os.memfd_create("filmroom-tls")
    try:
        os.write(fd, data)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _load(context: ssl.SSLContext, path: Path, setting: str) -> None:
    before = context.cert_store_stats()
    try:
        context.load_verify_locations(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{setting}: there is no file {path}") from error
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{setting}: {path} cannot be used: {error}") from error
    kind = "crl" if setting.endswith("crls") else "x509"
    if context.cert_store_stats()[kind] == before[kind]:
        what = "revocation list" if kind == "crl" else "certificate"
        raise ConfigError(f"{setting}: {path} has no new {what}")


def cipher_suites(profile: TlsProfile) -> list[Mapping[str, Any]]:
    """The suites of a profile in our order of preference, as OpenSSL describes them: name, protocol, strength_bits."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(_SUITES[profile])
    return list(context.get_ciphers())


def names_of(connection: ssl.SSLObject | ssl.SSLSocket) -> frozenset[str]:
    """The names of the verified certificate of the other side, as in a [[peer]]'s `certificates`, in lower case.

    Empty if it showed none.
    """
    certificate = connection.getpeercert(binary_form=True)
    if not certificate:
        return frozenset()
    fingerprint = hashlib.sha256(certificate).digest()
    names = _names.get(fingerprint)
    if names is None:
        names = _decoded(fingerprint, connection.getpeercert() or {})
        if len(_names) >= NAMES_MAX:
            del _names[next(iter(_names))]
        _names[fingerprint] = names
    return names


def _decoded(fingerprint: bytes, fields: Mapping[str, Any]) -> frozenset[str]:
    names = {f"sha256:{fingerprint.hex()}"}
    alternatives = cast("tuple[tuple[str, str], ...]", fields.get("subjectAltName", ()))
    names |= {f"san:{name}".lower() for _, name in alternatives}
    subject = cast("tuple[tuple[tuple[str, str], ...], ...]", fields.get("subject", ()))
    attributes = [attribute for several in subject for attribute in several]
    names |= {f"cn:{attribute[1]}".lower() for attribute in attributes if attribute[0] == "commonName"}
    return frozenset(names)
