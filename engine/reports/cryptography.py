"""The cryptographic inventory: which module uses which algorithm for what, with key lengths, library and version.

`USES` describes them. `modules_with_cryptography` reads the sources, so that a module which `USES` does not have is in
the paper all the same, and fails a test.
"""

from __future__ import annotations

import ast
import re
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final, get_args

from engine import certificates, tls
from engine.accounts.passwords import HASHER
from engine.accounts.tokens import SESSION_BYTES
from engine.archive.copies.manifest import DIGEST_BYTES
from engine.errors import CertificateError
from engine.identity.settings import Algorithm
from engine.reports.document import Document, Section, table
from engine.reports.facts import Facts

_ENGINE: Final = Path(__file__).parent.parent
_LIBRARIES: Final = frozenset(
    {"argon2", "cryptography", "hashlib", "hmac", "joserfc", "pyotp", "secrets", "ssl", "webauthn"}
)
_NAMED: Final = re.compile(rb"\b(?:%b)\b" % "|".join(sorted(_LIBRARIES)).encode())


@dataclass(frozen=True, slots=True)
class Use:
    """One purpose of cryptography."""

    purpose: str
    algorithm: str
    bits: str
    """Of the key, or of the digest."""
    modules: tuple[str, ...]
    """Or rooms, with all their modules."""
    is_security: bool = True
    """False: a name or a test for equality, on which no protection depends."""


USES: Final = (
    Use(
        "DICOM, HL7 and replication over TLS, HTTPS, FHIR that is pushed",
        "TLS 1.2 and 1.3; the suites below",
        "128 or 256",
        (
            "engine.tls",
            "engine.net.client",
            "engine.services.front",
            "engine.web.https",
            "engine.exchange.dicomweb",
            "engine.exchange.fhir_push",
            "engine.cli.fhir",
            "engine.archive.copies.replica_tls",
            "engine.messaging",
            "engine.objects.s3_requests",
        ),
    ),
    Use(
        "Fingerprints of certificates, which bind peers",
        "SHA-256",
        "256",
        ("engine.tls",),
    ),
    Use(
        "Certificates and revocation lists of a site's own authority (`filmroom cert`)",
        f"ECDSA P-256 with SHA-256; RSA {certificates.RSA_BITS} on request",
        f"256; {certificates.RSA_BITS}",
        ("engine.certificates",),
    ),
    Use("Chain of the audit log", "SHA-256", "256", ("engine.audit",)),
    Use("Signed checkpoints of the audit log", "Ed25519", "256", ("engine.audit",)),
    Use(
        "Encrypted records (record format 2)",
        "AES-256-GCM in blocks, one key a record from HKDF-Expand with SHA-256 and a random salt",
        "256",
        ("engine.storage.encryption", "engine.storage.decryption", "engine.storage.keyring"),
    ),
    Use(
        "Data keys wrapped by the master key, which its providers wrap; the file of keys",
        "AES-256-GCM, HMAC-SHA-256; as the provider has it (file, systemd, PKCS#11, Vault)",
        "256",
        ("engine.keys",),
    ),
    Use(
        "Small files and caches beside the log of an encrypted archive",
        "AES-256-GCM, keys from HKDF-Expand with SHA-256",
        "256",
        ("engine.archive.sealing",),
    ),
    Use(
        "Objects in a bucket, if `object_store.encryption_key_file` is set",
        "AES-256-GCM in blocks, one key an object from HKDF with SHA-256",
        "256",
        ("engine.objects.encrypted_objects",),
    ),
    Use(
        "Requests to an S3 store",
        "AWS Signature Version 4: HMAC-SHA-256",
        "the store's secret",
        ("engine.objects.s3_requests",),
    ),
    Use(
        "Cursors of the page's lists, which hold values of hidden studies",
        "AES-SIV, key from HMAC-SHA-512",
        "256",
        ("engine.web.api.window_cursor",),
    ),
    Use(
        "Passwords of users",
        f"argon2id, {HASHER.memory_cost} KiB, {HASHER.time_cost} passes, {HASHER.parallelism} lane",
        str(HASHER.hash_len * 8),
        ("engine.accounts.passwords",),
    ),
    Use(
        "Tokens of sessions, keys, links and shares",
        "the system's random numbers; kept as SHA-256; HMAC-SHA-256 for short-lived ones",
        str(SESSION_BYTES * 8),
        ("engine.accounts",),
    ),
    Use("Codes of a second factor", "TOTP (RFC 6238), HMAC-SHA-1", "160", ("engine.accounts.second_factor",)),
    Use(
        "Passkeys",
        "WebAuthn: ECDSA P-256, EdDSA, RSA with SHA-256, as the authenticator has it",
        "256 and more",
        ("engine.accounts.passkeys",),
    ),
    Use(
        "Tokens of identity providers",
        ", ".join(get_args(Algorithm)),
        "the provider's keys",
        ("engine.identity.tokens", "engine.identity.key_set"),
    ),
    Use(
        "Log-in at a provider: PKCE, state, nonce, sealed cookie",
        "SHA-256, HMAC-SHA-256, the system's random numbers; TLS to the provider",
        "256",
        ("engine.identity",),
    ),
    Use("Passcodes that were verified a moment ago", "HMAC-SHA-256", "256", ("engine.services.user_identity",)),
    Use("Signatures of webhook deliveries", "HMAC-SHA-256", "the operator's secret", ("engine.web.posting",)),
    Use(
        "Manifests and ranges of backups",
        "BLAKE2b",
        str(DIGEST_BYTES * 8),
        ("engine.archive.copies", "engine.cli.copies", "engine.archive.tiering"),
    ),
    Use("The viewer's package, as npm's registry names it", "SHA-512", "512", ("engine.viewer",)),
    Use(
        "Boundaries and names that nobody can guess",
        "BLAKE2b with a key; the system's random numbers",
        "128 to 160",
        ("engine.web.multipart", "engine.web.qido", "engine.exchange.stow", "engine.archive.jobs",
         "engine.archive.interchange", "engine.archive.exports", "engine.archive.subscriptions"),
    ),
    Use(
        "Entity tags, keys of long values, identifiers that stay, comparison of instances",
        "BLAKE2b, SHA-256",
        "64 to 256",
        (
            "engine.web",
            "engine.index",
            "engine.dicom.extra",
            "engine.archive.metadata",
            "engine.archive.likeness",
            "engine.archive.reports",
            "engine.archive.receipts",
            "engine.objects.bucket",
            "engine.journal",
            "engine.orders",
            "engine.exchange.identity",
            "engine.exchange.repetition",
            "engine.exchange.fhir_push",
            "engine.archive.commitment",
            "engine.archive.lifecycle",
        ),
        is_security=False,
    ),
)  # fmt: skip


