"""engine.tls: which versions and suites each profile really offers, and what a context does with its files."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine import certificates, tls
from engine.config import Tls

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "pacs.hosp"

SUITES = {
    "b12": {"GCM": {"ECDHE"}, "CHACHA20": {"ECDHE"}},
    "b13-aead": {"GCM": {"ECDHE", "DHE"}, "CHACHA20": {"ECDHE", "DHE"}, "CCM": {"ECDHE", "DHE"}},
    "legacy": {"GCM": {"ECDHE", "DHE", "RSA"}, "CHACHA20": {"ECDHE"}, "CBC": {"ECDHE", "DHE", "RSA"}},
}
"""Profile → mode of AES, or ChaCha20 → key exchanges."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    certificates.make_authority(folder, "A hospital")
    certificates.issue(folder, "ec", (NAME,))
    certificates.issue(folder, "rsa", (NAME,), "rsa")
    certificates.issue(folder, "peer", ("peer.hosp",))
    return folder


def settings(folder: Path, profile: str = "b12") -> Tls:
    names = ("ec", "rsa")
    return Tls(
        profile=profile,  # type: ignore[arg-type]
        certificates=tuple(folder / f"{name}.pem" for name in names),
        keys=tuple(folder / f"{name}.key" for name in names),
        trust=(folder / "ca.pem",),
        crls=(folder / "ca.crl",),
    )


def peer_context(folder: Path, version: ssl.TLSVersion, suites: str = "") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / "peer.pem", folder / "peer.key")
    context.set_ciphers(f"{suites or 'ALL:COMPLEMENTOFALL'}:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


def agreed(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, str]:
    """The version and the suite that both agree on; ("", ""): none."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=NAME),
    ]
    unfinished = list(sides)
    for _ in range(20):
        for side in list(unfinished):
            try:
                side.do_handshake()
                unfinished.remove(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return "", ""
        if not unfinished:
            cipher = sides[0].cipher()
            assert cipher is not None
            return str(sides[0].version()), cipher[0]
    return "", ""


def kind(cipher: dict[str, object]) -> tuple[str, str]:
    """The mode of a suite of TLS 1.2 and its key exchange."""
    name, exchange = str(cipher["name"]), str(cipher["kea"])
    modes = [mode for mode in ("GCM", "CHACHA20", "CCM") if mode in name]
    is_known = str(cipher["symmetric"]).startswith(("aes-", "chacha20"))
    mode = "another" if not is_known else modes[0] if modes else "CBC"
    known = {"kx-ecdhe": "ECDHE", "kx-dhe": "DHE", "kx-rsa": "RSA"}
    is_authenticated = str(cipher["auth"]) in ("auth-rsa", "auth-ecdsa")
    return mode, known.get(exchange, "another") if is_authenticated else "another"


@pytest.mark.parametrize("profile", SUITES)
def test_a_profile_offers_its_suites_of_tls_1_2_and_no_other(folder: Path, profile: str) -> None:
    server = tls.server_context(settings(folder, profile))
    every = [cipher for cipher in peer_context(folder, ssl.TLSVersion.TLSv1_2).get_ciphers() if "kea" in cipher]
    every = [cipher for cipher in every if cipher["protocol"] != "TLSv1.3"]
    assert len(every) > 60  # the scan knows what must be refused
    wrong = []
    for cipher in every:
        mode, exchange = kind(cipher)
        _, suite = agreed(server, peer_context(folder, ssl.TLSVersion.TLSv1_2, str(cipher["name"])))
        if (suite == cipher["name"]) != (exchange in SUITES[profile].get(mode, set())):
            wrong.append((cipher["name"], suite))
    assert not wrong


@pytest.mark.parametrize("profile", SUITES)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_a_profile_offers_tls_1_2_and_1_3_only(folder: Path, profile: str) -> None:
    server = tls.server_context(settings(folder, profile))
    versions = {version.name: agreed(server, peer_context(folder, version))[0] for version in _VERSIONS}
    assert versions == {"TLSv1": "", "TLSv1_1": "", "TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}


_VERSIONS = [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_resumed_with_a_context_that_a_reload_made(folder: Path, version: ssl.TLSVersion) -> None:
    """A resumed session has the certificate of the first handshake, which newer revocation lists do not see."""
    client = peer_context(folder, version)
    first = tls.server_context(settings(folder))
    session = _session_after(first, client, None)
    assert not session.has_ticket
    assert not _is_resumed(tls.server_context(settings(folder)), client, session)
    if version is ssl.TLSVersion.TLSv1_3:
        assert not _is_resumed(first, client, session)


def _session_after(server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession:
    side, _ = _connected(server, client, session)
    assert side.session is not None
    return side.session


def _is_resumed(server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession) -> bool:
    side, other = _connected(server, client, session)
    assert bool(side.session_reused) == bool(other.session_reused)
    return bool(side.session_reused)


def _connected(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    ours = client.wrap_bio(to_client, to_server, server_hostname=NAME, session=session)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    theirs.write(b"x")  # tickets of TLS 1.3 come with data
    assert ours.read(1) == b"x"
    return ours, theirs


def server_side(folder: Path, name: str) -> ssl.SSLObject:
    """Our end of a connection whose peer showed the certificate of that name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = tls.server_context(settings(folder)).wrap_bio(to_server, to_client, server_side=True)
    client = context.wrap_bio(to_client, to_server, server_hostname=NAME)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return server


def test_a_server_sends_its_authority_that_only_trust_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded with the certificate: a store in which OpenSSL could find it at the handshake is not needed."""
    loaded: list[bytes] = []
    load = ssl.SSLContext.load_cert_chain

    def note(context: ssl.SSLContext, path: str | Path, key: Path, password: Callable[[], str]) -> None:
        loaded.append(Path(path).read_bytes())
        load(context, path, key, password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", note)
    server = tls.server_context(settings(folder))
    monkeypatch.undo()
    authority = (folder / "ca.pem").read_bytes()
    assert [data.split() for data in loaded] == [
        (folder / f"{name}.pem").read_bytes().split() + authority.split() for name in ("ec", "rsa")
    ]
    side, _ = _connected(server, peer_context(folder, ssl.TLSVersion.TLSv1_3), None)
    assert side.version() == "TLSv1.3"


def test_each_certificate_keeps_its_own_names_and_few_are_remembered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "NAMES_MAX", 1)
    monkeypatch.setattr(tls, "_names", {})
    names: dict[str, set[frozenset[str]]] = {"peer": set(), "rsa": set()}
    for name in ("peer", "rsa", "peer", "peer"):
        names[name].add(tls.names_of(server_side(folder, name)))
        assert len(tls._names) == 1
    for name, host in (("peer", "peer.hosp"), ("rsa", NAME)):
        described = certificates.describe(folder / f"{name}.pem")[0]
        assert isinstance(described, certificates.Certificate)
        assert names[name] == {frozenset({described.fingerprint, f"san:{host}", f"cn:{name}"})}
