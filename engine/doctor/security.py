"""Examines what protects the archive from others: certificates, revocation lists, open ports, peers, networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from engine.access.networks import is_loopback
from engine.accounts.records import User
from engine.certificates import Certificate, describe
from engine.config import Config
from engine.doctor import logins
from engine.doctor.finding import Finding, fault, good, warning
from engine.errors import CertificateError, ConfigError
from engine.web import https

SOON_DAYS = 30
"""An end within so many days is worth a warning: certificates are often renewed by people, who have holidays."""

_SUBJECT = "security"


def examine(config: Config, known_users: Sequence[User] | None = None) -> Iterator[Finding]:
    """One finding for each thing that is open or about to end, and one for each certificate.

    `known_users`: of a process that has the archive's accounts open; None: they are read from its folder.
    """
    yield from _certificates(config)
    yield from _ports(config)
    yield from _peers(config)
    yield from logins.examine(config, known_users)


def _certificates(config: Config) -> Iterator[Finding]:
    roles: dict[Path, str] = dict.fromkeys(config.tls.trust, "trusted")
    roles |= dict.fromkeys(config.tls.crls, "revocation list")
    roles |= dict.fromkeys(config.tls.certificates, "ours")
    roles |= dict.fromkeys(config.http.trust, "trusted for HTTPS")
    roles |= dict.fromkeys(config.http.crls, "revocation list for HTTPS")
    if config.http.certificate is not None:
        roles[config.http.certificate] = "ours, for HTTPS"
    for path, role in roles.items():
        subject = f"certificate {path.name}"
        try:
            descriptions = describe(path)
        except CertificateError as error:
            yield fault(subject, str(error), "name a PEM file, or make one with `filmroom cert`")
            continue
        for description in descriptions:
            is_certificate = isinstance(description, Certificate)
            name = description.subject if isinstance(description, Certificate) else description.issuer
            remedy = "renew it and run `filmroom reload`" if is_certificate else "get a new one, or `cert renew-crl`"
            yield _end(f"{subject} ({role}, {name})", description.expires, remedy)


def _end(subject: str, expires: datetime | None, remedy: str) -> Finding:
    if expires is None:
        return good(subject, "has no end")
    days = (expires - datetime.now(UTC)).total_seconds() / 86400
    if days <= 0:
        return fault(subject, f"has expired {-days:.0f} days ago: associations fail", remedy, days=days)
    what = f"ends in {days:.0f} days"
    return warning(subject, what, remedy, days=days) if days < SOON_DAYS else good(subject, what, days=days)


def _ports(config: Config) -> Iterator[Finding]:
    if config.tls.enabled:
        verified = (
            "peers must show a certificate"
            if config.tls.client_certificates == "required"
            else "peers may stay unknown"
        )
        yield good(_SUBJECT, f"DICOM over TLS on port {config.tls.port}: {verified}")
    if config.tls.profile == "legacy":
        advice = "replace the modality that needs it, or put it behind a gateway, and use profile b12"
        yield warning(_SUBJECT, "the TLS profile legacy allows recorded traffic to be decrypted later", advice)
    if not is_loopback(config.host):
        advice = 'enable [tls], give peers tls = "required", and let host be 127.0.0.1 when all of them use it'
        yield warning(_SUBJECT, f"DICOM without TLS is open on {config.host}:{config.dicom_port}", advice)
    yield from _http(config)


def _http(config: Config) -> Iterator[Finding]:
    http = config.http
    if not http.enabled:
        return
    where = f"{http.host}:{http.port}"
    try:
        settings = https.settings_of(config)
    except ConfigError as error:
        yield fault(_SUBJECT, str(error), "until then the server does not start")
        return
    if settings is not None:
        duty = {"off": "need no", "wanted": "may show a", "required": "must show a"}[http.client_certificates]
        yield good(_SUBJECT, f"HTTPS on {where}: clients {duty} certificate")
    elif not is_loopback(http.host):
        advice = "set http.certificate, or let only the proxy that speaks HTTPS reach this port"
        yield fault(_SUBJECT, f"HTTP without TLS is open on {where} (http.plain)", advice)


def _peers(config: Config) -> Iterator[Finding]:
    if config.accept_unknown_peers == "loopback":
        yield good(_SUBJECT, "AE titles without a [[peer]] may be used by programs on this machine only")
    elif config.accept_unknown_peers:
        yield warning(
            _SUBJECT,
            "whoever reaches the DICOM port may store, query and retrieve under any AE title",
            'configure your peers and set accept_unknown_peers = "loopback" or false',
        )
    unbound = [peer.aet for peer in config.peers if not peer.is_bound]
    if unbound:
        names = ", ".join(unbound[:10]) + (f" and {len(unbound) - 10} more" if len(unbound) > 10 else "")
        advice = 'give each networks, or tls = "required" with certificates'
        yield warning(_SUBJECT, f"whoever uses the title of these peers is taken for them: {names}", advice)
    for peer in config.peers:
        if peer.tls == "required" and not config.tls.trust:
            yield fault(
                f"peer {peer.aet}", "must be called over TLS, but tls.trust is empty", "name its authority there"
            )
