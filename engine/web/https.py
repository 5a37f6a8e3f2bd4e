"""Whether the HTTP port speaks TLS, and with which certificates.

    http.certificate is set               HTTPS with it
    else host is loopback, or plain       plain HTTP
    else tls.certificates are set         HTTPS with these
    else                                  a mistake: passwords and images would be readable on the network

Versions and suites are those of DICOM over TLS in its strict profile (`engine.tls`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine import tls
from engine.access.networks import is_loopback
from engine.errors import ConfigError

if TYPE_CHECKING:
    import ssl

    from engine.config import Config
    from engine.services.settings import Tls


def settings_of(config: Config) -> Tls | None:
    """The TLS settings of the HTTP port; None: it speaks plain HTTP. Raises ConfigError."""
    http = config.http
    own = http.certificate is not None
    if not own and (http.plain or is_loopback(http.host)):
        return None
    if not own and not config.tls.certificates:
        raise ConfigError(
            f"http.host is {http.host}, where others could read passwords and images on their way: set "
            'http.certificate and http.key (`filmroom cert` makes them), or http.host = "127.0.0.1", or '
            "http.plain = true where a proxy in front speaks HTTPS"
        )
    return replace(
        config.tls,
        enabled=False,  # of DICOM
        certificates=(http.certificate,) if http.certificate is not None else config.tls.certificates,
        keys=(() if http.key is None else (http.key,)) if own else config.tls.keys,
        trust=http.trust or config.tls.trust,
        crls=http.crls or config.tls.crls,
        profile="b12",
        client_certificates=http.client_certificates,
    )


def server_context(settings: Tls) -> ssl.SSLContext:
    """A context with the current content of the files. Raises ConfigError."""
    context = tls.server_context(settings, "http")
    context.set_alpn_protocols(["http/1.1"])
    return context
