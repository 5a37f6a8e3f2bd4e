"""Security: profiles of PS3.15, and what is not claimed of them."""

from __future__ import annotations

from typing import Final

from engine import tls
from engine.access.role_settings import BUILT_IN_ROLES
from engine.audit.event import Alert, Kind
from engine.reports.document import Section, table
from engine.reports.facts import Facts
from engine.reports.safeguards import encrypted_at_rest

_CLAIMS: Final = {
    "b12": "BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile (PS3.15 B.12).",
    "b13-aead": "PS3.15 B.12. Of the Modified profile (B.13) every suite but Camellia-GCM, which OpenSSL lacks: B.13 is"
    " not claimed.",
    "legacy": "No profile that is in force: RSA key exchange and CBC are offered, too.",
}


def section(facts: Facts) -> Section:
    """All of it."""
    return Section("Security", sections=(_transport(facts), _access(facts), _audit(facts), _at_rest(facts)))


def _transport(facts: Facts) -> Section:
    settings = facts.config.tls
    state = f"Served on port {settings.port}" if settings.enabled else "Not served in this configuration"
    suites = [
        (suite["name"], suite["protocol"], suite["strength_bits"]) for suite in tls.cipher_suites(settings.profile)
    ]
    return Section(
        "Secure transport connection",
        (
            f"{_CLAIMS[settings.profile]} {state}; client certificates: {settings.client_certificates}; revocation"
            f" lists: {len(settings.crls)}. OCSP is not used. No ALPN identifier is sent on DICOM ports.",
        ),
        (table("suite | version | bits", suites),),
    )


def _access(facts: Facts) -> Section:
    configured = {role.name: role for role in (*BUILT_IN_ROLES, *facts.config.roles)}
    rows = [
        (
            role.name,
            ", ".join(role.may),
            role.studies if isinstance(role.studies, str) else "; ".join(map(str, role.studies)),
        )
        for role in configured.values()
    ]
    return Section(
        "Access control",
        (
            "An AE title may be bound to certificates and networks, and has a role. A study that a role does not reach"
            " does not exist for its user: no service names it.",
        ),
        (table("role | may | studies", rows),),
    )


def _audit(facts: Facts) -> Section:
    kinds = [(kind.value,) for kind in Kind]
    alerts = [(alert.value,) for alert in Alert]
    state = "kept" if facts.config.audit.enabled else "not kept in this configuration"
    return Section(
        "Audit trail",
        (f"An audit of the events below is {state}, in a hash-chained log; kinds and alerts follow PS3.15 A.5.",),
        (table("event", kinds), table("security alert", alerts)),
    )


def _at_rest(facts: Facts) -> Section:
    return Section("Encryption of stored data", (encrypted_at_rest(facts).text,))
