"""TLS for a replica on another machine: our certificate, and what that of the other end must say.

Both ends show a certificate that an authority of `tls.trust` signed. That alone is not enough: every modality of the
site has one. The source checks the name of the host that it calls, or `--peer-certificate`; the replica always needs
`--peer-certificate`.

When a file changes, new connections use it, and open ones end, so that the other end is verified again: a replication
may last for months, and a certificate that was revoked meanwhile must not outlive that. If the new files are unusable,
the old ones stay in use.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine import log, tls
from engine.errors import ConfigError, ReplicationFailed, for_log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.config import Tls

logger = log.get("archive.replica_tls")

LOOK_EVERY_S = 1.0
"""How often the files are looked at while a connection is open."""

_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
"""What OpenSSL calls a first record that is none."""

_Signature = tuple[tuple[int, int, int], ...]


class Credentials:
    """One end's certificate, and the names of which the other end's certificate must have one. For many threads."""

    def __init__(self, settings: Tls, names: Sequence[str] = (), *, is_server: bool, host: str = "") -> None:
        """`names`: as a [[peer]]'s `certificates`; `host`: the name of the replica that a source calls, which its
        certificate must have if there are no `names`. Raises ReplicationFailed."""
        if not settings.certificates or not settings.trust:
            raise ReplicationFailed(
                "a replica over the network needs tls.certificates, tls.keys and tls.trust at both ends:"
                " see `filmroom cert`",
                is_final=True,
            )
        # A replication never goes without a certificate, whatever DICOM peers may do.
        self._settings = msgspec.structs.replace(settings, client_certificates="required")
        self._names = frozenset(names)
        self._is_server = is_server
        self._host = host
        self._lock = threading.Lock()
        self._looked_s = 0.0
        self._signature = self._look()
        self._version = 0
        try:
            self._context = self._make()
        except ConfigError as error:
            raise ReplicationFailed(str(error), is_final=True) from error

    def secure(self, sock: socket.socket) -> tuple[ssl.SSLSocket, int]:
        """A connection that has not shaken hands yet, and the version of the files that it uses."""
        with self._lock:
            self._renew()
            context, version = self._context, self._version
        host = None if self._is_server else self._host
        secured = context.wrap_socket(
            sock, server_side=self._is_server, server_hostname=host, do_handshake_on_connect=False
        )
        return secured, version

    def judge(self, sock: ssl.SSLSocket) -> None:
        """Checks the names in the other end's certificate, after the handshake. Raises ReplicationFailed."""
        names = tls.names_of(sock)
        if self._names and names.isdisjoint(self._names):
            shown = ", ".join(sorted(names)) or "none"
            raise ReplicationFailed(f"the other end's certificate is not one of --peer-certificate; it has {shown}")

    def is_current(self, version: int) -> bool:
        """Whether the files are still those of that version; looks at them every now and then."""
        with self._lock:
            if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
                self._renew()
            return version == self._version

    def _renew(self) -> None:
        self._looked_s = time.monotonic()
        signature = self._look()
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._context = self._make()
        except ConfigError as error:
            logger.error("the TLS files cannot be used; the old ones remain", error=for_log(error))
            return
        self._version += 1
        logger.info("the TLS files were read again")

    def _make(self) -> ssl.SSLContext:
        if self._is_server:
            return tls.server_context(self._settings)
        return tls.client_context(self._settings, checks_name=not self._names)

    def _look(self) -> _Signature:
        """What shows a change of the files; a missing file is a change too."""
        settings = self._settings
        paths: list[Path] = [*settings.certificates, *settings.keys, *settings.trust, *settings.crls]
        return tuple(_look_at(path) for path in paths)


def _look_at(path: Path) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def shake_hands(sock: ssl.SSLSocket, timeout_s: float) -> None:
    """The handshake, within one deadline. Raises ReplicationFailed."""
    sock.settimeout(timeout_s)
    try:
        sock.do_handshake()
    except OSError as error:
        raise ReplicationFailed(reason(error)) from error


def reason(error: OSError) -> str:
    """Why a connection failed, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the other end's certificate is not trusted: {error.verify_message}"
    if not isinstance(error, ssl.SSLError):
        return f"the connection is lost: {error.strerror or error}"
    what = str(error.reason or error)
    if what in _NO_TLS:
        return "the other end speaks no TLS; both ends must be of this version of filmroom"
    side, _, alert = what.rpartition("ALERT_")
    what = (alert if side else what).lower().replace("_", " ")
    return f"the other end refuses the connection: {what}" if side else f"TLS failed: {what}"