def make(facts: Facts) -> Document:
    """The inventory for the configuration in force."""
    return Document(
        "cryptography",
        "Cryptographic inventory",
        (
            Section(
                "Algorithms",
                ("Record checksums (crc32c) find damage, not attacks, and are not listed.",),
                (table("purpose | algorithm | bits | library | modules | security depends on it", _uses()),),
            ),
            Section("Libraries", tables=(table("library | version", _libraries()),)),
            Section(
                "TLS suites",
                (
                    f"Of DICOM over TLS: profile {facts.config.tls.profile}. HTTPS always uses b12."
                    " No session tickets, no compression, no renegotiation.",
                ),
                (table("suite | protocol | bits", _suites(facts)),),
            ),
            Section(
                "Certificates in use",
                tables=(table("file | role | key | ends", _certificates(facts)),),
            ),
        ),
        {"uses": len(USES)},
    )


def use_of(module: str) -> list[Use]:
    """The uses that name a module or its room; those of the longest name."""
    named = [
        (len(name), use) for use in USES for name in use.modules if module == name or module.startswith(f"{name}.")
    ]
    longest = max((length for length, _ in named), default=0)
    return [use for length, use in named if length == longest]


@cache
def modules_with_cryptography() -> dict[str, frozenset[str]]:
    """Each of our modules that imports a library of cryptography, and which."""
    found = {}
    for path in sorted(_ENGINE.rglob("*.py")):
        parts = path.relative_to(_ENGINE.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        source = path.read_bytes()
        # Nine of ten modules name none, and parsing them all takes two seconds.
        names = frozenset(_imported(source)) & _LIBRARIES if _NAMED.search(source) else frozenset()
        if names and not module.startswith("engine.reports"):
            found[module] = names
    return found


def _imported(source: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def _uses() -> Iterator[tuple[str, ...]]:
    found = modules_with_cryptography()
    for use in USES:
        modules = [module for module in found if use in use_of(module)]
        libraries = frozenset().union(*(found[module] for module in modules))
        yield (
            use.purpose,
            use.algorithm,
            use.bits,
            ", ".join(sorted(libraries)),
            ", ".join(modules),
            "yes" if use.is_security else "no",
        )
    for module in found:
        if not use_of(module):
            yield "not described", "", "", ", ".join(sorted(found[module])), module, "yes"


def _libraries() -> Iterator[tuple[str, str]]:
    from cryptography.hazmat.backends.openssl import backend

    distributions_of = metadata.packages_distributions()
    python = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    for name in sorted(frozenset().union(*modules_with_cryptography().values())):
        if name in sys.stdlib_module_names:
            yield name, f"Python {python}, {ssl.OPENSSL_VERSION if name != 'secrets' else 'the kernel (getrandom)'}"
        elif name == "cryptography":
            yield name, f"{metadata.version(name)}, {backend.openssl_version_text()}"
        else:
            yield name, metadata.version(distributions_of.get(name, [name])[0])


def _suites(facts: Facts) -> Iterator[tuple[str, str, str]]:
    for suite in tls.cipher_suites(facts.config.tls.profile):
        yield str(suite["name"]), str(suite["protocol"]), str(suite["strength_bits"])


def _certificates(facts: Facts) -> Iterator[tuple[str, str, str, str]]:
    config = facts.config
    roles = [(path, "DICOM over TLS") for path in config.tls.certificates]
    roles += [(config.http.certificate, "HTTPS")] if config.http.certificate else []
    roles += [(path, "trusted") for path in config.tls.trust]
    for path, role in roles:
        try:
            for description in certificates.describe(path):
                if isinstance(description, certificates.Certificate):
                    yield path.name, role, description.key, f"{description.expires:%Y-%m-%d}"
        except CertificateError as error:
            yield path.name, role, str(error), ""
