"""The TLS context of the HTTPS port."""

from __future__ import annotations

import ssl
from pathlib import Path

from engine.errors import ConfigError


def server_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """A context with the current content of the certificate's files. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without this, OpenSSL asks for a passphrase on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except FileNotFoundError as error:
        missing = certificate if not certificate.exists() else key
        raise ConfigError(f"http.certificate: there is no file {missing}") from error
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(f"http.certificate: {certificate} with its key cannot be used: {error}") from error
    return context
