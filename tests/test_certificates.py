"""Certificates of a site: made here, judged by openssl."""

from __future__ import annotations

import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from engine import certificates
from engine.certificates import Certificate, RevocationList
from engine.errors import CertificateError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    certificates.make_authority(tmp_path / "site", "A hospital")
    return tmp_path / "site"


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_verifies_a_certificate_for_both_sides(folder: Path, kind: certificates.KeyKind, purpose: str) -> None:
    path = certificates.issue(folder, "pacs", ("pacs.hosp", "10.0.0.1", "::1"), kind)
    by_host = ("-verify_hostname", "pacs.hosp", "-verify_ip", "10.0.0.1")
    said = openssl("verify", "-x509_strict", "-purpose", purpose, *by_host, "-CAfile", folder / "ca.pem", path)
    assert said.endswith("pacs.pem: OK\n"), said


def test_a_private_key_is_readable_by_its_owner_only(folder: Path) -> None:
    certificates.issue(folder, "pacs", ())
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.key")} == {0o600}


def test_a_revoked_certificate_stays_revoked_when_another_one_is(folder: Path) -> None:
    paths = [certificates.issue(folder, name, ()) for name in ("a", "b", "c")]
    for path in (paths[0], paths[1], paths[0]):
        certificates.revoke(folder, path)
    certificates.renew_crl(folder)
    checks = ("verify", "-crl_check", "-CAfile", folder / "ca.pem", "-CRLfile", folder / "ca.crl")
    said = [openssl(*checks, path) for path in paths]
    assert ["certificate revoked" in each for each in said] == [True, True, False], said
    (description,) = certificates.describe(folder / "ca.crl")
    assert isinstance(description, RevocationList) and description.count == 2


def test_a_description_has_the_fingerprint_that_openssl_shows(folder: Path) -> None:
    path = certificates.issue(folder, "pacs", ("pacs.hosp",))
    (description,) = certificates.describe(path)
    assert isinstance(description, Certificate)
    shown = openssl("x509", "-in", path, "-noout", "-fingerprint", "-sha256").strip().partition("=")[2]
    assert description.fingerprint == "sha256:" + shown.replace(":", "").lower()
    assert (description.names, description.key, description.is_authority) == (("pacs.hosp",), "EC 256", False)


@pytest.mark.parametrize("name", ["ca", "../pacs", "", "a/b", ".hidden", "x" * 65])
def test_a_name_that_is_no_file_name_is_refused(folder: Path, name: str) -> None:
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(CertificateError):
        certificates.issue(folder, name, ())
    assert sorted(folder.parent.rglob("*")) == before


def test_nothing_that_exists_is_replaced(folder: Path) -> None:
    path = certificates.issue(folder, "pacs", ())
    before = {each: each.read_bytes() for each in folder.iterdir()}
    with pytest.raises(CertificateError, match="exists"):
        certificates.issue(folder, "pacs", ())
    with pytest.raises(CertificateError, match="exists"):
        certificates.make_authority(folder, "Another")
    assert {each: each.read_bytes() for each in folder.iterdir()} == before and path in before


def test_a_certificate_of_another_authority_is_not_revoked(folder: Path, tmp_path: Path) -> None:
    certificates.make_authority(tmp_path / "other", "Another")
    with pytest.raises(CertificateError, match="was not signed"):
        certificates.revoke(folder, certificates.issue(tmp_path / "other", "x", ()))


@pytest.mark.parametrize("data", [b"", b"nothing", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_that_has_none_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.pem"
    path.write_bytes(data)
    with pytest.raises(CertificateError, match=r"x\.pem"):
        certificates.describe(path)
    with pytest.raises(CertificateError, match="there is no file"):
        certificates.describe(tmp_path / "missing.pem")


def test_a_chain_goes_from_the_certificate_to_the_root_and_has_no_other_authority(folder: Path, tmp_path: Path) -> None:
    """Of an authority that was made anew under its old name, only the one that signed counts."""
    path = certificates.issue(folder, "pacs", ("pacs.hosp",))
    namesake = certificates.make_authority(tmp_path / "namesake", "A hospital")
    broken = tmp_path / "broken.pem"
    broken.write_bytes(b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n" + namesake.read_bytes())
    trusted = [tmp_path / "missing.pem", broken, namesake, folder / "ca.pem"]
    whole = certificates.chain(path, trusted)
    assert whole.split() == path.read_bytes().split() + (folder / "ca.pem").read_bytes().split()
    assert certificates.chain(path, [namesake, broken]) == b""
    assert certificates.chain(folder / "ca.pem", trusted) == b""
    (tmp_path / "whole.pem").write_bytes(whole)
    assert certificates.chain(tmp_path / "whole.pem", trusted) == b""


def test_a_chain_ends_with_the_root_also_where_that_was_renewed_with_its_key(folder: Path, tmp_path: Path) -> None:
    """Each of the two verifies the other one then, and a client needs one."""
    path = certificates.issue(folder, "renewed", ("pacs.hosp",))
    root = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder().issuer_name(root.subject).subject_name(root.subject).serial_number(77)
    builder = builder.public_key(root.public_key()).not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
    expired = builder.not_valid_after(datetime(2021, 1, 1, tzinfo=UTC)).sign(key, hashes.SHA256())
    before = tmp_path / "before.pem"
    before.write_bytes(expired.public_bytes(serialization.Encoding.PEM))
    whole = certificates.chain(path, [before, folder / "ca.pem"])
    assert whole.split() == path.read_bytes().split() + (folder / "ca.pem").read_bytes().split()
