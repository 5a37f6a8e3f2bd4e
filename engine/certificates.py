"""Certificates for a site that has no authority of its own: a folder with an authority, its certificates and its CRL.

    ca.pem, ca.key          the authority, elliptic key P-256, valid for ten years
    ca.crl                  its revocation list, renewed by `revoke` and `renew_crl`
    NAME.pem, NAME.key      a certificate and its private key (mode 600)

Every certificate serves both sides: a DICOM application entity requests associations and accepts them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engine.errors import CertificateError

if TYPE_CHECKING:
    from collections.abc import Sequence

AUTHORITY = "ca"
"""The base name of the authority's files."""
AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 825
"""Longer ones are refused by some clients."""
CRL_DAYS = 400
"""A list that has expired keeps every peer out, so it lives longer than a year."""
RSA_BITS = 3072

KeyKind = Literal["ec", "rsa"]
_PEM_BLOCK = re.compile(rb"-----BEGIN (CERTIFICATE|X509 CRL)-----.*?-----END \1-----", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
_CLOCK_SKEW = timedelta(hours=1)
"""The beginning of validity lies in the past, for peers whose clock is behind."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What one certificate says."""

    path: Path
    subject: str
    names: tuple[str, ...]
    """Host names and addresses."""
    issuer: str
    key: str
    """Kind and length of its key."""
    fingerprint: str
    """SHA-256 in the form of a [[peer]]'s `certificates`."""
    expires: datetime
    is_authority: bool


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What one CRL says."""

    path: Path
    issuer: str
    updated: datetime
    expires: datetime | None
    count: int


def make_authority(folder: Path, name: str) -> Path:
    """Makes a folder with a new authority and an empty CRL; returns its certificate. Raises CertificateError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{AUTHORITY}.pem"
    if path.exists():
        raise CertificateError(f"{path} exists: an authority is not replaced, since its certificates would be lost")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = _key_usage(signs_certificates=True)
    builder = (
        _builder(subject, subject, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    _write_key(folder / f"{AUTHORITY}.key", key)
    _write(path, certificate.public_bytes(serialization.Encoding.PEM))
    _write_crl(folder, certificate, key, [])
    return path


def issue(folder: Path, name: str, host_names: tuple[str, ...], kind: KeyKind = "ec") -> Path:
    """Makes a key and a certificate of the folder's authority; returns the certificate. Raises CertificateError.

    `name`: the common name and the name of the files; `host_names`: host names and addresses.
    """
    if not _NAME.fullmatch(name) or name == AUTHORITY:
        raise CertificateError(f"{name!r} is no name for a file: letters, digits, space, dot, underscore and hyphen")
    path = folder / f"{name}.pem"
    if path.exists():
        raise CertificateError(f"{path} exists; revoke that certificate, or choose another name")
    authority, authority_key = _authority(folder)
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = (
        ec.generate_private_key(ec.SECP256R1())
        if kind == "ec"
        else rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        _builder(subject, authority.subject, key.public_key(), CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if host_names:
        names = [_general_name(each) for each in host_names]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(authority_key, hashes.SHA256())
    _write_key(folder / f"{name}.key", key)
    _write(path, certificate.public_bytes(serialization.Encoding.PEM))
    return path


def revoke(folder: Path, path: Path) -> Path:
    """Adds a certificate to the authority's CRL, and returns that. Raises CertificateError."""
    authority, authority_key = _authority(folder)
    certificate = _load(path)
    if certificate.issuer != authority.subject:
        raise CertificateError(f"{path} was not signed by the authority in {folder}")
    entries = list(_crl(folder / f"{AUTHORITY}.crl"))
    if all(entry.serial_number != certificate.serial_number for entry in entries):
        builder = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
        entries.append(builder.revocation_date(datetime.now(UTC)).build())
    return _write_crl(folder, authority, authority_key, entries)


def renew_crl(folder: Path) -> Path:
    """Writes the authority's CRL anew, with the same certificates and a later end. Raises CertificateError."""
    authority, authority_key = _authority(folder)
    return _write_crl(folder, authority, authority_key, list(_crl(folder / f"{AUTHORITY}.crl")))


def describe(path: Path) -> list[Certificate | RevocationList]:
    """What the certificates and revocation lists of a PEM file say. Raises CertificateError."""
    descriptions: list[Certificate | RevocationList] = []
    try:
        for block in _PEM_BLOCK.finditer(_read(path)):
            if block[1] == b"CERTIFICATE":
                descriptions.append(_described(path, x509.load_pem_x509_certificate(block[0])))
                continue
            crl = x509.load_pem_x509_crl(block[0])
            descriptions.append(
                RevocationList(path, crl.issuer.rfc4514_string(), crl.last_update_utc, crl.next_update_utc, len(crl))
            )
    except ValueError as error:
        raise CertificateError(f"{path} has a certificate that cannot be read: {error}") from error
    if not descriptions:
        raise CertificateError(f"{path} has no certificate and no revocation list in PEM form")
    return descriptions


# -- inside ---------------------------------------------------------------------------------------


def chain(path: Path, trusted: Sequence[Path]) -> bytes:
    """The certificate of a PEM file with those that issued it, up to the root, in PEM; `trusted`: files with these.

    Returns b"" if the file has several certificates already, or if none of `trusted` issued it. What cannot be read is
    left out: whoever uses the files says what is wrong with them.
    """
    found = _certificates_of(path)
    authorities = [each for file in trusted for each in _certificates_of(file)]
    authorities.sort(key=lambda each: each.not_valid_after_utc, reverse=True)  # of a renewed one, the newer
    if len(found) != 1:
        return b""
    while (issuer := next((each for each in authorities if _is_issued_by(found[-1], each)), None)) is not None:
        found.append(issuer)
        authorities.remove(issuer)
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in found) if len(found) > 1 else b""


def _certificates_of(path: Path) -> list[x509.Certificate]:
    try:
        data = path.read_bytes()
    except OSError:
        return []
    found = []
    for block in _PEM_BLOCK.finditer(data):
        if block[1] == b"CERTIFICATE":
            try:
                found.append(x509.load_pem_x509_certificate(block[0]))
            except ValueError:
                continue
    return found


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    is_root = certificate.issuer == certificate.subject  # a renewed one is verified by the key of the one before
    if is_root or certificate.issuer != authority.subject:
        return False
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, TypeError, ValueError, UnsupportedAlgorithm):
        return False
    return True


def _described(path: Path, certificate: x509.Certificate) -> Certificate:
    public_key = certificate.public_key()
    length = getattr(public_key, "key_size", 0)
    family = {rsa.RSAPublicKey: "RSA", ec.EllipticCurvePublicKey: "EC"}
    kind = next((name for type_, name in family.items() if isinstance(public_key, type_)), type(public_key).__name__)
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = tuple(str(name.value) for name in extension.value)
    except x509.ExtensionNotFound:
        names = ()
    try:
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    return Certificate(
        path=path,
        subject=certificate.subject.rfc4514_string(),
        names=names,
        issuer=certificate.issuer.rfc4514_string(),
        key=f"{kind} {length}",
        fingerprint=f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}",
        expires=certificate.not_valid_after_utc,
        is_authority=is_authority,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=not signs_certificates,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError as error:
        raise CertificateError(f"{text!r} is neither an address nor a host name in ASCII") from error


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = _load(folder / f"{AUTHORITY}.pem")
    path = folder / f"{AUTHORITY}.key"
    try:
        key = serialization.load_pem_private_key(_read(path), None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{path} cannot be used: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{path} is not the key of an authority that this command made")
    return certificate, key


def _load(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise CertificateError(f"{path} is no certificate in PEM form: {error}") from error


def _crl(path: Path) -> x509.CertificateRevocationList:
    try:
        return x509.load_pem_x509_crl(_read(path))
    except ValueError as error:
        raise CertificateError(f"{path} is no revocation list in PEM form: {error}") from error


def _write_crl(
    folder: Path,
    authority: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    entries: list[x509.RevokedCertificate],
) -> Path:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - _CLOCK_SKEW)
        .next_update(now + timedelta(days=CRL_DAYS))
    )
    for entry in entries:
        builder = builder.add_revoked_certificate(entry)
    path = folder / f"{AUTHORITY}.crl"
    _write(path, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(path, key.private_bytes(*form), mode=0o600)


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replaces a file in one step."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise CertificateError(f"{path} cannot be written: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CertificateError(f"there is no file {path}; `filmroom cert authority` makes an authority") from None
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}") from error
