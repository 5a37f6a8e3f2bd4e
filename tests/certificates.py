"""Certificates for tests of TLS, made by openssl: self-signed, or signed by an authority of the test."""

from __future__ import annotations

import subprocess
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


def self_signed(folder: Path, name: str) -> tuple[Path, Path]:
    """Certificate and key, always in the same two files."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    _openssl("req", "-x509", *_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", certificate)
    return certificate, key


def signed(folder: Path, address: str) -> tuple[Path, Path, Path]:
    """The certificate of a new private authority; certificate and key of a server at an address, signed by it."""
    authority, authority_key = folder / "ca.pem", folder / "ca-key.pem"
    certificate, key = folder / "server.pem", folder / "server-key.pem"
    _openssl("req", "-x509", *_KEY, "-subj", "/CN=A private authority", "-keyout", authority_key, "-out", authority)
    by_authority = ("-CA", authority, "-CAkey", authority_key, "-addext", f"subjectAltName=IP:{address}")
    _openssl("req", "-x509", *_KEY, *by_authority, "-subj", "/CN=server", "-keyout", key, "-out", certificate)
    return authority, certificate, key


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
